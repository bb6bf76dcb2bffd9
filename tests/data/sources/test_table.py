"""A table of paths: relative to itself, every problem named with its line."""

from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover

HEADER = "participant_id\timage\tmask"


def write_rows(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def table(path: Path, **more) -> list:
    return discover(DataConfig(source="table", table=str(path), **more), Path("unused"))


@pytest.fixture
def volumes(tree):
    return tree("in/a.nii.gz", "in/b.nii.gz", "in/a_mask.nii.gz", "in/a_brain.nii.gz")


@pytest.mark.parametrize("comma", [False, True])
def test_paths_are_relative_to_the_table(volumes, comma, monkeypatch):
    monkeypatch.chdir("/")
    lines = [f"{HEADER}\tsite", "a\tin/a.nii.gz\tin/a_mask.nii.gz\tbonn", "b\tin/b.nii.gz\tn/a\t"]
    if comma:
        lines = [line.replace("\t", ",") for line in lines]
    a, b = table(write_rows(volumes / ("t.csv" if comma else "t.tsv"), *lines))
    assert (a.image, a.mask) == (volumes / "in/a.nii.gz", volumes / "in/a_mask.nii.gz")
    assert (a.group, a.site, b.group, b.site, b.mask) == ("patient", "bonn", "control", "n/a", None)
    assert (a.flags, b.flags, a.brain_mask, a.further) == ((), (), None, {})


def test_absolute_paths_stand_for_themselves(volumes):
    folder = volumes / "elsewhere"
    folder.mkdir()
    path = write_rows(folder / "t.tsv", HEADER, f"a\t{volumes}/in/a.nii.gz\t{volumes}/in/a_mask.nii.gz")
    assert table(path)[0].image == volumes / "in/a.nii.gz"


def test_brain_masks_and_further_columns_are_carried_along(volumes):
    path = write_rows(
        volumes / "t.tsv",
        "age\tparticipant_id\timage\tmask\tbrain_mask\tscanner",
        "31\ta\tin/a.nii.gz\tin/a_mask.nii.gz\tin/a_brain.nii.gz\t ",
        "\tb\tin/b.nii.gz\tn/a\tn/a\tT, 3",
    )
    a, b = table(path)
    assert (a.brain_mask, b.brain_mask) == (volumes / "in/a_brain.nii.gz", None)
    assert a.further == {"age": "31", "scanner": "n/a"}
    assert b.further == {"age": "n/a", "scanner": "T, 3"}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("a\tin/a.nii.gz\tin/a_mask.nii.gz\na\tin/b.nii.gz\tn/a", ("duplicate participant a",)),
        ("a/b\tin/a.nii.gz\tin/a_mask.nii.gz", ("line 2", "a/b")),
        ("a\tn/a\tin/a_mask.nii.gz", ("line 2", "column image")),
        ("a\tin/a.nii.gz", ("line 2", "found 2")),
        ("a\tin/a.nii.gz\tn/a", ("no subject with a lesion mask",)),
        ("a\tin/a.nii.gz\t" + "m" * 5000, ("line 2", "column mask", "File name too long")),
        ("a\tin/absent.nii.gz\tn/a", ("no subject with a lesion mask", "line 2", "absent.nii.gz")),
    ],
)
def test_problems_name_line_and_cause(volumes, body, wanted):
    with pytest.raises(DataError) as caught:
        table(write_rows(volumes / "t.tsv", HEADER, body))
    for part in wanted:
        assert part in str(caught.value)


def test_without_a_needed_column_or_absent(volumes):
    with pytest.raises(DataError, match="mask"):
        table(write_rows(volumes / "t.tsv", "participant_id\timage", "a\tin/a.nii.gz"))
    with pytest.raises(DataError, match=r"gone\.tsv"):
        table(volumes / "gone.tsv")


def test_all_files_that_are_not_there_are_flagged_not_only_the_first(volumes):
    path = write_rows(
        volumes / "t.tsv",
        f"{HEADER}\tbrain_mask",
        "a\tin/a.nii.gz\tin/gone.nii.gz\tin/lost.nii.gz",
        "b\tin/b.nii.gz\tn/a\tn/a",
        "c\tin\tn/a\tn/a",
        "d\tin/a.nii.gz\tin/a_mask.nii.gz\tn/a",
    )
    a, b, c, d = table(path)
    assert [[flag.name for flag in row.flags] for row in (a, b, c, d)] == [
        ["missing_file", "missing_file"],
        [],
        ["missing_file"],
        [],
    ]
    for flag, line, name in ((a.flags[0], 2, "gone"), (a.flags[1], 2, "lost"), (c.flags[0], 4, "in")):
        assert f"line {line}" in flag.reason
        assert f"in/{name}.nii.gz" in flag.reason or str(volumes / "in") in flag.reason
    assert a.is_patient, "a mask that is lost makes no control"


def test_a_participant_in_two_splits_is_one_with_a_flag(volumes):
    lines = ["a\tin/a.nii.gz\tin/lost_mask.nii.gz\ttrain", "a\tin/gone.nii.gz\tin/a_mask.nii.gz\ttest"]
    control = "b\tin/b.nii.gz\tn/a\ttrain"
    path = write_rows(volumes / "t.tsv", f"{HEADER}\tsplit", lines[0], control, lines[1])
    a, b = table(path)
    assert (a.participant_id, a.split, a.image.name, b.flags) == ("a", "train", "a.nii.gz", ())
    assert [flag.name for flag in a.flags] == ["missing_file", "missing_file", "two_splits"]
    assert ["lost_mask" in a.flags[0].reason, "gone" in a.flags[1].reason] == [True, True], (
        "both lines are looked at"
    )
    assert "found train and test" in a.flags[2].reason
    for splits in (("train", "train"), ("train", "n/a")):
        same = [line.rsplit("\t", 1)[0] + f"\t{split}" for line, split in zip(lines, splits, strict=True)]
        with pytest.raises(DataError, match="duplicate participant a"):
            table(write_rows(path, f"{HEADER}\tsplit", *same))


@pytest.mark.parametrize("name", ["a_brain_mask", "a_desc-brain_mask", "a_brainmask", "a-brain", "a_GM_seg"])
def test_the_name_of_a_brain_mask_is_refused_in_the_column_mask(volumes, tree, name):
    tree(f"in/{name}.nii.gz")
    path = write_rows(volumes / "t.tsv", HEADER, f"a\tin/a.nii.gz\tin/{name}.nii.gz")
    with pytest.raises(DataError, match=rf"line 2: .*column mask, found .*{name}.*column brain_mask"):
        table(path)


@pytest.mark.parametrize(
    "name", ["brain01_mask", "a_brain_lesion_mask", "brain_tumour_seg", "a_mask_in_brainspace"]
)
def test_other_names_with_the_word_brain_are_lesions_in_the_column_mask(volumes, tree, name):
    tree(f"in/{name}.nii.gz")
    (row,) = table(write_rows(volumes / "t.tsv", HEADER, f"a\tin/a.nii.gz\tin/{name}.nii.gz"))
    assert row.mask.name == f"{name}.nii.gz"
