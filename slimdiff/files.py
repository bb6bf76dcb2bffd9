"""Files that are whole or absent, tab-separated tables without pandas, and content hashes."""

import csv
import errno
import filecmp
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MISSING = "n/a"
POINTER_BYTES = 32_768
"""Largest size of a file that git-annex takes for a pointer."""
CHECKSUM = "checksum"
"""Key of a JSON file that a stage wrote: sha256 of its other values."""
REMAKE = "; if a stage wrote the file, restore a copy of it, or delete it and run that stage again"
"""What to do about a table that was cut off: the reader does not know whether it is the user's own."""


class NotText(ValueError):
    """A table that is not UTF-8 text."""


class NoSpace(OSError):
    """A file could not be written, because the disk is full or a quota or limit is reached."""


FULL = re.compile(
    r"\(os error (?:27|28|122)\)|^\d+ requested and \d+ written$|^pytorchstreamwriter failed writing file"
)
"""What errors of a full disk say that have no number: of safetensors (Linux: EFBIG, ENOSPC, EDQUOT), NumPy, torch."""


@contextmanager
def replacing(path: Path, suffix: str | None = None, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it at the end, removed if anything raises.

    A file that has these bytes already is left alone: a new time would make later stages run again.

    suffix: kept on the temporary name for writers that look at it (".nii.gz", ".npy").
    size: bytes that will be written, where they are known, for the message about a full disk.

    Raises NoSpace with the path and the bytes that it takes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: a stop signal after it has made the file, and before this function knows its name, would leave it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix or path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        # Shares such as CIFS or mounted S3 refuse to change the mode and set their own.
        with suppress(OSError):
            temporary.chmod(0o666 & ~_umask())
        if not _same_content(temporary, path):
            temporary.replace(path)
    except Exception as error:
        if isinstance(error, NoSpace) or not _is_full(error):
            raise
        raise NoSpace(_no_space(path, temporary, size, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_full(error: Exception) -> bool:
    numbers = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    known = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"
    return known and (getattr(error, "errno", None) in numbers or bool(FULL.search(str(error).lower())))


def _no_space(path: Path, temporary: Path, size: int | None, error: Exception) -> str:
    with suppress(OSError):
        # NumPy counts elements, the file has bytes.
        size = size or temporary.stat().st_size
        free = shutil.disk_usage(path.parent).free
        return (
            f"{path}: no space left on its disk, or a quota is reached: {size / 1e6:.4g} MB or more are needed, "
            f"{free / 1e6:.4g} MB are free; the file is as it was before. Free disk space and run again "
            f"({str(error).splitlines()[0][:100]})"
        )
    return f"{path}: no space left on its disk; free disk space and run again ({error})"


def _same_content(one: Path, other: Path) -> bool:
    # A link that is kept would leave what it points to in the hands of others.
    try:
        return other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def printable(text: object) -> str:
    """A path or message as text that any terminal or UTF-8 file takes; bytes that are not UTF-8 become \\xNN."""
    # Python holds such a byte as a lone surrogate, U+DC80 to U+DCFF.
    return re.sub(r"[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(text))


def content_hint(path: Path) -> str | None:
    """Why the content of a file is elsewhere, and how to get it; None for a file with its content, or no file.

    In a clone of a DataLad dataset, a file without its content is a broken link (locked) or a line of text (unlocked).
    """
    place = path = Path(path)
    for _ in range(40):
        if not place.is_symlink():
            break
        target = place.readlink()
        if "annex/objects" in target.as_posix():
            return None if path.exists() else f"broken link, {_datalad(place)}"
        place = place.parent / target
    if not path.exists():
        return f"broken link to {printable(path.readlink())}; get the file" if path.is_symlink() else None
    try:
        if path.stat().st_size > POINTER_BYTES:
            return None
        with path.open("rb") as stream:
            start = stream.read(200)
    except OSError:
        return None
    if start.startswith(b"/annex/objects/"):
        return _datalad(place)
    if start.startswith(b"version https://git-lfs"):
        return f"its content was not fetched (Git LFS); run: git lfs pull --include={shlex.quote(place.name)}"
    return None


def _datalad(path: Path) -> str:
    return (
        f"its content was not fetched (DataLad, git-annex); run: datalad get {shlex.quote(printable(path))}"
    )


def require_file(path: Path, remedy: str) -> None:
    """Raise FileNotFoundError unless the file exists and has its content; `remedy`: what to do if it was not found."""
    hint = content_hint(path)
    if hint:
        raise FileNotFoundError(f"{path}: {hint}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: {remedy}")


def dropped_below(folder: Path) -> list[Path]:
    """Files below the folder that are links to annexed content which was not fetched, sorted; .git is left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        links = [path for path in (Path(place, name) for name in names) if path.is_symlink()]
        found += [path for path in links if not path.exists() and "datalad get" in (content_hint(path) or "")]
    return sorted(found)


def copy_annexed(folder: Path) -> None:
    """Replace every link into an annex by a copy of its content, or remove it where the content was not fetched.

    For folders with files that other programs rewrite in place: they would write into the annex.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and "annex/objects" in Path(os.path.realpath(path)).as_posix():
            if path.is_file():
                with replacing(path) as temporary:
                    shutil.copyfile(path, temporary)
            else:
                path.unlink()


def remove_links(folder: Path) -> None:
    """Remove the links to files below a folder whose files are rewritten in place; the files they name are kept."""
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.is_dir():
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(_not_utf8(path, text[max(0, error.start - 60) : error.end + 20])) from None


def _not_utf8(path: Path, text: str) -> str:
    return f"{path}: {printable(text)!r} has bytes that are not UTF-8, probably from a file name; rename the file"


def write_table(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], sealed: bool = True
) -> None:
    """Write rows as TSV without quoting; None and NaN become n/a, floats have nine digits.

    sealed: whether its sha256 is written to a hidden file beside it (`seal_of`), which every reader compares; not for
    tables that are passed on.

    Raises ValueError with the file if a cell has a tab, a line break, or bytes that are not UTF-8.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(
            stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        writer.writerow(columns)
        for row in rows:
            cells = [written(row.get(column)) for column in columns]
            for column, cell in zip(columns, cells, strict=True):
                if isinstance(cell, str) and any(sign in cell for sign in "\t\r\n"):
                    raise ValueError(
                        f"{path}: column {column}: {cell!r} has a tab or a line break; remove it"
                    )
                if isinstance(cell, str) and cell != printable(cell):
                    raise ValueError(_not_utf8(path, cell))
            writer.writerow(cells)
        stream.flush()
        seal = f"{sha256(temporary)}  {path.name}\n"
        if not sealed or _text_of(seal_of(path)) != seal:
            # Stopped in between, a table without a seal is left, which is not compared.
            seal_of(path).unlink(missing_ok=True)
    if sealed:
        write_text(seal_of(path), seal)


def seal_of(path: Path) -> Path:
    """The file with the sha256 of another file, as `sha256sum` writes it."""
    return path.with_name(f".{path.name}.sha256")


def write_seal(path: Path) -> None:
    """Write the sha256 of a file beside it, for `check_seal`."""
    write_text(seal_of(path), f"{sha256(path)}  {path.name}\n")


def _text_of(path: Path) -> str | None:
    try:
        # A seal whose content was not fetched says nothing.
        return None if content_hint(path) else path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def check_seal(path: Path) -> None:
    """Raise ValueError if a file has a seal with another sha256."""
    path = Path(path)
    seal = _text_of(seal_of(path))
    if seal is not None and seal != f"{sha256(path)}  {path.name}\n":
        raise ValueError(
            f"{path}: its content is not what was written, by its sha256 in {seal_of(path)}: edited, damaged or cut "
            f"off{REMAKE}; if the change is right, delete {seal_of(path)}"
        )


def written(value: Any) -> Any:
    """A value as a table shows it."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return MISSING
    if isinstance(value, float):
        return f"{value:.9g}"
    return value


def read_table(path: Path, required: Sequence[str] = (), ended: bool = False) -> list[dict[str, str]]:
    """Read a table as dictionaries of strings, one per row; see `read_cells`."""
    header, body = read_cells(path, required, ended)
    return [dict(zip(header, line, strict=True)) for line in body]


def read_cells(
    path: Path, required: Sequence[str] = (), ended: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table; see `numbered_cells`."""
    header, body = numbered_cells(path, required, ended)
    return header, [line for _, line in body]


def numbered_cells(
    path: Path, required: Sequence[str] = (), ended: bool = False
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and rows of a TSV (no quoting, as BIDS) or CSV (by its ending), each row with its line in the file.

    A byte-order mark, blank rows, and blank cells beyond the header are skipped.

    ended: whether the last line must end with a line break, as `write_table` ends it; without it a table that was cut
    off within its last cell goes unnoticed.

    Raises FileNotFoundError, NotText, and ValueError with the file if it is empty, it was changed since a stage wrote
    it (`check_seal`), it has an unclosed quote or a cell of more than csv.field_size_limit() characters, a required
    column is missing, a column is duplicate, or a row has too few or too many cells.
    """
    path = Path(path)
    require_file(path, "not found; if a stage writes it, run that stage first")
    check_seal(path)
    try:
        lines = _numbered_lines(path)
    except UnicodeDecodeError as error:
        raise NotText(f"{path}: not UTF-8 text: {error}; save it as UTF-8{REMAKE}") from None
    except csv.Error as error:
        hint = "; a quote of a CSV may be unclosed" if path.suffix.lower() == ".csv" else ""
        raise ValueError(f"{path}: not readable as a table: {error}{hint}{REMAKE}") from None
    if not lines:
        raise ValueError(f"{path}: empty; expected a header line{REMAKE}")
    (_, header), *body = lines
    named = max(place for place, column in enumerate(header, start=1) if column.strip())
    # Tabs at line ends, as spreadsheets leave them, are no cells; a column without a name that has values is one.
    if not any(_filled(line) > named for _, line in body):
        header = header[:named]
    body = [(number, line[: max(len(header), _filled(line))]) for number, line in body]
    duplicate = sorted({column for column in header if column and header.count(column) > 1})
    if duplicate:
        raise ValueError(f"{path}: duplicate column {', '.join(duplicate)}; keep one")
    missing = [column for column in required if column not in header]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; found {', '.join(header)}{REMAKE}")
    for number, line in body:
        if len(line) != len(header):
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} cells, found {len(line)}{REMAKE}"
            )
    if ended and not _ends_with_line_break(path):
        raise ValueError(f"{path}: expected a line break at the end, found none: it was cut off{REMAKE}")
    return header, body


def _numbered_lines(path: Path) -> list[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        if path.suffix.lower() == ".csv":
            header = stream.readline()
            stream.seek(0)
            # Spreadsheets write semicolons where the comma is the decimal sign.
            form = {"delimiter": ";" if ";" in header and "," not in header else ",", "strict": True}
        reader = csv.reader(stream, **form)
        # Not line.strip(): a first cell that is empty is a cell.
        return [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]


def _filled(line: Sequence[str]) -> int:
    """Number of cells up to the last one that is not blank."""
    return max((place for place, cell in enumerate(line, start=1) if cell.strip()), default=0)


def _ends_with_line_break(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) in b"\r\n"


def write_object(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of its values (`read_object`)."""
    # As they are read back: keys are text, tuples are lists.
    values = json.loads(json.dumps(values))
    write_text(path, json.dumps({**values, CHECKSUM: object_sha256(values)}, indent=1) + "\n")


def object_sha256(values: Mapping[str, Any]) -> str:
    """Hash of the values of a JSON object as it was read, whatever its layout."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_object(path: Path, remedy: str = "delete it and run its stage again") -> dict[str, Any]:
    """Read a JSON object that a stage wrote; its checksum, which earlier versions lack, is compared and removed.

    Raises FileNotFoundError, or ValueError with the file and the remedy.
    """
    path = Path(path)
    require_file(path, "not found; run the stage that writes it first")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {remedy}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(values).__name__}; {remedy}")
    if CHECKSUM in values and values.pop(CHECKSUM) != object_sha256(values):
        raise ValueError(
            f"{path}: its content is not what was written, by its checksum: damaged or edited; {remedy}"
        )
    return values


def sha256(*paths: Path) -> str:
    """Hash of a file's bytes, in hexadecimal; of several files that of their bytes in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def remove_partials(*paths: Path) -> None:
    """Remove what killed processes left of `replacing` and of seals; no process may be writing these paths."""
    names: dict[Path, set[str]] = {}
    for path in map(Path, paths):
        names.setdefault(path.parent, set()).update((path.name, seal_of(path).name))
    for folder, own in names.items():
        for found in folder.iterdir() if folder.is_dir() else ():
            partial = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}(\.\w+)*", found.name, re.ASCII)
            if partial and partial[1] in own and found.name.endswith(Path(partial[1]).suffix):
                found.unlink(missing_ok=True)
