"""Links in output folders: what they name outside is never changed."""

from pathlib import Path

import pytest
from helpers.workflow_runs import snakemake, write_study

from slimdiff.export.folder import RECORD, replacing_folder
from slimdiff.files import write_table, write_text


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder with a file that no attack may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("precious")
    yield folder
    assert (folder / "file").read_text() == "precious"
    assert {path.name for path in folder.iterdir()} <= {"file", RECORD}


@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "new"), lambda path: write_table(path, [{"a": 1}], ["a"])]
)
def test_a_file_replaces_a_link(outside, tmp_path, write):
    path = tmp_path / "results.tsv"
    path.symlink_to(outside / "file")
    write(path)
    assert not path.is_symlink() and path.is_file()


def export(folder: Path) -> None:
    with replacing_folder(folder) as draft:
        (draft / "case").write_text("new")


@pytest.mark.parametrize("record", [None, '{"files": ["file"]}'])
def test_an_export_that_is_a_link_is_named(outside, tmp_path, record):
    """Also if a forged record says that an export wrote the files behind it."""
    if record:
        (outside / RECORD).write_text(record)
    folder = tmp_path / "export"
    folder.symlink_to(outside)
    with pytest.raises(FileExistsError, match="export: expected a folder, found a link"):
        export(folder)


def test_a_link_inside_of_an_export_goes_and_its_folder_stays(outside, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "inner").symlink_to(outside)
    export(folder)
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, "case"]


@pytest.mark.parametrize("target", ["outside", "nothing"])
def test_a_link_in_the_place_of_the_draft_is_replaced(outside, tmp_path, target):
    (tmp_path / ".export.partial").symlink_to(tmp_path / target)
    export(tmp_path / "export")
    assert (tmp_path / "export" / "case").read_text() == "new"


def test_the_engine_writes_through_no_link_among_results(outside, tmp_path):
    results = tmp_path / "results" / "tiny"
    stage = "participants"
    names = (
        f"{stage}.tsv",
        "quality.tsv",
        f"logs/{stage}.log",
        f"benchmarks/{stage}.tsv",
        "quality/settings.txt",
    )
    for name in names:
        link = results / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside / "file")
    study = str(write_study(tmp_path))
    options = ("--cores", "1", "--forcerun", stage, "--until", stage, "--configfile", study)
    done = snakemake(*options, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (results / f"{stage}.tsv").read_text().startswith("participant_id")
    assert not any((results / name).is_symlink() for name in names)
