import pytest
from helpers.kills import KILL, run_until

from slimdiff.export.folder import replacing_folder


def make(folder, *names: str) -> None:
    with replacing_folder(folder) as draft:
        for name in names:
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)


def files(folder) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return names - {".slimdiff-export.json"}


def test_a_second_export_replaces_the_first(tmp_path):
    make(tmp_path / "x", "a/1", "index")
    make(tmp_path / "x", "a/2", "index")
    assert files(tmp_path / "x") == {"a/2", "index"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_foreign_file_is_named_and_nothing_is_changed(tmp_path):
    make(tmp_path / "x", "a/1")
    (tmp_path / "x" / "a" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"found . others, first a/notes.txt; move them away"):
        make(tmp_path / "x", "a/2")
    assert files(tmp_path / "x") == {"a/1", "a/notes.txt"}


def test_a_folder_not_written_by_an_export_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "index").write_text("mine")
    with pytest.raises(FileExistsError, match="earlier export only, found . others"):
        make(tmp_path / "x", "index")
    (tmp_path / "y").write_text("a file")
    with pytest.raises(FileExistsError, match="y: expected a folder, found a file"):
        make(tmp_path / "y", "index")


def test_empty_folders_and_a_deleted_index_are_accepted(tmp_path):
    """Snakemake creates the folders of its outputs in advance and deletes old outputs."""
    (tmp_path / "x" / "a").mkdir(parents=True)
    make(tmp_path / "x", "a/1", "index")
    (tmp_path / "x" / "index").unlink()
    make(tmp_path / "x", "index")
    assert files(tmp_path / "x") == {"index"}


def test_a_failure_keeps_the_earlier_export(tmp_path):
    make(tmp_path / "x", "a/1")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "x") as draft:
        (draft / "half").write_text("")
        raise RuntimeError
    assert files(tmp_path) == {"x/a/1", "x/.slimdiff-export.json"}


def test_leftovers_of_a_killed_export_are_removed(tmp_path):
    (tmp_path / ".x.partial" / "a").mkdir(parents=True)
    (tmp_path / ".x.partial" / "a" / "half").write_text("")
    make(tmp_path / "x", "1")
    assert files(tmp_path / "x") == {"1"} and not (tmp_path / ".x.partial").exists()


REPLACE = """
import shutil
from slimdiff.export import folder as exports

rmtree = shutil.rmtree

def half(path):
    # Removing a folder begins with any of its files, here with the record.
    if (path / exports.RECORD).is_file() and path.name in sys.argv[5:]:
        (path / exports.RECORD).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    rmtree(path)

shutil.rmtree = half
with exports.replacing_folder(Path(sys.argv[4])) as draft:
    (draft / "new").write_text("")
"""


@pytest.mark.parametrize(
    ("moment", "removed"),
    [(("rename", 1), []), (("rename", 2), []), (("never", 1), ["x", ".x.earlier"])],
)
def test_an_export_that_was_killed_while_it_replaced_the_one_before_can_be_run_again(
    tmp_path, moment, removed
):
    folder = tmp_path / "x"
    with replacing_folder(folder) as draft:
        (draft / "1").write_text("")
    moment = moment if moment[0] != "never" else ("rename", 10**6)
    done = run_until(moment, KILL, REPLACE, str(folder), *removed)
    assert done.returncode == -KILL, done.stderr
    with replacing_folder(folder) as draft:
        (draft / "2").write_text("")
    assert files(folder) == {"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
