"""A folder with a checkpoint, and studies in it, for specifications to name."""

import json
from pathlib import Path

import pytest
import torch
from helpers.spec_files import card_of

from slimdiff.model.checkpoint import build_network, save_model


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, in which the specification's paths are looked for."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoint(here) -> Path:
    """A model of three z-bins of 8 x 8 px, never trained, in the current folder."""
    torch.manual_seed(0)
    card = card_of()
    weights = dict(build_network(card.model, card.data).named_parameters())
    save_model(
        here / "model.safetensors", {k: v + 0.05 * torch.randn_like(v) for k, v in weights.items()}, card
    )
    return Path("model.safetensors")


@pytest.fixture
def study(here):
    def write_study(name="study.json", generation=None, **sections) -> str:
        values = {"generation": {"evaluations": 4, "device": "cpu", **(generation or {})}, **sections}
        (here / name).write_text(json.dumps(values))
        return name

    return write_study
