"""A patient whose mask is lost is never a control, however the table writes columns and values."""

from pathlib import Path

import pytest

from slimdiff.data.composition import composition, unread_columns
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.sources.columns import role_of, same_word, split_word

PATIENTS, LOST, CONTROLS = ("sub-1", "sub-2"), "sub-3", ("sub-4", "sub-5")


@pytest.fixture
def with_lost_mask(folder):
    """Two patients with a mask, one whose mask is lost, and two controls."""
    folder.subjects(PATIENTS, (LOST, *CONTROLS))
    return folder


@pytest.mark.parametrize(
    "column", ["group", "Group", "GROUP", "diagnosis", "Diagnosis", "dx", "DX", "DX_GROUP", "Patient-Group"]
)
def test_the_column_of_the_group_is_found_in_any_spelling(with_lost_mask, flags_of, column):
    with_lost_mask.describe(
        f"participant_id {column}",
        *(f"{name} fcd" for name in (*PATIENTS, LOST)),
        *(f"{n} hc" for n in CONTROLS),
    )
    rows = with_lost_mask.read()
    assert flags_of(rows[LOST]) == ["no_mask"]
    assert [rows[name].group for name in (*PATIENTS, LOST, *CONTROLS)] == ["fcd"] * 3 + ["hc"] * 2
    assert not any(rows[name].flags for name in CONTROLS)


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ("FCD", "fcd"),
        ('"fcd"', "fcd"),
        ("Patients", "patient"),
        ("1", "01"),
        ("1.0", "1"),
        ("fcd-II", "FCD_ii"),
    ],
)
def test_two_spellings_of_a_group_are_one_group(with_lost_mask, flags_of, value, other):
    with_lost_mask.describe(
        "participant_id group",
        *(f"{name} {other}" for name in PATIENTS),
        f"{LOST} {value}",
        *(f"{name} hc" for name in CONTROLS),
    )
    rows = with_lost_mask.read()
    assert flags_of(rows[LOST]) == ["no_mask"]
    assert {rows[name].group for name in (*PATIENTS, LOST)} == {other}, "the most frequent spelling"


@pytest.mark.parametrize(
    ("one", "other"),
    [("MRI+", "MRI-"), ("1", "10"), ("-1", "1"), ("1.5", "15"), ("MS", "M"), ("FCD I", "FCD II")],
)
def test_values_that_mean_different_things_stay_apart(one, other):
    assert same_word(one) != same_word(other)


def test_a_group_of_patients_by_name_without_masks_is_flagged(with_lost_mask, flags_of):
    with_lost_mask.describe(
        "participant_id group",
        *(f"{name} fcd" for name in PATIENTS),
        f"{LOST} patient",
        *(f"{name} hc" for name in CONTROLS),
    )
    assert flags_of(with_lost_mask.read()[LOST]) == ["no_mask"]


def test_site_and_split_are_found_in_any_spelling(with_lost_mask):
    with_lost_mask.describe(
        "Participant_ID Dx Centre Partition",
        "sub-1 fcd Bonn Training",
        "sub-2 fcd bonn TEST",
        "sub-4 hc Bonn testing",
        "sub-5 hc N/A val",
        "sub-3 other Bonn hold-out",
    )
    rows = with_lost_mask.read()
    assert [rows[f"sub-{n}"].site for n in (1, 2, 4, 5)] == ["Bonn", "Bonn", "Bonn", "n/a"]
    assert [rows[f"sub-{n}"].split for n in (1, 2, 4, 5, 3)] == ["train", "test", "test", "val", "test"]
    assert split_word("fold-3") == "fold-3"


def test_the_columns_of_a_table_of_paths_are_found_in_any_spelling(folder):
    row = folder.read_table(
        "Participant_ID Image MASK Brain-Mask Group Center", "a a.nii a_roi.nii a_brain.nii FCD bonn"
    )["a"]
    assert (row.image.name, row.mask.name, row.brain_mask.name) == ("a.nii", "a_roi.nii", "a_brain.nii")
    assert (row.group, row.site) == ("FCD", "bonn")


def test_two_columns_of_one_name_but_for_case_are_an_error(with_lost_mask):
    with_lost_mask.describe("participant_id group Group", "sub-1 fcd hc")
    with pytest.raises(DataError, match=r"participants\.tsv: columns 'group' and 'Group' have one meaning"):
        with_lost_mask.read()


