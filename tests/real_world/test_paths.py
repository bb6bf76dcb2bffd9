"""`~` and environment variables in the paths of a study are replaced when it is loaded, and make no folder."""

import json

import pytest

from slimdiff import stages
from slimdiff.config import ConfigError, load_study, study_from_mapping

PATHS = ["results_dir", "data.root", "data.table", "data.mask_root", "generation.counts"]


def values_of(key: str, path: str) -> dict:
    *sections, last = key.split(".")
    values = {"data": {"source": "bids", "root": "bids"}}
    place = values
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = path
    return values


def read(study, key: str):
    for part in key.split("."):
        study = getattr(study, part)
    return study


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HOME", "/people/ada")
    monkeypatch.setenv("SCRATCH", "/fast/ada")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("ABSENT", raising=False)


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/data", "/people/ada/data"),
        ("~", "/people/ada"),
        ("$SCRATCH/data", "/fast/ada/data"),
        ("${SCRATCH}/a", "/fast/ada/a"),
        ("a/$SCRATCH", "a//fast/ada"),
        ("plain/ö ~/x$", "plain/ö ~/x$"),
    ],
)
def test_home_and_variables_are_replaced(key, written, meant):
    assert read(study_from_mapping(values_of(key, written)), key) == meant


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$ABSENT/data", "variable ABSENT is not set"),
        ("${ABSENT}/data", "variable ABSENT is not set"),
        # Otherwise the path would begin at the root of the file system.
        ("$EMPTY/data", "variable EMPTY is empty"),
        ("~nobody-of-this-name/data", "no user '~nobody-of-this-name'"),
    ],
)
def test_what_cannot_be_replaced_is_named_with_its_key(key, written, said):
    with pytest.raises(ConfigError) as caught:
        study_from_mapping(values_of(key, written), "study.yaml")
    for part in ("study.yaml: ", key, said):
        assert part in str(caught.value)


@pytest.mark.parametrize("folder", ["out/{a}", "out/<results>", "a>b", "-rf", "--config"])
def test_what_snakemake_or_a_command_would_read_is_refused(folder):
    with pytest.raises(ConfigError, match=r"results_dir: expected a path without"):
        study_from_mapping({"results_dir": folder})


def test_a_rule_s_stage_gets_the_replaced_paths(tmp_path, monkeypatch):
    """A node of a cluster may have another environment than the one that started the workflow."""
    path = tmp_path / "study.json"
    path.write_text(
        json.dumps(values_of("results_dir", "$SCRATCH/out") | {"data": {"source": "bids", "root": "~/b"}})
    )
    text = stages.config_of("participants", load_study(path))
    monkeypatch.delenv("SCRATCH")
    monkeypatch.setenv("HOME", "/people/eve")
    study = load_study(text)
    assert (study.results_dir, study.data.root) == ("/fast/ada/out", "/people/ada/b")
    assert str(study.paths.participants) == "/fast/ada/out/study/participants.tsv"
