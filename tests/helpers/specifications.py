"""Generation specifications of both forms, and how they are checked."""

import json
from pathlib import Path

import pytest

from slimdiff.config import ConfigError
from slimdiff.generation.spec import plan, spec_from_values
from slimdiff.stages.commands.generate_spec import run_spec

ROOT = Path(__file__).parents[2]
COUNTS = {"control": 1, "lesion": 1}
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
# The two forms from the README of the reference, section "Generate Samples".
SHARED = {
    "checkpoint_path": "/model.ckpt",
    "config_path": "src/jsddpm.yaml",
    "output_dir": "./outputs/run_001",
}
REFERENCE = [
    {
        **SHARED,
        "seed": 42,
        "device": "cuda",
        "format": "detailed",
        "samples": [{"zbin": 0, "control": 10, "lesion": 5}, {"zbin": 10, "control": 15, "lesion": 15}],
    },
    {
        **SHARED,
        "seed": 123,
        "device": "cuda",
        "format": "compact",
        "defaults": {"control": 10, "lesion": 10, "zbins": "all"},
        "overrides": [{"zbin": 0, "control": 5, "lesion": 2}, {"zbin": 29, "control": 5, "lesion": 2}],
    },
]


def detailed(**changes) -> dict:
    return {**DETAILED, **changes}


def compact(**changes) -> dict:
    return {**COMPACT, **changes}


def without(base: dict, key: str) -> dict:
    return {name: value for name, value in base.items() if name != key}


def samples(*entries) -> dict:
    return detailed(samples=list(entries))


def first(**changes) -> dict:
    return samples({"zbin": 0, **COUNTS, **changes}, {"zbin": 1, **COUNTS})


def zbins(value) -> dict:
    return compact(defaults={**COUNTS, "zbins": value}, overrides=[])


def overrides(*bins, zbins="0-2") -> dict:
    return compact(defaults={**COUNTS, "zbins": zbins}, overrides=[{"zbin": z, **COUNTS} for z in bins])


def planned(spec: dict):
    return plan(spec_from_values(spec), Path("spec.json"))


def write(folder: Path, content: dict | str | bytes, name: str = "spec.json") -> Path:
    if isinstance(content, dict):
        content = json.dumps(content)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(name)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(spec, folder: Path, **options) -> list[str]:
    """The lines of the error message, without the file name; the folder must not change."""
    path = write(folder, spec)
    before = tree(folder)
    with pytest.raises(ConfigError) as found:
        run_spec(path, **options)
    assert tree(folder) == before
    lines = str(found.value).split("\n")
    assert all(line.startswith("spec.json: ") for line in lines)
    return [line.removeprefix("spec.json: ") for line in lines]


def problem(spec: dict, folder: Path) -> tuple[str, str]:
    """Place and text of the only problem."""
    (line,) = refused(spec, folder)
    place, text = line.split(": ", 1)
    return place, text


def places(lines: list[str]) -> list[str]:
    return [line.split(": ")[0] for line in lines]


REQUIRED = "this key is required, but missing"
WHOLE = "expected a whole number"
ITEM = 'expected a z-bin from 0 to 9999 or a rising range such as "0-9", found '
ZBINS = 'expected "all", a rising range such as "0-9", or a list of z-bins and ranges, found '
PATH = "expected a path that begins with neither a space nor ~, which is not expanded here, found "
OBJECT = "expected a mapping of keys"
NO_COUNT = "expected at least one count above 0, found none"
FORM = 'expected "detailed" or "compact", found '
