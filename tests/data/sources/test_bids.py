"""BIDS: image, masks and description of every subject are found by name, and nothing is lost without a word."""

import random
import shutil
from pathlib import Path, PurePosixPath

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover
from slimdiff.data.sources.bids import bids_participants_of


def bids(root: Path, **more) -> list:
    return discover(DataConfig(source="bids", root=str(root), **more), Path("unused"))


def flags(row) -> list[str]:
    return [flag.name for flag in row.flags]


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new))


def test_image_mask_and_description_are_found(dataset):
    one, two, three = bids(dataset)
    assert [row.participant_id for row in (one, two, three)] == ["sub-1", "sub-2", "sub-3"]
    assert one.image == dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.nii.gz"
    assert one.mask == dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR_roi.nii.gz"
    assert (one.group, one.split, one.lobe, one.acquisition) == ("fcd", "train", "TL,OL", "T2sel")
    assert two.mask == dataset / "sub-2/ses-a/anat/sub-2_ses-a_FLAIR_roi.nii"
    assert (two.split, two.lobe, two.acquisition, two.site) == ("test", "n/a", "tse", "n/a")
    assert (three.image.name, three.mask, three.group) == ("sub-3_FLAIR.nii.gz", None, "hc")
    assert [row.brain_mask for row in (one, two, three)] == [None] * 3
    assert [row.flags for row in (one, two, three)] == [()] * 3


def test_other_columns_are_carried_along(dataset):
    assert [row.further for row in bids(dataset)] == [{"age": "31"}, {"age": "n/a"}, {"age": "40"}]


def test_groups_without_participants_tsv_follow_the_mask(dataset):
    (dataset / "participants.tsv").unlink()
    assert [row.group for row in bids(dataset)] == ["patient", "patient", "control"]


def test_ids_without_the_prefix_are_understood_where_the_folder_exists(dataset):
    wanted = bids(dataset)
    replace_text(dataset / "participants.tsv", "sub-", "")
    assert bids(dataset) == wanted
    with (dataset / "participants.tsv").open("a") as stream:
        stream.write("7\thc\ttrain\tn/a\t50\n")
    rows = {row.participant_id: row for row in bids(dataset)}
    assert set(rows) == {"sub-1", "sub-2", "sub-3", "7"}
    assert rows["7"].excluded == "no _FLAIR image"


def test_a_participants_tsv_of_another_dataset_is_an_error(dataset):
    replace_text(dataset / "participants.tsv", "sub-", "sub-00")
    with pytest.raises(DataError, match=r"participants\.tsv.*sub-1, sub-2, sub-3.*sub-001, sub-002, sub-003"):
        bids(dataset)


def test_suffixes_are_configurable(dataset, tree):
    tree("sub-1/anat/sub-1_label-lesion_mask.nii.gz")
    rows = bids(dataset, image_suffix="T1w", mask_suffix="mask")
    assert [row.participant_id for row in rows if row.included] == ["sub-1"]
    assert rows[0].image.name == "sub-1_T1w.nii.gz"
    assert rows[0].mask.name == "sub-1_label-lesion_mask.nii.gz"


def test_one_suffix_for_two_kinds_of_files_is_an_error(dataset):
    with pytest.raises(DataError, match=r"data\.mask_suffix: .*data\.image_suffix, found FLAIR"):
        bids(dataset, mask_suffix="FLAIR")
    with pytest.raises(DataError, match=r"data\.brain_suffix: .*found FLAIR_roi"):
        bids(dataset, brain_suffix="FLAIR_roi")


@pytest.mark.parametrize(
    ("extra", "first"),
    [
        ("sub-1/anat/sub-1_acq-other_FLAIR.nii.gz", "sub-1_acq-T2sel_FLAIR.nii.gz"),
        ("sub-1/anat/sub-1_acq-A_FLAIR.nii.gz", "sub-1_acq-A_FLAIR.nii.gz"),
        ("sub-1/anat/sub-1_acq-T2sel_FLAIR.nii", "sub-1_acq-T2sel_FLAIR.nii"),
        ("sub-1/ses-b/anat/sub-1_ses-b_FLAIR.nii.gz", "sub-1_acq-T2sel_FLAIR.nii.gz"),
    ],
)
def test_two_images_of_a_subject_are_flagged_and_the_first_stands(dataset, tree, extra, first):
    tree(extra)
    one, *others = bids(dataset)
    assert flags(one) == ["several_images"]
    assert one.image.name == first
    for part in ("sub-1: 2 images match _FLAIR", "sub-1_acq-T2sel_FLAIR.nii.gz", Path(extra).name):
        assert part in one.flags[0].reason
    assert not any(row.flags for row in others)


def test_two_masks_of_a_subject_are_flagged(dataset, tree):
    tree("sub-1/anat/sub-1_acq-other_FLAIR_roi.nii.gz")
    one = bids(dataset)[0]
    assert flags(one) == ["several_masks"]
    assert "sub-1: 2 masks match _FLAIR_roi" in one.flags[0].reason
    assert one.is_patient


