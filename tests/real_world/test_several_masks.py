"""Several lesion files of a patient, and lesion masks in derivatives that no key names."""

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball, head, save_nifti

from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import DataError, read_participants, write_participants
from slimdiff.data.quality.measure import measure, measure_and_remember, remembered
from slimdiff.data.sources import discover
from slimdiff.data.volumes.input_fingerprint import made_of
from slimdiff.data.volumes.preprocess import preprocess
from slimdiff.data.volumes.read import VolumeError, load_pair

ONE, TWO = ball((12, 14, 16), 3.5), ball((20, 14, 16), 2.5)


@pytest.fixture
def two_lesions(folder):
    """sub-1 has two lesion files."""
    anat = folder.root / "sub-1" / "anat"
    volume = head(1)
    volume[ONE | TWO] += 40
    save_nifti(anat / "sub-1_FLAIR.nii.gz", volume)
    save_nifti(anat / "sub-1_label-a_FLAIR_roi.nii.gz", ONE.astype(np.uint8))
    save_nifti(anat / "sub-1_label-b_FLAIR_roi.nii.gz", TWO.astype(np.uint8))
    folder.data = DataConfig(source="bids", root=str(folder.root), several_masks="union")
    folder.row = discover(folder.data, folder.root)[0]
    return folder


def test_several_masks_are_an_error_that_names_the_key(two_lesions, flags_of):
    row = two_lesions.read()["sub-1"]
    assert flags_of(row) == ["several_masks"] and "data.several_masks: union" in row.flags[0].reason
    assert row.more_masks == ()


def test_their_union_is_the_lesion(two_lesions, tmp_path):
    row = two_lesions.row
    assert row.flags == () and [path.name for path in row.masks] == [
        "sub-1_label-a_FLAIR_roi.nii.gz",
        "sub-1_label-b_FLAIR_roi.nii.gz",
    ]
    np.testing.assert_array_equal(load_pair(row).lesion, ONE | TWO)
    assert measure(row, two_lesions.data).lesion_voxels == (ONE | TWO).sum()
    out = [tmp_path / "out" / name for name in ("image.nii.gz", "mask.nii.gz", "record.json")]
    preprocess(row, two_lesions.data, PreprocessConfig(spacing_mm=6.0, grid=(32, 32, 32)), *out)
    assert np.asarray(nibabel.load(out[1]).dataobj).sum() == (ONE | TWO).sum()


def test_the_table_keeps_all_masks(two_lesions, tmp_path):
    path = tmp_path / "out" / "participants.tsv"
    write_participants(path, [two_lesions.row])
    assert read_participants(path) == [two_lesions.row]


def test_a_change_of_the_second_mask_is_noticed(two_lesions, tmp_path):
    row, state = two_lesions.row, tmp_path / "state"
    before = measure_and_remember(row, two_lesions.data, state)
    assert remembered(row, two_lesions.data, state) == before
    save_nifti(row.masks[1], ball((20, 14, 16), 4.5).astype(np.uint8))
    assert remembered(row, two_lesions.data, state) is None
    after = measure(row, two_lesions.data)
    assert after.mask_sha256 != before.mask_sha256 and after.lesion_voxels > before.lesion_voxels
    one = two_lesions.read(exclude={})["sub-1"]
    assert made_of(row, "") != made_of(one, ""), "the volume is made of both"


@pytest.mark.parametrize("cell", ["[", "7", '["a", 7]'])
def test_a_damaged_list_of_masks_is_named(tmp_path, cell):
    path = tmp_path / "participants.tsv"
    path.write_text(f"participant_id\tgroup\timage\tmask\tmore_masks\nsub-1\tfcd\ta.nii\tb.nii\t{cell}\n")
    with pytest.raises(
        ValueError, match="participants.tsv: sub-1: expected a JSON list of paths in column more_masks"
    ):
        read_participants(path)


def test_one_of_several_may_be_empty_but_not_all(two_lesions):
    row, nothing = two_lesions.row, np.zeros(ONE.shape, np.uint8)
    save_nifti(row.masks[0], nothing)
    np.testing.assert_array_equal(load_pair(row).lesion, TWO)
    save_nifti(row.masks[1], nothing)
    with pytest.raises(VolumeError, match=r"label-a.*label-b.*no voxel") as caught:
        load_pair(row)
    assert caught.value.flag == "empty_mask"


def test_each_of_them_is_checked(two_lesions):
    save_nifti(two_lesions.row.masks[1], TWO[:, :, :20].astype(np.uint8))
    with pytest.raises(VolumeError, match=r"label-b.*shape") as caught:
        load_pair(two_lesions.row)
    assert caught.value.flag == "other_grid"


@pytest.mark.parametrize("inside", ["derivatives", "derivatives/lesions"])
@pytest.mark.parametrize(
    ("ending", "suffix"),
    [
        ("FLAIR_roi", None),
        ("label-lesion_mask", "label-lesion_mask"),
        ("space-orig_desc-fcd_mask", "desc-fcd_mask"),
    ],
)
def test_masks_in_derivatives_are_named_with_the_keys(folder, inside, ending, suffix):
    folder.subjects([], ["sub-1", "sub-2"])
    folder.describe("participant_id group", "sub-1 fcd", "sub-2 hc")
    folder.add(f"{inside}/sub-1/anat/sub-1_{ending}.nii.gz")
    with pytest.raises(DataError) as caught:
        folder.read()
    message = str(caught.value)
    assert "no subject with a lesion mask" in message
    assert f"{inside}/sub-1/anat/sub-1_{ending}.nii.gz" in message
    keys = {"mask_root": str(folder.root / inside)} | ({"mask_suffix": suffix} if suffix else {})
    assert ", ".join(f"data.{key}: {value}" for key, value in keys.items()) in message
    rows = folder.read(**keys)
    assert rows["sub-1"].is_patient and not rows["sub-2"].is_patient, "what the message says to set works"


def test_a_mask_in_derivatives_only_makes_no_control(folder, flags_of):
    folder.subjects(["sub-1"], ["sub-2", "sub-3"])
    folder.add("derivatives/x/sub-2/ses-1/anat/sub-2_ses-1_FLAIR_roi.nii.gz")
    folder.add("derivatives/fmriprep/sub-3/anat/sub-3_desc-brain_mask.nii.gz")
    folder.add("derivatives/fmriprep/sub-3/anat/sub-3_label-GM_probseg.nii.gz")
    rows = folder.read()
    assert flags_of(rows["sub-2"]) == ["no_mask"] and "data.mask_root" in rows["sub-2"].flags[0].reason
    assert rows["sub-3"].flags == () and rows["sub-3"].group == "control"


def test_without_derivatives_the_error_says_nothing_of_them(folder):
    folder.subjects([], ["sub-1"])
    with pytest.raises(DataError) as caught:
        folder.read()
    assert "mask_root" not in str(caught.value)
