"""The stage cache where the study harmonises intensities, on the tiny study's volumes."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from slimdiff import cli
from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_participants, write_participants
from slimdiff.data.store import SliceStore
from slimdiff.report.participants import participants_body, read_records


@pytest.fixture
def harmonised(prepared, tmp_path) -> Study:
    """The tiny study with `harmonise: histogram`, its volumes and folds made, its slices not."""
    root = tmp_path / prepared.study
    root.mkdir()
    for name in ("participants.tsv", "folds.tsv", "volumes"):
        (root / name).symlink_to(prepared.paths.root / name)
    values = prepared.model_dump(mode="json") | {"results_dir": str(tmp_path)}
    values["preprocess"]["harmonise"] = "histogram"
    return Study.model_validate_json(json.dumps(values))


def test_slices_are_harmonised_and_the_report_names_the_source_of_the_landmarks(harmonised, store, capsys):
    assert cli.run_stage("cache", ["--config", harmonised.model_dump_json()]) == 0
    assert "histogram landmarks: learned from 8 all included participants" in capsys.readouterr().err
    found = SliceStore.open(harmonised.paths.store)
    assert found.participant.tolist() == store.participant.tolist()
    np.testing.assert_array_equal(found.masks, store.masks)
    assert not np.array_equal(found.images, store.images)
    # Subjects differ less in their mean intensity than before.
    spread = [
        np.std([of.images[of.participant == name].astype(np.float32).mean() for name in set(of.participant)])
        for of in (found, store)
    ]
    assert spread[0] < spread[1]
    people = read_participants(harmonised.paths.participants)
    splits = [read_folds(harmonised.paths.folds, fold) for fold in range(harmonised.folds.k)]
    records = read_records(
        {row.participant_id: harmonised.paths.volume_json(row.participant_id) for row in people}
    )
    page = participants_body(people, records, splits, found)
    assert "histogram landmarks, learned from" in page


def test_z_bins_without_training_lesions_are_named_by_the_priors(harmonised, capsys):
    values = harmonised.model_dump(mode="json")
    values["slices"] |= {"z_range": [8, 23], "n_bins": 4}  # lesions are between z = 12 and 20
    config = ["--config", json.dumps(values)]
    # The folds are not read by the stage cache: its rule does not wait for them.
    folds = harmonised.paths.folds.rename(harmonised.paths.folds.with_name("kept.tsv"))
    assert cli.run_stage("cache", config) == 0
    folds.rename(harmonised.paths.folds)
    assert "training subjects have a lesion" not in capsys.readouterr().err
    found = SliceStore.open(harmonised.paths.store)
    for fold in range(harmonised.folds.k):
        assert cli.run_stage("priors", [*config, "--fold", str(fold)]) == 0
        named = [line for line in capsys.readouterr().err.splitlines() if "subjects have a lesion" in line]
        train = read_folds(harmonised.paths.folds, fold)["train"]
        lesion = (found.label == 1) & np.isin(found.participant, train)
        counts = [len(set(found.participant[lesion & (found.z_bin == z_bin)])) for z_bin in range(4)]
        few = ", ".join(f"{z_bin} ({count})" for z_bin, count in enumerate(counts) if count < 2)
        assert few and len(named) == 1
        assert re.match(f"fold {fold}: z-bins in which fewer than 2 .*: {re.escape(few)};", named[0])


def test_landmarks_are_learned_without_the_test_subjects_of_a_split(harmonised, capsys):
    table = read_participants(harmonised.paths.participants)
    harmonised.paths.participants.unlink()
    marked = [replace(row, split="test" if i == 0 else "train") for i, row in enumerate(table)]
    write_participants(harmonised.paths.participants, marked)
    values = harmonised.model_dump(mode="json")
    values["folds"]["use_split"] = True
    assert cli.run_stage("cache", ["--config", json.dumps(values)]) == 0
    facts = SliceStore.open(harmonised.paths.store).facts["harmonise"]
    assert facts["participants"] == [row.participant_id for row in table[1:]]
    assert facts["learned_from"] == "training subjects of the split"
