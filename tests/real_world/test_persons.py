"""Two scans of one person are never divided between training and test."""

from pathlib import Path

import numpy as np
import pytest

from slimdiff.config import ConfigError
from slimdiff.config.folds import FoldsConfig
from slimdiff.data.composition import composition
from slimdiff.data.folds import check_split, make_folds, one_of_each
from slimdiff.data.participants import (
    DataError,
    Participant,
    first_scans,
    read_participants,
    write_participants,
)
from slimdiff.data.sources.persons import person_of

NOWHERE = Path("nowhere")


def cohort(persons: int, seed: int) -> list[Participant]:
    """Persons with one to three scans; a third have no lesion, and some have a lesion in one scan only."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(persons):
        for scan in range(1 + int(rng.integers(3))):
            mask = NOWHERE if person % 3 and (scan == 0 or rng.random() < 0.5) else None
            acquisition = str(rng.choice(["T2sel", "tse"]))
            name = f"s{rng.integers(10**6)}-{person}-{scan}"
            rows.append(Participant(name, "g", NOWHERE, mask, acquisition, person=f"p{person}"))
    return [rows[place] for place in rng.permutation(len(rows))]


def volumes(rows) -> dict[str, float]:
    return {row.participant_id: 1.0 + len(row.participant_id) if row.is_patient else 0.0 for row in rows}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [2, 3])
def test_all_scans_of_a_person_are_in_one_part_of_every_fold(seed, k):
    rows = cohort(12, seed)
    person = {row.participant_id: row.person for row in rows}
    folds = make_folds(rows, volumes(rows), FoldsConfig(k=k, seed=seed))
    assert sorted((row["participant"], row["fold"]) for row in folds) == sorted(
        (name, fold) for name in person for fold in range(k)
    )
    parts, tested = {}, {}
    for row in folds:
        parts.setdefault((person[row["participant"]], row["fold"]), set()).add(row["split"])
        if row["split"] == "test":
            tested.setdefault(person[row["participant"]], set()).add(row["fold"])
    assert all(len(splits) == 1 for splits in parts.values())
    assert all(len(tested[name]) == 1 for name in person.values()), "each person is tested once"
    sizes = [sum(fold in own for own in tested.values()) for fold in range(k)]
    assert max(sizes) - min(sizes) <= 1, "persons are dealt, not scans"


def test_folds_of_one_scan_each_are_those_without_the_column():
    rows = cohort(12, 0)
    rows = [row for row in rows if row.participant_id.endswith("-0")]
    named = [Participant(r.participant_id, "g", NOWHERE, r.mask, r.acquisition) for r in rows]
    config = FoldsConfig(k=3, seed=1)
    assert make_folds(rows, volumes(rows), config) == make_folds(named, volumes(rows), config)


def test_a_person_has_the_name_of_its_first_scan_whatever_the_column_says():
    rows = [
        Participant(name, "g", NOWHERE, None, person=own)
        for name, own in zip("bcad", ("7", "7", "1", "n/a"), strict=True)
    ]
    assert first_scans(rows) == {"a": "a", "b": "b", "c": "b", "d": "d"}
    # Names sort as the participants do, so that draws of subjects do not depend on the column.
    named = [
        Participant(name, "g", NOWHERE, None, person=own) for name, own in zip("abc", "987", strict=True)
    ]
    assert first_scans(named) == {name: name for name in "abc"} == first_scans(named[::-1])


def test_more_folds_than_persons_with_a_lesion_are_refused():
    rows = [Participant(f"s{scan}", "g", NOWHERE, NOWHERE, person=f"p{scan % 2}") for scan in range(6)]
    with pytest.raises(ConfigError, match="3 folds, but only 2 patients"):
        make_folds(rows, volumes(rows), FoldsConfig(k=3))


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2_run-1", "sub-01"),
        ("sub-01", "sub-01"),
        ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
        ("BraTS_002", "BraTS_002"),
        ("FCD_001", "FCD_001"),
    ],
)
def test_names_of_scans_name_the_person(name, person):
    assert person_of(name) == person


def test_a_table_of_sessions_gives_persons(folder):
    rows = folder.read_table(
        "participant_id image mask",
        "sub-01_ses-1 a.nii r.nii",
        "sub-01_ses-2 b.nii r.nii",
        "sub-02_ses-1 c.nii r.nii",
    )
    assert [row.person for row in rows.values()] == ["sub-01", "sub-01", "sub-02"]


@pytest.mark.parametrize("column", ["person", "Person", "patient_id", "subject"])
def test_a_column_gives_persons_in_any_spelling(folder, column):
    rows = folder.read_table(
        f"participant_id image mask {column}",
        *("a a.nii r.nii P1", "b b.nii r.nii p1", "c c.nii r.nii 7", "d d.nii n/a 07"),
    )
    persons = [row.person for row in rows.values()]
    assert persons[0] == persons[1] != persons[2] == persons[3]


def test_a_person_of_participants_tsv_is_read(folder):
    folder.subjects(["sub-1", "sub-2", "sub-3"])
    folder.describe("participant_id person", "sub-1 A", "sub-2 A", "sub-3 n/a")
    assert [row.person for row in folder.read().values()] == ["A", "A", "sub-3"]


def test_the_study_s_participants_tsv_has_the_person(folder, tmp_path):
    rows = list(
        folder.read_table("participant_id image mask", "sub-1_ses-1 a.nii r.nii", "c a.nii n/a").values()
    )
    write_participants(tmp_path / "participants.tsv", rows)
    again = read_participants(tmp_path / "participants.tsv")
    assert [row.person for row in again] == ["sub-1", "c"] and again == rows
    assert "\tperson\t" in (tmp_path / "participants.tsv").read_text()


SPLIT = ("participant_id image mask person split", "a a.nii r.nii P1 train", "b b.nii r.nii P1 test")


def test_a_person_in_two_splits_is_flagged(folder, flags_of):
    rows = folder.read_table(*SPLIT, "c c.nii r.nii P2 test")
    assert [flags_of(row) for row in rows.values()] == [["two_splits"], ["two_splits"], []]
    assert "person P1" in rows["a"].flags[0].reason and "a in train, b in test" in rows["a"].flags[0].reason
    one = folder.read_table(*SPLIT, "c c.nii r.nii P2 test", exclude={"b": "second scan"})
    assert one["a"].flags == () and one["a"].split == "train"
    again = [
        Participant(n, "g", NOWHERE, NOWHERE, split=s, person="P1")
        for n, s in (("a", "train"), ("b", "test"))
    ]
    with pytest.raises(DataError, match="person P1, found a in train, b in test"):
        make_folds(again, volumes(again), FoldsConfig(k=1, use_split=True))


def test_a_scan_without_a_split_is_in_that_of_the_person(folder):
    others = ("c c.nii r.nii P2 train", "d d.nii r.nii P3 n/a")
    rows = folder.read_table(SPLIT[0], "a a.nii r.nii P1 n/a", SPLIT[2], *others)
    assert [row.split for row in rows.values()] == ["test", "test", "train", "n/a"]
    config = FoldsConfig(k=1, use_split=True, val_fraction=0)
    folds = make_folds(list(rows.values()), volumes(rows.values()), config)
    assert {row["participant"]: row["split"] for row in folds} == {
        "a": "test",
        "b": "test",
        "c": "train",
        "d": "train",
    }
    assert check_split(one_of_each(rows.values()), 1) == {"a"}


def test_the_block_says_that_persons_have_several_scans(folder):
    rows = folder.read_table(SPLIT[0], "a a.nii r.nii P1 test", SPLIT[2], "c c.nii r.nii P2 train")
    assert "persons with several scans, which are in one part of each fold: 1 (P1)" in "\n".join(
        composition(list(rows.values()))
    )


def test_names_that_differ_in_case_only_are_refused(folder):
    """On a disk that does not distinguish case their volumes are one file."""
    lines = [
        "participant_id image mask",
        *(f"{name} {n}.nii {n}_roi.nii" for n, name in enumerate(("P01", "p01", "P02"))),
    ]
    with pytest.raises(DataError, match="more than case, found P01 and p01"):
        folder.read_table(*lines)
    assert len(folder.read_table(*lines, exclude={"p01": "second scan"})) == 3


def test_one_person_in_two_spellings_is_one_person(folder):
    lines = ["participant_id image mask", "Sub-01_ses-1 a.nii a_roi.nii", "sub-01_ses-2 b.nii b_roi.nii"]
    rows = folder.read_table(*lines)
    assert len({row.person for row in rows.values()}) == 1
