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


UNKNOWN = (*TABLE[:2], TABLE[-1], "who who.nii n/a n/a", "p9 p9.nii p9_roi.nii n/a")


def test_who_has_neither_group_nor_mask_is_no_control_where_others_have_a_group(folder, flags_of):
    """A table excludes, a folder is an error; a mask says enough."""
    rows = folder.read_table(*UNKNOWN)
    assert "it has no group, and others have one" in rows["who"].excluded and KEY in rows["who"].excluded
    assert rows["p9"].included and rows["p9"].group == "patient"
    (folder.root / "bids").mkdir()
    bids = type(folder)(folder.root / "bids")
    bids.subjects(["sub-1", "sub-2"], ["sub-3", "sub-4", "sub-5"])
    bids.describe("participant_id group", "sub-1 fcd", "sub-2 n/a", "sub-3 n/a", "sub-4 hc")
    rows = bids.read()
    flags = {name: flags_of(row) for name, row in rows.items()}
    # sub-5 has no row at all.
    assert flags == {"sub-1": [], "sub-2": [], "sub-3": ["no_mask"], "sub-4": [], "sub-5": ["no_mask"]}
    reason = rows["sub-3"].flags[0].reason
    assert "add the mask or the group" in reason and f"{KEY}: exclude" in reason


@pytest.mark.parametrize("setting", ["error", "exclude", "control"])
def test_the_study_settles_who_has_neither_group_nor_mask(setting, folder, flags_of):
    row = folder.read_table(*UNKNOWN, patients_without_mask=setting)["who"]
    assert row.included == (setting != "exclude")
    assert flags_of(row) == (["no_mask"] if setting == "error" else [])
    assert row.group == "control"


def test_an_exclusion_by_name_or_group_comes_first(folder):
    rows = folder.read_table(*UNKNOWN, exclude={"who": "moved"}, patients_without_mask="error")
    assert rows["who"].excluded == "moved" and rows["who"].flags == ()
    rows = folder.read_table(*UNKNOWN, groups=("fcd", "hc"), patients_without_mask="error")
    assert "data.groups" in rows["who"].excluded and rows["who"].flags == ()


def test_a_lost_image_states_no_group_of_the_others(folder, flags_of):
    """No subject has a group; the image of sub-4 has nearly the right name."""
    folder.subjects(["sub-1", "sub-2"], ["sub-3"])
    folder.add("sub-4/anat/sub-4_flair.nii.gz", "sub-5/anat/sub-5_FLAIR_roi.nii.gz")
    flags = {name: flags_of(row) for name, row in folder.read().items()}
    lost = ["missing_file"]
    assert flags == {"sub-1": [], "sub-2": [], "sub-3": [], "sub-4": lost, "sub-5": lost}
