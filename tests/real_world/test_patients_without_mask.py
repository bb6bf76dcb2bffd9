"""A patient without a visible lesion (MRI-negative) is not learned as lesion-free tissue unless the study says so."""

import pytest

from slimdiff.data.composition import composition

TABLE = (
    "participant_id image mask group",
    "p1 p1.nii p1_roi.nii fcd",
    "p2 p2.nii p2_roi.nii FCD",
    "negative negative.nii n/a fcd",
    "c1 c1.nii n/a hc",
)
KEY = "data.patients_without_mask"


def test_a_table_s_patient_without_mask_is_excluded_with_the_key(folder):
    rows = folder.read_table(*TABLE)
    assert rows["negative"].excluded.startswith("no lesion mask, but others of group fcd have one")
    assert KEY in rows["negative"].excluded
    assert [row.participant_id for row in rows.values() if row.included and not row.is_patient] == ["c1"]


def test_a_group_that_is_named_as_one_of_patients_needs_no_mask_to_be_one(folder):
    row = folder.read_table(*TABLE, "x x.nii n/a patients")["x"]
    assert row.excluded.startswith("no lesion mask, but group patients is one of patients")


def test_the_study_may_use_them_as_controls(folder):
    rows = folder.read_table(*TABLE, patients_without_mask="control")
    assert rows["negative"].included and rows["negative"].flags == ()
    text = "\n".join(composition(list(rows.values())))
    assert "group fcd has masks; without one, learned as lesion-free: 1 (negative)" in text


def test_the_study_may_make_them_an_error(folder, flags_of):
    row = folder.read_table(*TABLE, patients_without_mask="error")["negative"]
    assert flags_of(row) == ["no_mask"] and KEY in row.flags[0].reason and "table.tsv" in row.flags[0].reason


def test_a_table_without_a_group_says_by_n_a_who_is_a_control(folder):
    rows = folder.read_table(*(line.rsplit(" ", 1)[0] for line in TABLE))
    assert rows["negative"].included and rows["negative"].group == "control"


@pytest.mark.parametrize("setting", [None, "error", "exclude", "control"])
def test_a_folder_without_a_mask_is_an_error_unless_the_study_says_so(folder, flags_of, setting):
    folder.subjects(["sub-1", "sub-2"], ["sub-3", "sub-4"])
    folder.describe("participant_id dx", "sub-1 fcd", "sub-2 fcd", "sub-3 fcd", "sub-4 hc")
    row = folder.read(patients_without_mask=setting)["sub-3"]
    if setting == "exclude":
        assert not row.included and KEY in row.excluded
    elif setting == "control":
        assert row.included and row.flags == () and row.group == "fcd"
    else:
        assert flags_of(row) == ["no_mask"] and KEY in row.flags[0].reason


def test_a_participant_excluded_by_name_keeps_its_own_reason(folder):
    assert folder.read_table(*TABLE, exclude={"negative": "motion"})["negative"].excluded == "motion"
