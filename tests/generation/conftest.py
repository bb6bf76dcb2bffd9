"""A folder with a checkpoint and studies for sample specifications."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny_training import DATA_SPEC, MODEL

from slimdiff.model.checkpoint import ModelCard, build_network, save_model


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder; paths of a specification are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def save_checkpoint(here):
    """Write an untrained model of three z-bins of 8 x 8 px, with `changes` of its data."""

    def save(**changes) -> Path:
        torch.manual_seed(0)
        card = ModelCard(
            model=MODEL.model_dump(mode="json"),
            diffusion={"schedule": "cosine", "timesteps": 1000, "prediction": "x0"},
            training={},
            data=replace(DATA_SPEC, **changes),
            spacing_mm=6.0,
            z_range=(0, 2),
            study="tiny",
            variant="base",
            fold=1,
            step=7,
            data_hash="a",
            precision="float32",
            versions={},
        )
        weights = dict(build_network(card.model, card.data).named_parameters())
        noisy = {name: value + 0.05 * torch.randn_like(value) for name, value in weights.items()}
        save_model(here / "model.safetensors", noisy, card)
        return Path("model.safetensors")

    return save


@pytest.fixture
def checkpoint(save_checkpoint) -> Path:
    """That model in the current folder."""
    return save_checkpoint()


@pytest.fixture
def study(here):
    def write_study(name="study.json", generation=None, **sections) -> str:
        values = {"generation": {"evaluations": 4, "device": "cpu", **(generation or {})}, **sections}
        (here / name).write_text(json.dumps(values))
        return name

    return write_study
