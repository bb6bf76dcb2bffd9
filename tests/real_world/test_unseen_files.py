"""Files that lie in the dataset's folder, but not where BIDS puts them, are not left out silently."""

import pytest

from slimdiff.data.participants import DataError

PATIENTS, OTHERS = ["sub-01", "sub-02"], ["sub-03", "sub-04"]

MASKS = {
    "another format": "sub-03/anat/sub-03_FLAIR_roi.seg.nrrd",
    "FreeSurfer's format": "sub-03/anat/sub-03_label-lesion.mgz",
    "a pair of files": "sub-03/anat/sub-03_FLAIR_roi.img",
    "a folder of its own": "sub-03/lesion/sub-03_FLAIR_roi.nii.gz",
    "a folder of masks": "sub-03/masks/sub-03_FLAIR_mask.nii.gz",
    "the folder says it": "sub-03/Lesions/native.nii.gz",
    "a spelling of the subject": "sub-03/anat/sub-3_FLAIR_roi.nii.gz",
    "no subject": "sub-03/anat/ROI.nii.gz",
    "a copy": "sub-03/anat/sub-03_FLAIR_roi (1).nii.gz",
    "anat in capitals": "sub-03/ANAT/sub-03_FLAIR_roi.nii.gz",
    "the subject's folder": "sub-03/sub-03_FLAIR_roi.nii.gz",
    "one folder for all": "lesions/sub-03_FLAIR.nii.gz",
    "one folder for all in derivatives": "derivatives/masks/sub-03_roi.nii.gz",
    "derivatives without anat": "derivatives/itksnap/sub-03/sub-03_roi.nii.gz",
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_that_is_not_where_masks_are_read_makes_no_control(case, folder, flags_of):
    folder.subjects(PATIENTS, OTHERS)
    folder.add(MASKS[case])
    rows = folder.read()
    assert flags_of(rows["sub-03"]) == ["no_mask"] and flags_of(rows["sub-04"]) == []
    reason = rows["sub-03"].flags[0].reason
    assert MASKS[case] in reason and "participants.tsv" in reason


OTHER_FILES = (
    "sub-03/anat/sub-03_FLAIR_roi.nii.gz:Zone.Identifier",
    "sub-03/anat/.AppleDouble/sub-03_FLAIR_roi.nii.gz",
    "sub-03/anat/._sub-03_FLAIR_roi.nii.gz",
    "sub-03/anat/sub-03_FLAIR_roi.json",
    "sub-03/func/sub-03_task-roi_bold.nii.gz",
    "sub-03/mri/brainmask.mgz",
    "sub-03/mri/aseg.mgz",
    "sub-03/mri/wm.seg.mgz",
    "sub-03/anat/sub-03_label-GM_mask.nii",
    "sub-03/brain/sub-03_desc-brain_mask.nii.gz",
    "derivatives/fmriprep/sub-03/figures/sub-03_desc-brain_mask.nii.gz",
    "derivatives/fmriprep/sub-03.html",
    "code/sub-03_roi.py",
)


def test_other_files_are_no_masks(folder, flags_of):
    folder.subjects(PATIENTS, OTHERS)
    folder.add(*OTHER_FILES)
    (folder.root / "sub-03" / "loop").symlink_to("..")
    rows = folder.read()
    assert flags_of(rows["sub-03"]) == [] and rows["sub-03"].group == "control"


def test_a_stated_control_may_have_any_file(folder, flags_of):
    folder.subjects(PATIENTS, OTHERS)
    folder.add(*MASKS.values())
    folder.describe("participant_id group", *(f"{name} fcd" for name in PATIENTS), "sub-03 hc", "sub-04 hc")
    assert flags_of(folder.read()["sub-03"]) == []


def test_masks_that_lie_elsewhere_for_all_are_named(folder):
    folder.subjects((), [*PATIENTS, *OTHERS])
    folder.add(*(f"lesions/{name}_mask.nii.gz" for name in PATIENTS))
    (folder.root / "sub-01/anat/sub-01_FLAIR.nii.gz").rename(folder.root / "sub-01/anat/sub-01_FLAIR.nii")
    with pytest.raises(DataError, match=r"Found 2 files named as lesion masks.*sub-01_mask\.nii\.gz"):
        folder.read(patients_without_mask="control")


IMAGES = {
    "anat in capitals": "sub-03/Anat/sub-03_FLAIR.nii.gz",
    "the subject's folder": "sub-03/sub-03_FLAIR.nii.gz",
    "the subject in capitals": "sub-03/anat/SUB-03_FLAIR.nii.gz",
    "FreeSurfer's format": "sub-03/anat/sub-03_FLAIR.mgz",
    "a pair of files": "sub-03/anat/sub-03_FLAIR.hdr",
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_is_not_where_images_are_read_is_no_reason_to_exclude(case, folder, flags_of):
    folder.subjects(PATIENTS, ["sub-04"])
    folder.add(IMAGES[case])
    row = folder.read()["sub-03"]
    assert flags_of(row) == ["missing_file"] and IMAGES[case] in row.flags[0].reason


@pytest.mark.parametrize("other", ["SUB-05", "Sub-05", "sub05", "P05", "P05/ses-1"])
def test_folders_of_subjects_under_other_names_are_not_left_out(other, folder):
    folder.subjects(PATIENTS, OTHERS)
    folder.add(f"{other}/anat/x_FLAIR.nii.gz")
    with pytest.raises(DataError, match=f"found also {other.partition('/')[0]}, .*left out"):
        folder.read()


def test_folders_of_other_things_are_left_alone(folder):
    folder.subjects(PATIENTS, OTHERS)
    folder.add("derivatives/anat/x.nii", "sourcedata/anat/x", "code/run.py", ".git/anat/x", "subjects.txt")
    assert len(folder.read()) == 4


@pytest.mark.parametrize(
    "name",
    ["participants.csv", "participants.xlsx", "participants.tsv.txt", "Participants.tsv", "participant.tsv"],
)
def test_a_table_of_another_format_is_not_left_out(name, folder):
    """Its groups would be lost, and two patients without a mask would be controls."""
    folder.subjects(PATIENTS, OTHERS)
    folder.describe("participant_id group", *(f"{who} fcd" for who in (*PATIENTS, *OTHERS)), name=name)
    with pytest.raises(DataError, match=f"expected participants.tsv .*found {name}"):
        folder.read()
    folder.describe("participant_id group", *(f"{who} fcd" for who in (*PATIENTS, *OTHERS)))
    assert folder.read()["sub-03"].group == "fcd"


def test_a_description_of_columns_is_no_table(folder):
    folder.subjects(PATIENTS, OTHERS)
    folder.add("participants.json")
    assert len(folder.read()) == 4
