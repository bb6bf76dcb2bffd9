"""participants.tsv as spreadsheets and editors save it: no participant, group, site or split is lost without a word."""

import pytest

from slimdiff.data.participants import DataError
from slimdiff.data.sources.described import folders_of
from slimdiff.files import read_table

NAMES = [f"sub-{number:03d}" for number in range(1, 13)]


@pytest.fixture
def cohort(folder):
    """Twelve subjects, the first ten with a mask."""
    folder.subjects(NAMES[:10], NAMES[10:])
    return folder


def described(
    cohort, ids=NAMES, header="participant_id\tgroup\tsite\tsplit\tnote", end="\n", note="x"
) -> None:
    rows = [
        f"{name}\t{'fcd' if number < 10 else 'hc'}\tsite{number % 2}\t{'test' if number % 3 == 0 else 'train'}\t{note}"
        for number, name in enumerate(ids)
    ]
    (cohort.root / "participants.tsv").write_text(end.join([header, *rows]) + "\n")


def facts(cohort) -> list[tuple]:
    return [(name, row.group, row.site, row.split, row.included) for name, row in cohort.read().items()]


@pytest.fixture
def expected(cohort) -> list[tuple]:
    described(cohort)
    found = facts(cohort)
    assert len(found) == 12 and {row[1] for row in found} == {"fcd", "hc"}
    return found


@pytest.mark.parametrize("note", ['"unclosed', 'a "quoted" word', '"', '"closed"', "it's"])
def test_a_quote_is_a_character(cohort, expected, note):
    described(cohort, note=note)
    assert facts(cohort) == expected
    assert {row.further["note"] for row in cohort.read().values()} == {note}


@pytest.mark.parametrize("tabs", ["\t", "\t\t\t", "\t \t"])
def test_tabs_at_line_ends_are_no_cells(cohort, expected, tabs):
    described(cohort, end=f"{tabs}\n")
    assert facts(cohort) == expected
    described(cohort, note="x" + tabs)
    assert facts(cohort) == expected, "the header has no tabs"
    described(cohort, header="participant_id\tgroup\tsite\tsplit\tnote" + tabs)
    assert facts(cohort) == expected, "only the header has tabs"


@pytest.mark.parametrize("blank", ["\n", "\n\t\t\t\t\n", "\n \n", "\n\t\t\n\n", "\r\n\t\r\n"])
def test_rows_of_tabs_and_blank_rows_are_no_participants(cohort, expected, blank):
    described(cohort, end=blank)
    assert facts(cohort) == expected


def test_a_blank_row_does_not_change_the_line_of_a_fault(folder):
    folder.add("a.nii")
    (folder.root / "table.tsv").write_text(
        "participant_id\timage\tmask\n\t\t\n\nb\tgone.nii\tn/a\na\ta.nii\ta.nii\n"
    )
    row = folder.discover(source="table", table=str(folder.root / "table.tsv"))["b"]
    assert "line 4" in row.flags[0].reason
    (folder.root / "table.tsv").write_text("participant_id\timage\tmask\n\n\t\t\na\ta.nii\n")
    with pytest.raises(DataError, match="line 4: expected 3 cells, found 2"):
        folder.discover(source="table", table=str(folder.root / "table.tsv"))


def test_a_value_beyond_the_header_is_an_error(cohort):
    described(cohort, note="x\ty")
    with pytest.raises(DataError, match=r"participants\.tsv, line 2: expected 5 cells, found 6"):
        cohort.read()


@pytest.mark.parametrize(
    "written",
    [
        lambda name, n: str(n),
        lambda name, n: f"sub-{n}",
        lambda name, n: f"{n}.0",
        lambda name, n: f"{n:03d}",
        # A spreadsheet keeps those cells that it takes for text.
        lambda name, n: name if n % 2 else str(n),
    ],
)
def test_ids_that_lost_their_zeros_name_their_folder(cohort, expected, written):
    described(cohort, [written(name, number) for number, name in enumerate(NAMES, start=1)])
    assert facts(cohort) == expected


def test_a_number_that_fits_two_folders_or_has_more_zeros_names_none():
    folders = {"sub-01", "sub-001", "sub-7", "sub-A1"}
    found = folders_of(["1", "sub-01", "007", "7", "A1", "1.0"], folders)
    assert found == {"1": "1", "sub-01": "sub-01", "007": "007", "7": "sub-7", "A1": "sub-A1", "1.0": "1.0"}


