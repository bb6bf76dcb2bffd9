"""`data.entities` chooses among the images of a subject; it does not choose subjects."""

import pytest

from slimdiff.data.participants import DataError

MANY = [f"sub-{number}" for number in range(1, 9)]


def image(subject: str, entities: str = "") -> str:
    session = next((f"{part}/" for part in entities.split("_") if part.startswith("ses-")), "")
    return f"{subject}/{session}anat/{subject}{entities and '_' + entities}_FLAIR.nii.gz"


@pytest.fixture
def cohort(folder):
    """Eight patients with one image that has no entity."""
    folder.subjects(MANY)
    return folder


def test_an_entity_that_settles_one_subject_drops_no_other(cohort):
    cohort.add(image("sub-9", "run-1"), image("sub-9", "run-2"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    rows = cohort.read(entities={"run": "1"})
    assert all(row.included and not row.flags for row in rows.values())
    assert rows["sub-9"].image.name == "sub-9_run-1_FLAIR.nii.gz"


@pytest.mark.parametrize(("asked", "named"), [("1", "01"), ("01", "1"), ("001", "01")])
def test_1_is_01(cohort, asked, named):
    cohort.add(image("sub-9", f"run-{named}"), image("sub-9", "run-02"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    assert cohort.read(entities={"run": asked})["sub-9"].image.name == f"sub-9_run-{named}_FLAIR.nii.gz"


def test_a_mask_s_session_1_is_the_image_s_session_01(cohort):
    cohort.add(image("sub-9", "ses-01"), "sub-9/ses-1/anat/sub-9_ses-1_FLAIR_roi.nii.gz")
    row = cohort.read()["sub-9"]
    assert row.is_patient and row.flags == ()


def test_the_session_may_be_in_the_folder_only(cohort):
    for session in ("ses-1", "ses-2"):
        cohort.add(f"sub-9/{session}/anat/sub-9_FLAIR.nii.gz", f"sub-9/{session}/anat/sub-9_FLAIR_roi.nii.gz")
    row = cohort.read(entities={"ses": "2"})["sub-9"]
    assert (row.image.parent.parent.name, row.mask.parent.parent.name, row.flags) == ("ses-2", "ses-2", ())


def test_an_image_without_the_entity_is_chosen_only_if_no_other_has_it(cohort):
    cohort.add(image("sub-9"), image("sub-9", "acq-sag"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    assert cohort.read(entities={"acq": "sag"})["sub-9"].image.name == "sub-9_acq-sag_FLAIR.nii.gz"
    cohort.add(image("sub-8", "acq-cor"))
    row = cohort.read(entities={"acq": "sag"})["sub-8"]
    assert row.image.name == "sub-8_FLAIR.nii.gz", "cor is not sag"


def test_two_images_that_the_entities_do_not_tell_apart_stay_two(cohort, flags_of):
    cohort.add(
        image("sub-9", "run-1_acq-a"), image("sub-9", "run-1_acq-b"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz"
    )
    assert flags_of(cohort.read(entities={"run": "1"})["sub-9"]) == ["several_images"]


def test_an_only_image_with_another_value_is_not_the_one_asked_for(cohort):
    """Session 2 of a patient may be the one after surgery: it never replaces session 1 without a word."""
    cohort.add(*(image(name, f"ses-{number}") for number, name in enumerate(("sub-9", "sub-10"), start=1)))
    cohort.add("sub-9/anat/sub-9_FLAIR_roi.nii.gz", "sub-10/anat/sub-10_FLAIR_roi.nii.gz")
    rows = cohort.read(entities={"ses": "1"})
    assert rows["sub-9"].included
    assert rows["sub-10"].excluded == (
        "no _FLAIR image with ses-1 (data.entities), only sub-10_ses-2_FLAIR.nii.gz"
    )


def test_an_only_run_is_kept_whatever_its_number(cohort, flags_of):
    """Runs of an acquisition are repeats of it: where the first was discarded, the second is the image."""
    cohort.add(image("sub-9", "run-1"), image("sub-9", "run-2"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    cohort.add(image("sub-10", "run-2"), "sub-10/anat/sub-10_FLAIR_roi.nii.gz")
    cohort.add(image("sub-11", "run-2"), image("sub-11", "run-3"), "sub-11/anat/sub-11_FLAIR_roi.nii.gz")
    rows = cohort.read(entities={"run": "1"})
    assert rows["sub-9"].image.name == "sub-9_run-1_FLAIR.nii.gz"
    assert rows["sub-10"].image.name == "sub-10_run-2_FLAIR.nii.gz" and rows["sub-10"].included
    assert rows["sub-11"].excluded.startswith("no _FLAIR image with run-1"), (
        "none of two is the one asked for"
    )


def test_an_only_run_of_another_session_is_not_the_one_asked_for(cohort):
    cohort.add(image("sub-9", "ses-1_run-1"), "sub-9/ses-1/anat/sub-9_ses-1_FLAIR_roi.nii.gz")
    cohort.add(image("sub-10", "ses-2_run-1"), "sub-10/ses-2/anat/sub-10_ses-2_FLAIR_roi.nii.gz")
    cohort.add(image("sub-11", "ses-1_run-2"), image("sub-11", "ses-2_run-1"))
    cohort.add("sub-11/ses-1/anat/sub-11_ses-1_FLAIR_roi.nii.gz")
    rows = cohort.read(entities={"ses": "1", "run": "1"})
    assert not rows["sub-10"].included
    assert rows["sub-11"].image.name == "sub-11_ses-1_run-2_FLAIR.nii.gz"


def test_dropping_more_than_a_fifth_is_an_error(cohort):
    cohort.add(image("sub-9", "acq-sag"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    extra = ["sub-10", "sub-11", "sub-12"]
    for name in extra[:2]:
        cohort.add(image(name, "acq-cor"), f"{name}/anat/{name}_FLAIR_roi.nii.gz")
    dropped = [name for name, row in cohort.read(entities={"acq": "sag"}).items() if not row.included]
    assert dropped == ["sub-10", "sub-11"], "2 of 11 are less than a fifth"
    cohort.add(image("sub-12", "acq-cor"), "sub-12/anat/sub-12_FLAIR_roi.nii.gz")
    with pytest.raises(
        DataError, match=r"\(acq-sag\) drops 3 of 12 .*sub-10, sub-11, sub-12.*entities_may_drop"
    ):
        cohort.read(entities={"acq": "sag"})
    assert len(cohort.read(entities={"acq": "sag"}, entities_may_drop=0.25)) == 12
    assert cohort.read(entities={"acq": "sag"}, exclude={"sub-10": "motion"})["sub-11"].excluded != "n/a"


def test_an_entity_that_no_image_has_is_an_error(cohort):
    cohort.add(image("sub-9", "acq-sag"), "sub-9/anat/sub-9_FLAIR_roi.nii.gz")
    with pytest.raises(DataError, match=r"with acq-sagittal, found acq-sag; correct data\.entities"):
        cohort.read(entities={"acq": "sagittal"})
