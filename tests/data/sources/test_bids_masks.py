"""BIDS: which mask belongs to an image, over sessions, trees of masks and brain masks."""

from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover


def bids(root: Path, **more) -> list:
    return discover(DataConfig(source="bids", root=str(root), **more), Path("unused"))


def flags(row) -> list[str]:
    return [flag.name for flag in row.flags]


def in_sessions(tree) -> Path:
    return tree(
        *(f"sub-4/ses-{s}/anat/sub-4_ses-{s}_FLAIR{end}.nii.gz" for s in "12" for end in ("", "_roi")),
        "sub-5/ses-1/anat/sub-5_ses-1_FLAIR.nii.gz",
        "sub-5/ses-2/anat/sub-5_ses-2_FLAIR_roi.nii.gz",
        "sub-6/ses-1/anat/sub-6_ses-1_FLAIR.nii.gz",
        "sub-6/anat/sub-6_FLAIR_roi.nii.gz",
        "sub-7/anat/sub-7_FLAIR.nii.gz",
        "sub-7/ses-2/anat/sub-7_ses-2_FLAIR_roi.nii.gz",
        "sub-8/ses-1/anat/sub-8_ses-1_FLAIR.nii.gz",
        "sub-8/anat/sub-8_ses-2_FLAIR_roi.nii.gz",
    )


@pytest.mark.parametrize("session", ["1", "2"])
def test_a_mask_is_of_the_image_s_session(tree, session):
    found = bids(in_sessions(tree), entities={"ses": session}, entities_may_drop=1.0)
    rows = {row.participant_id: row for row in found}
    four = rows["sub-4"]
    assert four.image.name == f"sub-4_ses-{session}_FLAIR.nii.gz"
    assert four.mask.name == f"sub-4_ses-{session}_FLAIR_roi.nii.gz"
    assert four.flags == ()


def test_a_mask_or_image_without_a_session_matches_by_subject(tree):
    rows = {row.participant_id: row for row in bids(in_sessions(tree))}
    assert rows["sub-6"].mask.name == "sub-6_FLAIR_roi.nii.gz"
    assert rows["sub-7"].mask.name == "sub-7_ses-2_FLAIR_roi.nii.gz"
    assert rows["sub-6"].flags == rows["sub-7"].flags == ()
    assert flags(rows["sub-4"]) == ["several_images"]
    assert rows["sub-4"].mask.name == "sub-4_ses-1_FLAIR_roi.nii.gz", "of the image that was taken"


@pytest.mark.parametrize("name", ["sub-5", "sub-8"])
def test_who_has_a_mask_in_another_session_only_is_no_control(tree, name):
    row = {row.participant_id: row for row in bids(in_sessions(tree))}[name]
    assert (row.mask, row.group, flags(row)) == (None, "patient", ["no_mask"])
    assert "ses-1" in row.flags[0].reason
    assert f"{name}_ses-2_FLAIR_roi.nii.gz" in row.flags[0].reason


def test_masks_may_lie_in_a_tree_of_their_own(dataset, tree):
    folder = "derivatives/lesions"
    tree(
        f"{folder}/sub-1/anat/sub-1_FLAIR.nii.gz",
        f"{folder}/sub-2/ses-a/anat/sub-2_ses-a_FLAIR.nii.gz",
        f"{folder}/sub-2/ses-b/anat/sub-2_ses-b_FLAIR.nii.gz",
        f"{folder}/sub-6/anat/sub-6_FLAIR.nii.gz",
    )
    # The same suffix in both trees: the folder tells which is which.
    one, two, three, six = bids(dataset, mask_root=str(dataset / folder), mask_suffix="FLAIR")
    assert one.mask == dataset / folder / "sub-1/anat/sub-1_FLAIR.nii.gz"
    assert two.mask == dataset / folder / "sub-2/ses-a/anat/sub-2_ses-a_FLAIR.nii.gz"
    assert [row.flags for row in (one, two, three)] == [()] * 3
    assert (one.image, three.mask) == (bids(dataset)[0].image, None)
    assert (six.participant_id, six.excluded) == ("sub-6", "no _FLAIR image")


def test_a_lost_mask_is_looked_for_where_masks_lie(dataset, tree):
    tree("lesions/sub-1/anat/sub-1_FLAIR_roi.nii.gz")
    two = bids(dataset, mask_root=str(dataset / "lesions"))[1]
    assert flags(two) == ["no_mask"]
    assert str(dataset / "lesions" / "sub-2") in two.flags[0].reason


def test_a_folder_of_masks_that_is_not_there_is_an_error(dataset, tree):
    tree("derivatives/lesions/sub-1/anat/sub-1_FLAIR_roi.nii.gz")
    with pytest.raises(DataError, match=r"data\.mask_root: .*found no folder gone$"):
        bids(dataset, mask_root="gone")
    with pytest.raises(DataError, match=rf"did you mean {dataset}/derivatives/lesions\?"):
        bids(dataset, mask_root="derivatives/lesions")