def test_two_rows_that_name_one_folder_are_an_error(cohort):
    described(cohort, [*NAMES, "1"])
    with pytest.raises(DataError, match=r"participants\.tsv.*duplicate participant sub-001"):
        cohort.read()


def test_rows_without_a_folder_and_folders_without_a_row_are_an_error(cohort):
    described(cohort, ["sub-O01", *NAMES[1:]])
    with pytest.raises(
        DataError, match=r"1 rows without a folder \(sub-O01\) and 1 folders without a row \(sub-001\)"
    ):
        cohort.read()
    # Each alone is usual: a subject that was not scanned, or one that was not described.
    described(cohort, [*NAMES, "sub-100"])
    assert cohort.read()["sub-100"].excluded == "no _FLAIR image"
    described(cohort, NAMES[:11])
    assert cohort.read()[NAMES[11]].group == "control"
    described(cohort, [*NAMES[:11], "sub-100"])
    assert cohort.read(exclude={"sub-100": "not scanned"})[NAMES[11]].included


def test_a_csv_keeps_its_quoting_and_an_unclosed_quote_is_an_error(folder):
    folder.add("a, 1.nii", "b.nii", "roi.nii")
    path = folder.root / "table.csv"
    lines = ["participant_id,image,mask,note", 'a,"a, 1.nii",roi.nii,"said ""no"""', "b,b.nii,n/a,x"]
    path.write_text("\n".join(lines) + "\n")
    rows = folder.discover(source="table", table=str(path))
    assert (rows["a"].image.name, rows["a"].further["note"]) == ("a, 1.nii", 'said "no"')
    path.write_text("\n".join([lines[0], 'a,"a, 1.nii",roi.nii,"open', *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=r"table\.csv: .*quote"):
        folder.discover(source="table", table=str(path))
    # A later quote closes it; what is between is no cell.
    path.write_text(
        "\n".join([lines[0], 'a,"a, 1.nii",roi.nii,"open', "b,b.nii,n/a,x", 'c,b.nii,n/a,y"']) + "\n"
    )
    with pytest.raises(DataError, match=r"table\.csv, line 4: column note has a line break"):
        folder.discover(source="table", table=str(path))


def test_a_column_without_a_name_that_has_values_stays_a_column(folder):
    path = folder.root / "t.tsv"
    path.write_text("a\tb\t\n1\t2\t3\n4\t5\n")
    with pytest.raises(ValueError, match="line 3: expected 3 cells, found 2"):
        read_table(path)
    path.write_text("a\tb\t\n1\t2\t\n4\t5\n")
    assert read_table(path) == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]


def test_a_csv_of_a_spreadsheet_has_semicolons_where_the_comma_is_decimal(folder):
    """With a byte-order mark and the line ends of Windows."""
    folder.add("a.nii", "a_roi.nii", "b.nii")
    table = folder.root / "table.csv"
    lines = ("participant_id;image;mask;age", "p1;a.nii;a_roi.nii;31,5", 'p2;"b.nii";n/a;"40,0"', "")
    table.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    rows = folder.discover(source="table", table=str(table))
    assert rows["p1"].mask == folder.root / "a_roi.nii" and rows["p1"].further == {"age": "31,5"}
    assert rows["p2"].mask is None and rows["p2"].flags == ()


@pytest.mark.parametrize("sign", [";", ",", "|"])
def test_a_tsv_without_tabs_says_what_separates_its_columns(sign, folder):
    folder.subjects(["sub-1"], ["sub-2"])
    folder.describe(f"participant_id{sign}group", f"sub-1{sign}fcd")
    with pytest.raises(
        DataError, match=f"participants.tsv: no column .*separated by '[{sign}]', expected tabs"
    ):
        folder.read()


def test_a_path_that_leads_to_no_file_says_what_may_be_wrong(folder):
    lines = ("participant_id image mask", "p1 a.nii a_roi.nii", "p2 p2\\flair.nii none", "p3 sub/c.nii -")
    table = folder.describe(*lines, name="table.tsv")
    folder.add("a.nii", "a_roi.nii")
    rows = folder.discover(source="table", table=str(table))
    reasons = {name: [flag.reason for flag in row.flags] for name, row in rows.items()}
    assert reasons["p1"] == []
    assert reasons["p2"][0].endswith("write / instead of \\ in paths")
    assert reasons["p2"][1].endswith("none not found; if there is no mask, write n/a")
    assert reasons["p3"][0].endswith("paths are relative to the folder of the table")
    assert reasons["p3"][1].endswith("if there is no mask, write n/a")
