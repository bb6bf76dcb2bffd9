"""Readers shared by the adapters: names of NIfTI files, tables of participants, JSON sidecars."""

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from slimdiff.data.participants import COLUMNS, OF_FILES, DataError, Flag, first_of, refuse_duplicates
from slimdiff.data.sources.columns import plain_name, read_as, split_word
from slimdiff.files import MISSING, NotText, content_hint, numbered_cells

ENDINGS = (".nii.gz", ".nii")


class NotUtf8(DataError):
    """Text files of a source that are not UTF-8; the message lists all of them and how to convert them."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        lines = [f"{len(paths)} text file(s) are in another encoding:"]
        lines += [f"  {path}: not UTF-8 but probably {likely_encoding(path)}" for path in paths]
        lines.append(
            "Convert each of them: iconv -f ENCODING -t UTF-8 FILE > NEW && mv NEW FILE. If the dataset is read-only, "
            "link its volumes into a folder of your own and put the converted files there."
        )
        super().__init__("\n".join(lines))


def likely_encoding(path: Path) -> str:
    """The encoding that a file, which is not UTF-8, most likely has, as iconv names it."""
    start = path.read_bytes()[:2]
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "UTF-16"
    return "WINDOWS-1252"


def not_utf8(paths: Iterable[Path]) -> list[Path]:
    """Those of the files that are not UTF-8 text; files that cannot be read are left out."""
    found = []
    for path in paths:
        try:
            path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            found.append(path)
        except OSError:
            continue
    return found


def stem_of(name: str, endings: Sequence[str] = ENDINGS) -> str | None:
    """File name without its ending; None for other endings and hidden files."""
    for ending in endings:
        # macOS leaves "._case.nii.gz" beside a copied file; some scanners write NII.GZ.
        if name.lower().endswith(ending) and not name.startswith("."):
            return name[: -len(ending)]
    return None


def nifti_files(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files of a folder with one of these endings, sorted by name; empty if the folder does not exist.

    A broken link counts: its content may not have been downloaded yet.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if stem_of(path.name, endings) and not path.is_dir())


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names as text for a message, at most `most` of them."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def table_lines(
    path: Path, required: Sequence[str], optional: Sequence[str]
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a source's table, each with its line in the file.

    required, optional: columns that are read, by their names in participants.tsv. All others are kept (`further_of`),
    those with a name of participants.tsv as `{name} (source)`. Raises DataError with the file for any fault.
    """
    try:
        header, body = numbered_cells(path)
    except NotText:
        raise NotUtf8([path]) from None
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from None
    known = (*required, *optional)
    columns = {name: found for name, found in read_as(header, str(path)).items() if name in known}
    missing = [column for column in required if column not in columns]
    if missing:
        parted = next((sign for sign in ";,|" if len(header) == 1 and sign in header[0]), None)
        to_do = f"; its columns are separated by {parted!r}, expected tabs: save it as TSV" if parted else ""
        raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(header)}{to_do}")
    lines = []
    for number, cells in body:
        own = dict(zip(header, cells, strict=True))
        broken = [column for column, cell in own.items() if any(sign in cell for sign in "\r\n")]
        if broken:
            raise DataError(
                f"{path}, line {number}: column {broken[0]} has a line break; remove it, or close the quote before it"
            )
        line = {
            f"{name} (source)" if plain_name(name) in COLUMNS else name: cell
            for name, cell in own.items()
            if plain_name(name) not in known
        }
        line |= {column: first_of(own, *names) or MISSING for column, names in columns.items()}
        line["participant_id"] = own[columns["participant_id"][0]].strip()
        lines.append((number, line | {"split": split_word(line.get("split", MISSING))}))
    return lines


def further_of(line: dict[str, str]) -> dict[str, str]:
    """The cells of a row in columns that participants.tsv does not define."""
    names = (name for name in line if name.strip() and name not in (*COLUMNS, *OF_FILES))
    return {name: first_of(line, name) or MISSING for name in names}


def two_splits(lines: Sequence[tuple[str, dict[str, str]]], source: Path) -> dict[str, Flag]:
    """participant_id: flag, of participants with several rows in different splits.

    lines: participant_id and row, in the table's order. Raises DataError for other duplicates.
    """
    splits: dict[str, list[str]] = {}
    for name, line in lines:
        splits.setdefault(name, []).append(first_of(line, "split") or MISSING)
    flags = {}
    for name, all_of in splits.items():
        different = list(dict.fromkeys(split for split in all_of if split != MISSING))
        if len(different) > 1:
            reason = f"{source}: expected one split of {name}, found {' and '.join(different)}; keep one row"
            flags[name] = Flag("two_splits", reason)
    refuse_duplicates((name for name, _ in lines if name not in flags), source)
    return flags


def is_there(path: Path) -> bool:
    """Whether the file exists; raises DataError if its content was not fetched, because it is then expected."""
    if hint := content_hint(path):
        raise DataError(f"{path}: {hint}")
    return path.is_file()


def json_object(path: Path) -> dict:
    """Read a JSON object; raises DataError for anything else."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise NotUtf8([path]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(facts).__name__}")
    return facts