def test_entities_choose_among_images(dataset, tree):
    tree("sub-1/anat/sub-1_acq-other_FLAIR.nii.gz", "sub-1/anat/sub-1_acq-other_run-2_FLAIR.nii.gz")
    # sub-2 has another acquisition only.
    rows = bids(dataset, entities={"acq": "other", "run": "2"}, entities_may_drop=0.4)
    assert rows[0].image.name == "sub-1_acq-other_run-2_FLAIR.nii.gz"
    assert rows[0].flags == ()
    assert rows[0].mask.name == "sub-1_acq-T2sel_FLAIR_roi.nii.gz", "masks are the subject's"
    assert flags(bids(dataset, entities={"acq": "other"}, entities_may_drop=0.4)[0]) == ["several_images"]


def test_a_subject_whose_only_image_has_another_entity_stays_with_its_reason(dataset):
    one, two, three = bids(dataset, entities={"acq": "T2sel"}, entities_may_drop=0.4)
    assert one.included
    reason = "no _FLAIR image with acq-T2sel (data.entities), only sub-2_ses-a_acq-tse_FLAIR.nii"
    assert two.excluded == reason
    assert three.included, "an image that does not have the entity is the only one"
    with pytest.raises(DataError, match=r"data\.entities \(acq-T2sel\) drops 1 of 3 .*sub-2"):
        bids(dataset, entities={"acq": "T2sel"})
    with pytest.raises(DataError, match=r"with acq-T2, ses-7.*data\.entities"):
        bids(dataset, entities={"acq": "T2", "ses": "7"})


def test_without_any_mask_is_an_error(dataset):
    for mask in dataset.rglob("*_roi.nii*"):
        mask.unlink()
    (dataset / "participants.tsv").unlink()
    with pytest.raises(DataError, match="no subject with a lesion mask"):
        bids(dataset)


def test_without_images_or_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="image_suffix"):
        bids(tmp_path)
    with pytest.raises(DataError, match="absent"):
        bids(tmp_path / "absent")


