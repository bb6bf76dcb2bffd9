"""The published schema and key reference match the configuration models."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from slimdiff.key_reference import REFERENCE, SCHEMA, reference, schema

ROOT = Path(__file__).parents[1]
HINT = "run python -m slimdiff.key_reference"


def test_the_schema_is_current():
    assert (ROOT / SCHEMA).read_text(encoding="utf-8") == schema(), HINT


def test_the_reference_is_current():
    assert (ROOT / REFERENCE).read_text(encoding="utf-8") == reference(), HINT


def test_every_key_has_a_description():
    rows = [line for line in reference().splitlines() if re.match(r"\| `\w+` \|", line)]
    assert len(rows) > 60
    assert not [row for row in rows if row.rstrip().endswith("|  |")]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_valid(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema()))


def test_the_schema_refuses_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"model": {"chanels": [64]}}, json.loads(schema()))


def test_the_environments_have_the_pinned_versions():
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "envs" / "constraints.txt").read_text(), re.MULTILINE)
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    alias = {"pytorch-cpu": "torch", "pytorch-gpu": "torch"}
    for name in ("cpu", "cuda"):
        text = (ROOT / "envs" / f"{name}.yaml").read_text()
        found = re.findall(r"- ([\w.-]+)=?=([\d.]+)$", text, re.MULTILINE)
        found = [(alias.get(package, package), version) for package, version in found if package != "python"]
        assert len(found) > 12
        assert all(pins[package] == version for package, version in found), name
