"""Folds: nobody is in two parts, everybody is tested once, and what is promised about strata holds."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from slimdiff.config import ConfigError
from slimdiff.config.folds import FoldsConfig
from slimdiff.data.folds import make_folds, read_folds, training_participants, write_folds
from slimdiff.data.participants import DataError, Participant

NOWHERE = Path("nowhere")


def cohort(patients: int, controls: int, seed: int = 0, **more):
    """Participants with random acquisitions, lobes and lesion volumes."""
    rng = np.random.default_rng(seed)
    rows, volumes = [], {}
    for number in range(patients + controls):
        name = f"sub-{number:03d}"
        patient = number < patients
        fields = {
            "acquisition": str(rng.choice(["T2sel", "tse"])) if patient else "T2sel",
            "lobe": str(rng.choice(["TL", "FL", "OL"])) if patient else "n/a",
            **{key: values[number] for key, values in more.items()},
        }
        rows.append(Participant(name, "g", NOWHERE, NOWHERE if patient else None, **fields))
        volumes[name] = float(rng.lognormal(1, 1)) if patient else 0.0
    return rows, volumes


def by_fold(rows) -> dict[int, dict[str, set[str]]]:
    parts: dict[int, dict[str, set[str]]] = {}
    for row in rows:
        fold = parts.setdefault(row["fold"], {"train": set(), "val": set(), "test": set()})
        fold[row["split"]].add(row["participant"])
    return parts


CASES = [
    (p, c, k, seed)
    for p, c, k in [
        (2, 0, 2),
        (3, 1, 3),
        (4, 0, 2),
        (6, 2, 2),
        (5, 3, 5),
        (7, 1, 4),
        (20, 6, 2),
        (85, 85, 3),
        (3, 9, 3),
    ]
    for seed in range(3)
]


@pytest.mark.parametrize(("patients", "controls", "k", "seed"), CASES)
def test_folds_are_sound(patients, controls, k, seed):
    participants, volumes = cohort(patients, controls, seed)
    rows = make_folds(participants, volumes, FoldsConfig(k=k, seed=seed))
    everybody = {p.participant_id for p in participants}
    with_lesion = {p.participant_id for p in participants if p.is_patient}
    assert Counter((row["participant"], row["fold"]) for row in rows) == Counter(
        (name, fold) for name in everybody for fold in range(k)
    )
    parts = by_fold(rows)
    assert sorted(parts) == list(range(k))
    tested = Counter()
    for part in parts.values():
        assert part["train"] | part["val"] | part["test"] == everybody
        assert sum(len(names) for names in part.values()) == len(everybody)
        assert part["test"] & with_lesion, "a test part without a patient measures nothing"
        assert part["train"] & with_lesion, "a training part without a patient learns no lesion"
        tested.update(part["test"])
        rest = len(everybody) - len(part["test"])
        assert len(part["val"]) == (0 if rest < 4 else max(1, round(0.15 * rest)))
    assert tested == Counter(everybody)
    sizes = [len(part["test"]) for part in parts.values()]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("stratify_by", [[], ["acquisition"], ["lobe", "acquisition"], ["lesion_tercile"]])
@pytest.mark.parametrize("seed", range(12))
def test_every_test_part_has_a_patient_whatever_the_strata(stratify_by, seed):
    participants, volumes = cohort(3, 9, seed)
    rows = make_folds(participants, volumes, FoldsConfig(k=3, seed=seed, stratify_by=tuple(stratify_by)))
    with_lesion = {p.participant_id for p in participants if p.is_patient}
    for part in by_fold(rows).values():
        assert part["test"] & with_lesion
        assert part["train"] & with_lesion


@pytest.mark.parametrize("seed", range(5))
def test_strata_are_spread_evenly(seed):
    participants, volumes = cohort(40, 20, seed)
    rows = make_folds(participants, volumes, FoldsConfig(k=3, seed=seed))
    held = rows[0]["stratified_by"].split(",")
    assert {"group", "acquisition"} <= set(held)
    strata = {row["participant"]: row["stratum"] for row in rows}
    values = {p.participant_id: p for p in participants}
    for name, stratum in strata.items():
        assert ("patient" if values[name].is_patient else "control") in stratum.split("|")
        assert values[name].acquisition in stratum.split("|")
    for stratum, size in Counter(strata.values()).items():
        assert size >= 3
        counts = [sum(strata[name] == stratum for name in part["test"]) for part in by_fold(rows).values()]
        assert max(counts) - min(counts) <= 1


def test_lesion_terciles_are_thirds():
    participants, volumes = cohort(30, 0)
    rows = make_folds(participants, volumes, FoldsConfig(k=2, stratify_by=("lesion_tercile",)))
    strata = {row["participant"]: row["stratum"] for row in rows}
    ordered = sorted(volumes, key=volumes.get)
    assert [strata[name] for name in ordered] == ["0"] * 10 + ["1"] * 10 + ["2"] * 10


def test_keys_that_cannot_hold_are_left_out_and_named():
    one_tse = ["tse"] + ["T2sel"] * 7
    participants, volumes = cohort(8, 0, acquisition=one_tse, lobe=["TL"] * 8)
    rows = make_folds(participants, volumes, FoldsConfig(k=2))
    # group is the same for everybody, one tse subject cannot be in both folds, and so for lobe.
    assert {row["stratified_by"] for row in rows} == {"lesion_tercile"}
    nothing = make_folds(participants, volumes, FoldsConfig(k=2, stratify_by=("acquisition", "lobe")))
    assert {row["stratified_by"] for row in nothing} == {"none"}


def test_order_of_the_participants_changes_nothing_and_the_seed_does():
    participants, volumes = cohort(20, 6)
    config = FoldsConfig(k=3)
    one = by_fold(make_folds(participants, volumes, config))
    assert by_fold(make_folds(participants, volumes, config)) == one
    assert by_fold(make_folds(participants[::-1], volumes, config)) == one
    assert by_fold(make_folds(participants, volumes, FoldsConfig(k=3, seed=1))) != one


def test_excluded_participants_are_in_no_fold():
    participants, volumes = cohort(6, 0, excluded=["motion"] + ["n/a"] * 5)
    names = {row["participant"] for row in make_folds(participants, volumes, FoldsConfig(k=2))}
    assert names == {p.participant_id for p in participants[1:]}


def test_own_split_is_every_fold_s_test_and_val_rotates():
    split = ["test" if n % 3 == 0 else "train" for n in range(18)] + ["train"] * 6
    participants, volumes = cohort(18, 6, split=split)
    fixed = {p.participant_id for p in participants if p.split == "test"}
    parts = by_fold(make_folds(participants, volumes, FoldsConfig(k=3, use_split=True)))
    assert all(part["test"] == fixed for part in parts.values())
    rotated = Counter(name for part in parts.values() for name in part["val"])
    assert rotated == Counter({p.participant_id for p in participants} - fixed)
    single = by_fold(make_folds(participants, volumes, FoldsConfig(k=1, use_split=True)))
    assert single[0]["test"] == fixed
    assert len(single[0]["val"]) == round(0.15 * 18)


def test_own_split_that_leaves_nothing_to_test_or_train_is_an_error():
    config = FoldsConfig(k=2, use_split=True)
    for split in (["train"] * 6, ["test"] * 6, ["n/a"] * 6):
        participants, volumes = cohort(4, 2, split=split)
        with pytest.raises(DataError, match="use_split"):
            make_folds(participants, volumes, config)
    # Only controls are to be tested, or only controls are left to train on.
    for split in (["train"] * 4 + ["test"] * 2, ["test"] * 4 + ["train"] * 2):
        participants, volumes = cohort(4, 2, split=split)
        with pytest.raises((DataError, ConfigError), match="patient"):
            make_folds(participants, volumes, config)


def test_own_split_with_more_folds_than_subjects_to_rotate_is_an_error():
    participants, volumes = cohort(5, 0, split=["test"] * 3 + ["train"] * 2)
    with pytest.raises((DataError, ConfigError), match="folds"):
        make_folds(participants, volumes, FoldsConfig(k=3, use_split=True))


def test_more_folds_than_patients_is_an_error():
    participants, volumes = cohort(3, 10)
    with pytest.raises(ConfigError, match="4 folds, but only 3 patients"):
        make_folds(participants, volumes, FoldsConfig(k=4))


def test_val_can_be_switched_off():
    participants, volumes = cohort(10, 0)
    parts = by_fold(make_folds(participants, volumes, FoldsConfig(k=2, val_fraction=0)))
    assert not any(part["val"] for part in parts.values())


def test_folds_table_round_trips(tmp_path):
    participants, volumes = cohort(6, 2)
    rows = make_folds(participants, volumes, FoldsConfig(k=2))
    write_folds(tmp_path / "folds.tsv", rows)
    for fold, part in by_fold(rows).items():
        read = read_folds(tmp_path / "folds.tsv", fold)
        assert {split: set(names) for split, names in read.items()} == part
    trained = {name for part in by_fold(rows).values() for name in part["train"]}
    assert set(training_participants(tmp_path / "folds.tsv")) == trained
    with pytest.raises(ValueError, match="no fold 7"):
        read_folds(tmp_path / "folds.tsv", 7)
