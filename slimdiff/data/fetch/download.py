"""One file over HTTP to where it belongs: resumed, tried again, and under its own name only when it is right."""

import errno
import hashlib
import http.client
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event

from slimdiff import __version__
from slimdiff.config.data import FetchConfig
from slimdiff.data.participants import DataError
from slimdiff.files import MISSING, read_table, sha256

COLUMNS = ("path", "size", "sha256", "acquisition_type")
ACQUISITION_TYPES = ("2D", "3D", MISSING)
FOLDER = Path(__file__).with_name("manifests")


@dataclass(frozen=True)
class File:
    """One file of a dataset."""

    path: PurePosixPath
    """Below the dataset's folder."""
    size: int
    """Bytes."""
    sha256: str
    acquisition_type: str = MISSING
    """A FLAIR image's `MRAcquisitionType`, 2D or 3D, as its sidecar says; of all others n/a."""

    @property
    def is_t1w(self) -> bool:
        return self.path.name.endswith(("_T1w.nii.gz", "_T1w.json"))


@dataclass(frozen=True)
class Manifest:
    """All files of one version of a dataset that a study may want."""

    dataset: str
    version: str
    doi: str
    base_url: str
    """Where the dataset's public copy lies; paths are below it."""
    files: tuple[File, ...]
    sha256: str
    """Of the manifest's rows: two manifests with the same files have the same."""

    def wanted(self, t1w: bool) -> tuple[File, ...]:
        """What a study fetches: everything, or everything but the T1w images."""
        return tuple(file for file in self.files if t1w or not file.is_t1w)


# Dataset: version, doi, base_url.
DATASETS = {
    "ds004199": (
        "1.0.6",
        "10.18112/openneuro.ds004199.v1.0.6",
        "https://s3.amazonaws.com/openneuro.org/ds004199",
    )
}


def read_file_manifest(dataset: str) -> Manifest:
    """The manifest that the package brings for `dataset`; raises DataError for a name without one."""
    if dataset not in DATASETS:
        raise DataError(f"dataset {dataset!r}: the package knows the files of {', '.join(DATASETS)} only")
    return load_manifest(FOLDER / f"{dataset}.tsv", dataset, *DATASETS[dataset])


def load_manifest(path: Path, dataset: str, version: str, doi: str, base_url: str) -> Manifest:
    """Read a TSV with the columns path, size, sha256, acquisition_type.

    Raises DataError naming the line where a path stands twice or leads out of the dataset, or a size, hash or
    acquisition type is none.
    """
    try:
        rows = read_table(path, COLUMNS)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from None
    files = tuple(_file(row, f"{path}, line {number}") for number, row in enumerate(rows, start=2))
    seen: dict[str, int] = {}
    for number, file in enumerate(files, start=2):
        # Some file systems take A and a for one name.
        key = str(file.path).lower()
        if key in seen:
            raise DataError(
                f"{path}, line {number}: {file.path} stands in line {seen[key]} too; once is wanted"
            )
        seen[key] = number
    return Manifest(dataset, version, doi, base_url, files, _sha256(files))


def _file(row: dict[str, str], where: str) -> File:
    path, size, digest, kind = (row[column] for column in COLUMNS)
    parts = path.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in path or ":" in path or not path.isprintable():
        raise DataError(
            f"{where}: path {path!r}; a path below the dataset's folder is wanted, without '..', '\\' and ':'"
        )
    if not re.fullmatch(r"[0-9]+", size):
        raise DataError(f"{where}: size {size!r}; a whole number of bytes is wanted")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DataError(f"{where}: sha256 {digest!r}; 64 digits 0-9, a-f are wanted")
    if kind not in ACQUISITION_TYPES:
        raise DataError(f"{where}: acquisition_type {kind!r}; {', '.join(ACQUISITION_TYPES)} are allowed")
    return File(PurePosixPath(path), int(size), digest, kind)


def _sha256(files: Iterable[File]) -> str:
    lines = (f"{file.path}\t{file.size}\t{file.sha256}\t{file.acquisition_type}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


CHUNK = 1 << 16
RETRIED_STATUS = {408, 425, 429}  # and 500 to 599
QUOTED_ALREADY = "/%:@!$&'()*+,;="


class DownloadError(DataError):
    """A file cannot be had; the message is the cause."""


class FolderError(DataError):
    """The folder takes no more files, so that no other file can be had either."""


class Stopped(Exception):
    """Somebody else asked for the end."""


class _Fault(Exception):
    """A try failed, and another may not."""


def checked_base(url: str) -> str:
    """The same address; raises DataError where it is none of a web server."""
    parts = urllib.parse.urlsplit(url)
    try:
        fits = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        fits = False
    if not fits:
        raise DataError(
            f"data.fetch.base_url: {url!r}; an address is wanted that begins with https:// or http:// and a host"
        )
    if "@" in parts.netloc:
        raise DataError(
            f"data.fetch.base_url: {parts.hostname}: a user or password in the address is not understood"
        )
    return url


def address(base_url: str, path: PurePosixPath) -> str:
    """Where a file lies: its quoted path below the base's own, before the base's query."""
    parts = urllib.parse.urlsplit(base_url)
    base = urllib.parse.quote(parts.path.rstrip("/"), safe=QUOTED_ALREADY)
    below = f"{base}/{urllib.parse.quote(str(path))}"
    query = urllib.parse.quote(parts.query, safe=QUOTED_ALREADY + "?")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, below, query, ""))


