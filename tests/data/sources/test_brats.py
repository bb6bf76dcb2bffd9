"""BraTS-style files: two separators, two layouts, and cases that lack one or have two of something."""

from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover

CASES = ("BraTS-GLI-00001-000", "BraTS20_Training_002", "c_flair_3")


def brats(root: Path, **more) -> list:
    return discover(DataConfig(source="brats", root=str(root), **more), Path("unused"))


def flags(row) -> list[str]:
    return [flag.name for flag in row.flags]


def cohort(tree, separator="_", image="flair", mask="seg", ending=".nii.gz", flat=False) -> Path:
    suffixes = (image, mask, "t1", "t1ce")
    paths = [f"{case}{separator}{suffix}{ending}" for case in CASES for suffix in suffixes]
    return tree(*(path if flat else f"{CASES[n // 4]}/{path}" for n, path in enumerate(paths)))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("separator", ["_", "-"])
@pytest.mark.parametrize("image", ["flair", "t2f"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_image_and_mask_of_every_case_are_found(tree, flat, separator, image, ending):
    root = cohort(tree, separator, image, ending=ending, flat=flat)
    rows = brats(root)
    folders = [root if flat else root / case for case in CASES]
    assert [row.participant_id for row in rows] == list(CASES)
    for row, folder, case in zip(rows, folders, CASES, strict=True):
        assert row.image == folder / f"{case}{separator}{image}{ending}"
        assert row.mask == folder / f"{case}{separator}seg{ending}"
        assert (row.group, row.included, row.flags) == ("patient", True, ())


def test_suffixes_are_configurable(tree):
    root = cohort(tree, image="FLAIR", mask="lesion")
    rows = brats(root, image_suffix="FLAIR", mask_suffix="lesion")
    assert [row.mask.name for row in rows] == [f"{case}_lesion.nii.gz" for case in CASES]
    assert brats(root, image_suffix="t1", mask_suffix="lesion")[0].image.name == f"{CASES[0]}_t1.nii.gz"
    with pytest.raises(DataError, match=r"expected .*_T2\.nii\.gz.*data\.image_suffix"):
        brats(root, image_suffix="T2", mask_suffix="lesion")
    with pytest.raises(DataError, match="found none"):
        # A suffix is no pattern.
        brats(root, image_suffix="FLAI.", mask_suffix="lesion", modality="FLAIR")
    with pytest.raises(DataError, match=r"data\.mask_suffix: .*found FLAIR"):
        brats(root, image_suffix="FLAIR", mask_suffix="FLAIR")


def test_t2f_is_taken_only_where_there_is_no_flair(tree):
    root = cohort(tree)
    tree(f"{CASES[0]}/{CASES[0]}_t2f.nii.gz")
    row = brats(root)[0]
    assert (row.image.name, row.flags) == (f"{CASES[0]}_flair.nii.gz", ())


def test_a_case_without_a_mask_is_flagged(tree):
    root = cohort(tree)
    # As in BraTS 2020, whose case 355 has a mask of another name.
    folder = root / CASES[1]
    (folder / f"{CASES[1]}_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    (root / CASES[2] / f"{CASES[2]}_seg.nii.gz").rename(root / CASES[2] / "other_seg.nii.gz")
    rows = brats(root)
    assert [flags(row) for row in rows] == [[], ["no_mask"], ["no_mask"]]
    assert [row.mask for row in rows[1:]] == [None, None], (
        "a mask that is named after another case is nobody's"
    )
    assert f"{CASES[1]}_seg.nii.gz" in rows[1].flags[0].reason
    assert "W39_1998.09.19_Segm.nii.gz" in rows[1].flags[0].reason
    rows = brats(root, exclude={CASES[1]: "misnamed", CASES[2]: "misnamed"})
    assert [row.excluded for row in rows] == ["n/a", "misnamed", "misnamed"]


def test_no_mask_at_all_is_an_error(tree):
    root = cohort(tree)
    for path in root.rglob("*_seg.nii.gz"):
        path.unlink()
    with pytest.raises(DataError, match=rf"no subject with a lesion mask.*{CASES[0]}_seg\.nii\.gz"):
        brats(root)


@pytest.mark.parametrize("flat", [False, True])
def test_two_files_of_one_kind_are_flagged(tree, flat):
    root = cohort(tree, flat=flat)
    folders = ["." if flat else case for case in CASES]
    tree(
        f"{folders[0]}/{CASES[0]}_flair.nii",
        f"{folders[1]}/{CASES[1]}-flair.nii.gz",
        f"{folders[2]}/{CASES[2]}_seg.nii",
    )
    rows = brats(root)
    assert [flags(row) for row in rows] == [["several_images"], ["several_images"], ["several_masks"]]
    assert "2 images" in rows[0].flags[0].reason
    assert f"{CASES[0]}_flair.nii, {CASES[0]}_flair.nii.gz" in rows[0].flags[0].reason


def test_a_case_without_an_image_stays_with_its_reason(tree):
    root = cohort(tree)
    (root / CASES[1] / f"{CASES[1]}_flair.nii.gz").unlink()
    (root / "BraTS_empty").mkdir()
    (root / ".git").mkdir()
    rows = {row.participant_id: row for row in brats(root)}
    assert set(rows) == {*CASES, "BraTS_empty"}
    assert rows["BraTS_empty"].excluded == "no flair image"
    # A patient, as its mask says: never left out without a word.
    (flag,) = rows[CASES[1]].flags
    assert flag.name == "missing_file" and f"{CASES[1]}_flair.nii.gz: not found" in flag.reason
    assert rows[CASES[1]].mask.name == f"{CASES[1]}_seg.nii.gz" and rows[CASES[1]].included


def test_hidden_copies_are_nobody_s(tree):
    root = cohort(tree)
    wanted = brats(root)
    tree(f"{CASES[0]}/._{CASES[0]}_flair.nii.gz", f"._{CASES[1]}_seg.nii.gz")
    assert brats(root) == wanted


def test_without_cases_or_folder_is_an_error(tree, tmp_path):
    with pytest.raises(DataError, match=r"expected \{case\}_flair\.nii\.gz or \{case\}_t2f\.nii\.gz"):
        brats(tree("notes.txt"))
    with pytest.raises(DataError, match=r"data\.root: .*found no folder .*absent"):
        brats(tmp_path / "absent")


@pytest.mark.parametrize("separator", ["_", "-"])
@pytest.mark.parametrize("flat", [False, True])
def test_the_mask_of_a_brain_is_no_lesion_and_no_case(tree, separator, flat):
    root = cohort(tree, separator, mask="mask", flat=flat)
    for case in CASES:
        name = f"{case}{separator}brain{separator}mask.nii.gz"
        tree(name if flat else f"{case}/{name}")
    rows = brats(root, mask_suffix="mask")
    assert [(row.participant_id, row.mask.name, row.flags) for row in rows] == [
        (case, f"{case}{separator}mask.nii.gz", ()) for case in CASES
    ]
    with pytest.raises(DataError, match=r"data\.mask_suffix: .*found brain_mask, which names the brain"):
        brats(root, mask_suffix="brain_mask")