@pytest.mark.parametrize(
    ("wanted", "kept"), [("FCD", "fcd"), ("fcd", "fcd"), ("control", "hc"), ("Healthy", "hc")]
)
def test_data_groups_are_matched_in_any_spelling(with_lost_mask, wanted, kept):
    with_lost_mask.describe(
        "participant_id group",
        *(f"{n} fcd" for n in PATIENTS),
        *(f"{n} hc" for n in CONTROLS),
        f"{LOST} other",
    )
    rows = with_lost_mask.read(groups=("fcd", wanted))
    assert {row.group for row in rows.values() if row.included} == {"fcd", kept}


def test_a_synonym_of_several_groups_is_an_error(with_lost_mask):
    with_lost_mask.describe(
        "participant_id group",
        *(f"{n} fcd" for n in PATIENTS),
        "sub-4 hc",
        "sub-5 volunteer",
        f"{LOST} other",
    )
    with pytest.raises(DataError, match=r"data\.groups: .*'control', which may mean hc or volunteer"):
        with_lost_mask.read(groups=("fcd", "control"))
    assert role_of("Healthy Controls") == role_of("HC") == "control"
    assert role_of("fcd") is None


def person(name: str, group: str, mask: bool, **more) -> Participant:
    return Participant(name, group, Path("image"), Path("mask") if mask else None, **more)


def test_the_end_of_the_stage_says_who_counts_as_what():
    rows = [
        person("p1", "fcd", True, site="bonn"),
        person("p2", "fcd", True, site="kiel"),
        person("p3", "fcd", False, site="kiel"),
        person("c1", "hc", False, site="bonn"),
        person("x1", "epilepsy", False, site="bonn"),
        person("e1", "hc", False, site="bonn", excluded="motion"),
    ]
    lines = composition(rows)
    cells = {tuple(line.split()[:2]): line.split()[2:] for line in lines[1:7]}
    assert " ".join(lines[1].split()) == (
        "group site patients with mask patients without mask controls excluded"
    )
    assert cells["fcd", "bonn"] == ["1", "0", "0", "0"]
    assert cells["fcd", "kiel"] == ["1", "1", "0", "0"]
    assert cells["hc", "bonn"] == ["0", "0", "1", "1"]
    assert cells["all", "2"] == ["1", "2", "1"]
    text = "\n".join(lines)
    assert "Check: group fcd has masks; without one, learned as lesion-free: 1 (p3)" in text
    assert "Check: group epilepsy has no mask; its members count as controls: 1 (x1)" in text
    assert "group hc" not in text, "its name says that they are controls"
    assert "e1: excluded: motion" in lines
    assert lines[-1] == "5 participants included, 1 excluded"


def test_a_column_that_is_not_read_and_has_few_values_is_named(with_lost_mask):
    with_lost_mask.describe(
        "participant_id cohort age diagnosis_note dx",
        "sub-1 pat 31 a fcd",
        "sub-2 pat 32 b fcd",
        "sub-3 ctl 33 c hc",
        "sub-4 ctl 34 d hc",
        "sub-5 ctl 35 e hc",
    )
    rows = list(with_lost_mask.read().values())
    assert unread_columns(rows) == {"cohort": ["ctl", "pat"]}
    assert "Check: column cohort is not read; it has the values ctl, pat" in composition(rows)


def test_a_column_of_the_group_that_another_one_hides_is_named(with_lost_mask):
    with_lost_mask.describe(
        "participant_id group dx", "sub-1 A fcd", "sub-2 A fcd", "sub-3 B hc", "sub-4 B hc", "sub-5 B hc"
    )
    assert unread_columns(list(with_lost_mask.read().values())) == {"dx": ["fcd", "hc"]}


def test_a_column_with_a_name_of_the_study_s_table_is_not_lost(with_lost_mask):
    """`excluded` of a source is not read: the study says who is excluded."""
    with_lost_mask.describe(
        "participant_id group Excluded mask",
        *("sub-1 fcd n/a a", "sub-2 fcd motion a", "sub-3 x n/a a", "sub-4 hc n/a a", "sub-5 hc n/a b"),
    )
    rows = list(with_lost_mask.read().values())
    assert rows[1].included and rows[1].further == {"Excluded (source)": "motion", "mask (source)": "a"}
    assert "Check: column Excluded (source) is not read; it has the values motion, n/a" in composition(rows)


def test_controls_of_two_names_are_named(with_lost_mask):
    """A subject that the table does not describe counts as a control if it has no mask."""
    with_lost_mask.describe("participant_id group", *(f"{n} fcd" for n in PATIENTS), "sub-4 hc", "sub-5 hc")
    text = "\n".join(composition(list(with_lost_mask.read().values())))
    assert "several groups of controls: control 1, hc 2; control includes those without a mask and" in text