def test_brain_masks_come_from_the_images_tree_then_from_the_masks(dataset, tree):
    tree(
        "sub-1/anat/sub-1_desc-brain_mask.nii.gz",
        "sub-1/anat/sub-1_label-lesion_mask.nii.gz",
        "derived/sub-1/anat/sub-1_desc-brain_mask.nii.gz",
        "derived/sub-1/anat/sub-1_label-lesion_mask.nii.gz",
        "derived/sub-3/anat/sub-3_desc-brain_mask.nii.gz",
    )
    brains = {"mask_suffix": "mask", "brain_suffix": "desc-brain_mask"}
    one, *others = bids(dataset, **brains, exclude={"sub-2": "no mask"})
    assert one.mask == dataset / "sub-1/anat/sub-1_label-lesion_mask.nii.gz", "a brain is no lesion"
    assert one.brain_mask == dataset / "sub-1/anat/sub-1_desc-brain_mask.nii.gz"
    assert [row.brain_mask for row in others] == [None, None]
    one, two, three = bids(
        dataset, **brains, mask_root=str(dataset / "derived"), exclude={"sub-2": "no mask"}
    )
    assert one.mask == dataset / "derived/sub-1/anat/sub-1_label-lesion_mask.nii.gz"
    assert one.brain_mask == dataset / "sub-1/anat/sub-1_desc-brain_mask.nii.gz"
    assert three.brain_mask == dataset / "derived/sub-3/anat/sub-3_desc-brain_mask.nii.gz"
    assert (three.mask, two.brain_mask, one.flags, three.flags) == (None, None, (), ())


def test_two_brain_masks_of_a_subject_are_flagged(dataset, tree):
    tree("sub-1/anat/sub-1_brain.nii.gz", "sub-1/anat/sub-1_run-2_brain.nii.gz")
    one = bids(dataset, brain_suffix="brain")[0]
    assert flags(one) == ["several_masks"]
    assert "2 brain masks" in one.flags[0].reason


@pytest.mark.parametrize(
    "name",
    [
        *(
            "desc-brain_mask",
            "label-brain_mask",
            "brain_mask",
            "space-orig_desc-brain_mask",
            "desc-Brain_mask",
        ),
        *("label-GM_mask", "desc-head_mask", "skull_mask", "FLAIR_desc-brain_mask", "label-CSF_mask"),
    ],
)
@pytest.mark.parametrize("union", [False, True])
def test_a_mask_whose_name_says_brain_is_never_the_lesion(tree, name, union):
    """With the suffix `mask` it would match as the lesion mask does."""
    root = tree(
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_label-lesion_mask.nii.gz",
        f"sub-1/anat/sub-1_{name}.nii.gz",
        "sub-2/anat/sub-2_FLAIR.nii.gz",
        f"sub-2/anat/sub-2_{name}.nii.gz",
    )
    chosen = {"several_masks": "union"} if union else {}
    one, two = bids(root, mask_suffix="mask", patients_without_mask="control", **chosen)
    assert [path.name for path in one.masks] == ["sub-1_label-lesion_mask.nii.gz"]
    assert (two.masks, two.group, one.flags, two.flags) == ((), "control", (), ())


@pytest.mark.parametrize(
    "name",
    [
        *(
            "desc-brain_label-lesion_mask",
            "desc-brain_FLAIR_roi_mask",
            "brain_lesions_mask",
            "label-braintumor_mask",
        ),
        *("acq-headcoil_mask", "run-1_mask", "label-wmh_mask", "acq-brain_label-L_mask"),
    ],
)
def test_a_lesion_mask_may_have_the_word_brain_elsewhere(tree, name):
    root = tree("sub-brain1/anat/sub-brain1_FLAIR.nii.gz", f"sub-brain1/anat/sub-brain1_{name}.nii.gz")
    (row,) = bids(root, mask_suffix="mask")
    assert [path.name for path in row.masks] == [f"sub-brain1_{name}.nii.gz"]


def test_brain_masks_in_derivatives_do_not_look_like_lost_lesion_masks(tree):
    root = tree(
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_label-lesion_mask.nii.gz",
        "sub-2/anat/sub-2_FLAIR.nii.gz",
        "derivatives/fmriprep/sub-2/anat/sub-2_desc-brain_mask.nii.gz",
    )
    two = bids(root, mask_suffix="mask", patients_without_mask="control")[1]
    assert (two.group, two.flags) == ("control", ())


@pytest.mark.parametrize("suffix", ["desc-brain_mask", "brainmask", "label-GM_mask"])
def test_a_mask_suffix_that_names_the_brain_is_refused(dataset, suffix):
    with pytest.raises(
        DataError, match=rf"data\.mask_suffix: .*found {suffix}, which names the brain.*brain_suffix"
    ):
        bids(dataset, mask_suffix=suffix)
