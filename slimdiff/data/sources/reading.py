"""What several adapters read before a voxel is: names of NIfTI files, tables of participants, JSON beside images."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from slimdiff.data.participants import COLUMNS, DataError, Flag, first_of, refuse_duplicates
from slimdiff.files import MISSING, read_table

ENDINGS = (".nii.gz", ".nii")


def stem_of(name: str, endings: Sequence[str] = ENDINGS) -> str | None:
    """A file's name without its ending; None where it has none of them, or is hidden."""
    for ending in endings:
        # "._case.nii.gz" is what macOS leaves beside a copied file; some scanners write NII.GZ.
        if name.lower().endswith(ending) and not name.startswith("."):
            return name[: -len(ending)]
    return None


def nifti_files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files of a folder with such an ending, in order of their names; none where there is no folder.

    A link that leads nowhere counts: what it stands for has not come yet.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if stem_of(path.name, endings) and not path.is_dir())


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names as they stand in a message, not more than `most` of them."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def table_lines(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """A table as `read_table` reads it; everything that is wrong with it is a DataError that names it."""
    try:
        return read_table(path, required)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{path}: not readable as a table: {error}") from None
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from None


def further_of(line: dict[str, str]) -> dict[str, str]:
    """What a line says in columns that participants.tsv does not have of its own."""
    return {name: first_of(line, name) or MISSING for name in line if name.strip() and name not in COLUMNS}


def two_splits(lines: Sequence[tuple[str, dict[str, str]]], source: Path) -> dict[str, Flag]:
    """participant_id: flag, of those who stand in several lines with different splits.

    lines: participant_id and line, in the table's order. Raises DataError where one stands there twice otherwise.
    """
    splits: dict[str, list[str]] = {}
    for name, line in lines:
        splits.setdefault(name, []).append(first_of(line, "split") or MISSING)
    flags = {}
    for name, all_of in splits.items():
        different = list(dict.fromkeys(split for split in all_of if split != MISSING))
        if len(different) > 1:
            reason = f"{source}: {name} stands there with the splits {' and '.join(different)}; keep one line"
            flags[name] = Flag("two_splits", reason)
    refuse_duplicates((name for name, _ in lines if name not in flags), source)
    return flags


def is_there(path: Path) -> bool:
    """Whether there is such a file; raises DataError where it is a link to nowhere, for then it was meant to be."""
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link to nowhere; get the file first (datalad get, git annex get)")
    return path.is_file()


def json_object(path: Path) -> dict:
    """A file that holds a JSON object; raises DataError where it holds anything else."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: a JSON object is wanted, found {type(facts).__name__}")
    return facts
