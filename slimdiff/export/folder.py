"""Folders that are whole or not there, and that replace only what an export wrote.

Each holds `.slimdiff-export.json`, the list of its own files. A folder with any other file in it is left alone.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import slimdiff
from slimdiff.files import write_text

RECORD = ".slimdiff-export.json"


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place at the end, and is removed if anything raises.

    Raises FileExistsError where `folder` holds a file that no earlier export wrote.
    """
    folder = Path(folder)
    check_own(folder)
    draft = folder.with_name(f".{folder.name}.partial")
    _remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        files = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
        record = {"made_by": f"slimdiff {slimdiff.__version__}", "files": files}
        write_text(draft / RECORD, json.dumps(record, indent=1) + "\n")
        # Again, because writing takes its time.
        check_own(folder)
        _remove(folder)
        draft.rename(folder)
    finally:
        _remove(draft)


def check_own(folder: Path) -> None:
    """Raise FileExistsError where `folder` is none, or holds a file that no earlier export wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: a file stands where the export makes a folder; move it away")
    # Empty folders are no content: a workflow engine makes those of its outputs beforehand.
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(found - _written(folder))
    if foreign:
        raise FileExistsError(
            f"{folder}: {len(foreign)} files in it are not the export's, the first is {foreign[0]}; "
            "move them away, or remove the folder"
        )


def _written(folder: Path) -> set[str]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
