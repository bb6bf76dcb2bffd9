"""The RO-Crate of a study's folder."""

import json
from pathlib import Path

import pytest

from slimdiff.files import sha256
from slimdiff.stages import provenance


@pytest.fixture(scope="module")
def crate(finished) -> dict[str, dict]:
    provenance.run(finished, None)
    content = json.loads(finished.paths.crate.read_text())
    assert content["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in content["@graph"]}
    assert len(entities) == len(content["@graph"])
    return entities


def references(value) -> set[str]:
    """Every `@id` that a value refers to."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if isinstance(value, dict):
        return {value["@id"]} if set(value) == {"@id"} else set().union(*map(references, value.values()))
    return set()


def test_every_reference_leads_to_an_entity_or_to_the_web(crate):
    named = set().union(*(references(entity) for entity in crate.values()))
    assert all(name in crate or name.startswith("https://w3id.org/") for name in named)
    described = references(crate["ro-crate-metadata.json"]["about"])
    assert described == {"./"} and crate["./"]["license"]["@id"] in crate
    # Nothing lies about without a reference.
    assert set(crate) - named == {"ro-crate-metadata.json"}


def test_its_files_are_there_with_their_hashes(finished, crate):
    root = finished.paths.root
    files = [entity for entity in crate.values() if entity["@type"] == "File"]
    assert {entity["@id"] for entity in files} == {
        "provenance.json",
        "tables/methods.md",
        *(f"models/{v}/fold-{k}/model.safetensors" for v in ("base", "other") for k in (0, 1)),
    }
    for entity in files:
        assert int(entity["contentSize"]) == (root / entity["@id"]).stat().st_size
        if "sha256" in entity:
            assert entity["sha256"] == sha256(root / entity["@id"])


def test_it_says_what_ran_and_when(finished, crate):
    facts = json.loads(finished.paths.provenance.read_text())
    assert crate["#run"]["endTime"] == crate["./"]["datePublished"] == facts["written"]
    assert crate["#slimdiff"]["version"].startswith(facts["software"]["slimdiff"])
    assert crate["https://pypi.org/project/torch/"]["version"] == facts["software"]["packages"]["torch"]
    assert crate["./"]["name"] == finished.report.title
    assert crate["./"]["description"] == finished.report.notice


def test_it_names_no_folder_of_the_machine(finished, crate):
    text = finished.paths.crate.read_text()
    for folder in (Path.home(), finished.paths.root.parent, finished.data.root):
        assert str(folder) not in text