def partial_of(target: Path) -> Path:
    """Where a file is while it is not whole."""
    return target.with_name(f".{target.name}.part")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


@dataclass(frozen=True)
class Downloader:
    """What all files of a run share."""

    settings: FetchConfig
    moved: Callable[[int], None] = lambda count: None
    """Told how many bytes of partial files came, or below 0 were thrown away."""
    stop: Event = field(default_factory=Event)
    """Set: every download ends with Stopped at its next byte."""
    answered: Event = field(default_factory=Event)
    """Set once a server has answered anything."""
    opener: urllib.request.OpenerDirector = field(default_factory=urllib.request.build_opener)
    """urllib's own: proxies and certificates are those of the environment."""

    def download(self, url: str, file: File, target: Path) -> None:
        """Bring `file` to `target`, going on from a partial file beside it.

        Raises DownloadError with the cause where no try brings it, or none would; FolderError where it cannot be
        written; Stopped.
        """
        partial, causes = partial_of(target), []
        for attempt in range(self.settings.attempts):
            if self.stop.wait(self.settings.wait_s * 2 ** (attempt - 1) if attempt else 0):
                raise Stopped
            try:
                self._receive(url, partial, file.size)
                self._finish(partial, target, file)
                return
            except _Fault as fault:
                causes.append(str(fault))
        tries = f"in {len(causes)} tries" if len(causes) > 1 else "in one try"
        raise DownloadError(f"{causes[-1]} ({tries})")

    def _receive(self, url: str, partial: Path, size: int) -> None:
        have = size_of(partial)
        if have > size:
            have = self._discard(partial)
        if have and have == size:
            return
        request = urllib.request.Request(url, headers={"User-Agent": f"slimdiff/{__version__}"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        try:
            with self.opener.open(request, timeout=self.settings.timeout_s) as answer:
                self.answered.set()
                if _begins_anew(answer, have, size):
                    have = self._discard(partial)
                self._write(answer, partial, have, size)
        except urllib.error.HTTPError as error:
            self.answered.set()
            error.close()
            if error.code == 416 and have:
                self._discard(partial)
                raise _Fault("the server could not go on where the file was cut off") from None
            cause = f"HTTP {error.code} {error.reason}"
            if error.code in RETRIED_STATUS or error.code >= 500:
                raise _Fault(cause) from None
            raise DownloadError(cause) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadError(f"{reason}; SSL_CERT_FILE can name the certificates to trust") from None
            raise _Fault(_described(reason, self.settings.timeout_s)) from None

    def _write(self, answer: http.client.HTTPResponse, partial: Path, have: int, size: int) -> None:
        with _opened(partial) as stream:
            # Byte by byte as they come, so that a killed run leaves all that it received.
            while chunk := answer.read1(CHUNK):
                if self.stop.is_set():
                    raise Stopped
                have += len(chunk)
                if have > size:
                    break
                try:
                    stream.write(chunk)
                    stream.flush()
                except OSError as error:
                    raise _unwritable(error, partial) from None
                self.moved(len(chunk))
        if have > size:
            self._discard(partial)
            raise _Fault(f"more than the {size} bytes that are wanted")
        if have < size:
            raise _Fault(f"cut off after {have} of {size} bytes")

    def _finish(self, partial: Path, target: Path, file: File) -> None:
        found = sha256(partial)
        if found != file.sha256:
            self._discard(partial)
            raise _Fault(f"wrong content: sha256 {found[:12]}…, wanted is {file.sha256[:12]}…")
        try:
            partial.replace(target)
        except OSError as error:
            raise _unwritable(error, target) from None

    def _discard(self, partial: Path) -> int:
        self.moved(-size_of(partial))
        try:
            partial.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(error, partial) from None
        return 0


def _begins_anew(answer: http.client.HTTPResponse, have: int, size: int) -> bool:
    """Whether the answer is the whole file instead of the rest; raises _Fault where it is neither."""
    length = answer.headers.get("Content-Length")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != have:
            raise _Fault(
                f"asked for byte {have} on, answered Content-Range {answer.headers.get('Content-Range')}"
            )
        whole = None if found[2] == "*" else int(found[2])
    elif answer.status == 200:
        whole = int(length) if length and length.isdecimal() else None
    else:
        raise _Fault(f"HTTP {answer.status} {answer.reason} where 200 or 206 is wanted")
    if whole not in (None, size):
        raise _Fault(f"wrong size: {whole} bytes, wanted are {size}")
    return answer.status == 200


def _opened(partial: Path):
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        return partial.open("ab")
    except OSError as error:
        raise _unwritable(error, partial) from None


def _unwritable(error: OSError, path: Path) -> FolderError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FolderError(
            f"{path.parent}: no space left ({error.strerror}); make room and run again, what is there is kept"
        )
    return FolderError(f"{path}: cannot be written: {error.strerror or error}")


def _described(reason: object, timeout_s: float) -> str:
    if isinstance(reason, TimeoutError):
        return f"no byte for {timeout_s:g} s"
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
