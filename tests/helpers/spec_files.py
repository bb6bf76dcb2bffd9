"""Specifications of samples for the tests, as files in a folder that has to stay as it is when one is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny_training import DATA_SPEC, MODEL

from slimdiff.generation.spec import SpecError, run_spec
from slimdiff.model.checkpoint import ModelCard

DETAILED = {
    "checkpoint_path": "model.safetensors",
    "output_dir": "drawn",
    "format": "detailed",
    "samples": [{"zbin": 0, "control": 1, "lesion": 2}, {"zbin": 2, "control": 0, "lesion": 3}],
}
COMPACT = {
    "checkpoint_path": "model.safetensors",
    "output_dir": "drawn",
    "format": "compact",
    "defaults": {"control": 2, "lesion": 1, "zbins": "0-2"},
    "overrides": [{"zbin": 1, "control": 0, "lesion": 4}],
}
COUNTS = {"control": 1, "lesion": 1}


def changed(base: dict, **changes) -> dict:
    return {**base, **changes}


def without(base: dict, key: str) -> dict:
    return {name: value for name, value in base.items() if name != key}


def samples(*entries) -> dict:
    return changed(DETAILED, samples=list(entries))


def first(**changes) -> dict:
    return samples({"zbin": 0, **COUNTS, **changes}, {"zbin": 1, **COUNTS})


def zbins(value) -> dict:
    return changed(without(COMPACT, "overrides"), defaults={**COUNTS, "zbins": value})


def overrides(*bins, zbins="0-2") -> dict:
    entries = [{"zbin": z, **COUNTS} for z in bins]
    return changed(COMPACT, defaults={**COUNTS, "zbins": zbins}, overrides=entries)


def write(folder: Path, content: dict | str | bytes, name: str = "spec.json") -> Path:
    if isinstance(content, dict):
        content = json.dumps(content)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(name)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(spec, folder: Path) -> list[str]:
    """The lines of the refusal; nothing in the folder has changed."""
    path = write(folder, spec)
    before = tree(folder)
    with pytest.raises(SpecError) as found:
        run_spec(path)
    assert tree(folder) == before
    return str(found.value).split("\n")


def fault(spec: dict, folder: Path) -> tuple[str, str]:
    """Place and text of the only fault."""
    (line,) = refused(spec, folder)
    place, text = line.removeprefix("spec.json#").split(": ", 1)
    return place, text


def card_of(**changes) -> ModelCard:
    """The card of a network of three z-bins of 8 x 8 px, with `changes` of its data."""
    return ModelCard(
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