def test_a_mask_missing_from_a_group_of_patients_is_not_taken_for_a_control(dataset):
    """A patient without its mask would enter training as lesion-free slices that show a lesion (F8)."""
    (dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR_roi.nii.gz").unlink()
    one, two, three = bids(dataset)
    assert (flags(one), two.flags, three.flags) == (["no_mask"], (), ())
    for part in ("sub-1/anat", "_FLAIR_roi", "group fcd"):
        assert part in one.flags[0].reason
    rows = bids(dataset, exclude={"sub-1": "mask lost"})
    assert [(row.excluded, row.flags) for row in rows] == [("mask lost", ()), ("n/a", ()), ("n/a", ())]


@pytest.mark.parametrize(
    "name",
    ["FLAIR_ROI", "FLAIR-roi", "T1w_roi", "FLAIR_lesion", "label-lesion_mask", "FLAIR_mask", "seg"],
)
def test_a_mask_under_another_name_does_not_make_a_control(dataset, tree, name):
    """F8: without a word, its lesion slices would be lesion-free ones."""
    (dataset / "participants.tsv").unlink()
    tree(f"sub-3/anat/sub-3_{name}.nii.gz")
    three = bids(dataset)[2]
    assert flags(three) == ["no_mask"]
    for part in (f"sub-3_{name}.nii.gz", "_FLAIR_roi", "data.mask_suffix"):
        assert part in three.flags[0].reason


def test_a_mask_under_another_name_is_seen_in_a_folder_of_masks_too(dataset, tree):
    (dataset / "participants.tsv").unlink()
    tree("sub-3/anat/sub-3_T1w.nii.gz", "masks/sub-3/anat/sub-3_FLAIR_ROI.nii.gz")
    tree("masks/sub-1/anat/sub-1_FLAIR_roi.nii.gz", "masks/sub-2/anat/sub-2_FLAIR_roi.nii.gz")
    assert flags(bids(dataset, mask_root=str(dataset / "masks"))[2]) == ["no_mask"]


def test_a_brain_mask_or_a_stated_group_is_no_doubt(dataset, tree):
    names = (
        "desc-brain_mask dseg acq-seg_T1w Brain_mask GM_mask label-GM_mask desc-ribbon_mask FLAIR_brainmask"
    )
    tree(*(f"sub-3/anat/sub-3_{name}.nii.gz" for name in names.split()), "sub-3/anat/sub-3_FLAIR.NII")
    (dataset / "sub-3/anat/sub-3_FLAIR.nii.gz").unlink()
    described = (dataset / "participants.tsv").read_bytes()
    (dataset / "participants.tsv").unlink()
    three = bids(dataset)[2]
    # Endings in capitals are NIfTI too.
    assert (three.image.name, flags(three)) == ("sub-3_FLAIR.NII", [])
    tree("sub-3/anat/sub-3_roi.nii.gz")
    assert flags(bids(dataset)[2]) == ["no_mask"]
    (dataset / "participants.tsv").write_bytes(described)
    assert flags(bids(dataset)[2]) == []


def test_an_image_that_has_nearly_the_name_is_not_left_out_without_a_word(dataset, tree):
    (dataset / "sub-3/anat/sub-3_FLAIR.nii.gz").unlink()
    tree("sub-3/anat/sub-3_flair.nii.gz")
    three = bids(dataset)[2]
    assert (flags(three), three.excluded) == (["missing_file"], "n/a")
    assert "sub-3_flair.nii.gz" in three.flags[0].reason and "data.image_suffix" in three.flags[0].reason


def test_a_subject_s_mask_elsewhere_without_an_image_is_a_fault(dataset, tree):
    tree("masks/sub-3/anat/sub-3_FLAIR_roi.nii.gz", "masks/sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    tree("masks/sub-1/anat/sub-1_FLAIR_roi.nii.gz", "masks/sub-2/anat/sub-2_FLAIR_roi.nii.gz")
    (dataset / "sub-3/anat/sub-3_FLAIR.nii.gz").unlink()
    rows = {row.participant_id: row for row in bids(dataset, mask_root=str(dataset / "masks"))}
    assert flags(rows["sub-3"]) == ["missing_file"]
    (dataset / "participants.tsv").unlink()
    chosen = {
        row.participant_id: row
        for row in bids(dataset, mask_root=str(dataset / "masks"), groups=("patient",))
    }
    assert flags(chosen["sub-3"]) == ["missing_file"]
    # A folder of masks may be of a larger cohort.
    assert (rows["sub-9"].excluded, flags(rows["sub-9"])) == ("no _FLAIR image", [])


def test_subjects_whose_image_is_missing_stay_in_the_table(dataset):
    """F8: every subject stands in the table with its reason."""
    (dataset / "sub-3/anat/sub-3_FLAIR.nii.gz").unlink()
    shutil.rmtree(dataset / "sub-2")
    (dataset / "sub-4").mkdir()
    with pytest.raises(DataError, match=r"without a folder \(sub-2\).*without a row \(sub-4\)"):
        bids(dataset)
    rows = {row.participant_id: row for row in bids(dataset, exclude={"sub-4": "no _FLAIR image"})}
    assert set(rows) == {"sub-1", "sub-2", "sub-3", "sub-4"}
    assert all(rows[name].excluded == "no _FLAIR image" for name in ("sub-2", "sub-3", "sub-4"))
    assert rows["sub-3"].further == {"age": "40"}


def test_a_participant_described_twice_is_an_error_unless_the_splits_differ(dataset):
    described = dataset / "participants.tsv"
    before = described.read_text()
    for again in ("sub-1\thc\ttrain\tn/a\t31\n", "1\tfcd\ttrain\tn/a\t31\n", "sub-1\tfcd\t\tn/a\t31\n"):
        described.write_text(before + again)
        with pytest.raises(DataError, match=r"participants\.tsv.*duplicate participant sub-1"):
            bids(dataset)
    described.write_text(before + "sub-1\thc\ttest\tn/a\t99\n")
    one, *others = bids(dataset)
    assert flags(one) == ["two_splits"]
    assert "found train and test" in one.flags[0].reason
    assert (one.group, one.split, one.further["age"]) == ("fcd", "train", "31"), "the first line stands"
    assert not any(row.flags for row in others)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("participant_id\tsite\nsub-1\tKöln\n".encode("latin-1"), "UTF-8"),
        (b"participant_id\tsite\nsub-1\n", "found 1"),
        (b"name\nsub-1\n", "no column participant_id"),
        (b"participant_id\n" + b"x" * 200_000 + b"\n", "field"),
        (b"participant_id\nsub-1/x\nsub-1\n", "sub-1/x"),
    ],
)
def test_a_participants_tsv_that_cannot_be_read_is_named(dataset, content, cause):
    (dataset / "participants.tsv").write_bytes(content)
    with pytest.raises(DataError, match=rf"participants\.tsv.*{cause}"):
        bids(dataset)


def test_the_order_of_a_listing_makes_no_difference(dataset, tree):
    root = tree(*(f"sub-4/ses-{s}/anat/sub-4_ses-{s}_FLAIR{e}.nii.gz" for s in "123" for e in ("", "_roi")))
    config = DataConfig(source="bids", root=str(root))
    paths = [PurePosixPath(path.relative_to(root).as_posix()) for path in root.rglob("*")]
    wanted = bids_participants_of(sorted(paths), root, config)
    assert len(wanted) == 4
    for seed in range(3):
        random.Random(seed).shuffle(paths)
        assert bids_participants_of(paths, root, config) == wanted
