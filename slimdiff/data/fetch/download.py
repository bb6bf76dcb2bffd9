"""The list of a public dataset's files, and the download of one file: it has its name only if its sha256 is right."""

import hashlib
import os
import re
import ssl
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from slimdiff import __version__
from slimdiff.data.participants import DataError
from slimdiff.files import MISSING, read_table, sha256

if TYPE_CHECKING:
    import requests
    from pooch import HTTPDownloader

# pooch and requests are imported where they are used: the manifests are read without them.

COLUMNS = ("path", "size", "sha256", "acquisition_type")
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
    """A FLAIR image's `MRAcquisitionType` in its sidecar, 2D or 3D; n/a for other files."""


@dataclass(frozen=True)
class Manifest:
    """All files of one version of a dataset that a study may use."""

    dataset: str
    version: str
    doi: str
    base_url: str
    """Address of the dataset's public copy; paths are below it."""
    files: tuple[File, ...]
    sha256: str
    """Of the manifest's rows: two manifests with the same files have the same."""

    def files_for(self, image_suffix: str | None = None) -> tuple[File, ...]:
        """What a study downloads: all files; the T1w images only if its `data.image_suffix` is T1w."""
        t1w = image_suffix == "T1w"
        return tuple(file for file in self.files if t1w or not file.path.name.endswith("_T1w.nii.gz"))


# Dataset: version, doi, base_url.
DATASETS = {
    "ds004199": (
        "1.0.6",
        "10.18112/openneuro.ds004199.v1.0.6",
        "https://s3.amazonaws.com/openneuro.org/ds004199",
    )
}


def read_file_manifest(dataset: str) -> Manifest:
    """The package's manifest of `dataset`; raises DataError if it has none."""
    if dataset not in DATASETS:
        raise DataError(f"data.fetch.dataset: expected {', '.join(DATASETS)}, found {dataset!r}")
    return load_manifest(FOLDER / f"{dataset}.tsv", dataset, *DATASETS[dataset])


def load_manifest(path: Path, dataset: str, version: str, doi: str, base_url: str) -> Manifest:
    """Read a TSV of the package with the columns path, size, sha256, acquisition_type."""
    rows = [tuple(row[column] for column in COLUMNS) for row in read_table(path, COLUMNS)]
    files = tuple(File(PurePosixPath(name), int(size), *facts) for name, size, *facts in rows)
    digest = hashlib.sha256("".join("\t".join(row) + "\n" for row in rows).encode()).hexdigest()
    return Manifest(dataset, version, doi, base_url, files, digest)


ATTEMPTS = 5
"""Per file."""
WAIT_S = 1.0
"""Before the second attempt; it doubles with each further one."""
TIMEOUT_S = 60.0
"""Time without data after which a connection is lost."""
RETRIED_STATUS = {408, 425, 429}  # and 500 to 599
BASE = re.compile(r"https?://(\[[\da-f:.]+\]|[^@:/?#\s]+)(:\d+)?([/?].*)?", re.IGNORECASE)
QUOTED_ALREADY = "/%:@!$&'()*+,;="


class DownloadError(DataError):
    """A file could not be downloaded; the message is the cause."""


class FolderError(DataError):
    """The folder cannot be written, so that no other file can be downloaded either."""


class Stopped(Exception):
    """The run ended before the file was complete."""


class _Fault(Exception):
    """An attempt failed; the next one may succeed."""


def checked_base(url: str) -> str:
    """The same address; raises DataError if it is not a web server's, or has a user."""
    if not BASE.fullmatch(url):
        # The part before @ may be a password.
        raise DataError(
            "data.fetch.base_url: expected https:// or http://, a host and a path, without user and password, "
            f"found {url.rpartition('@')[2]!r}{' with a user' if '@' in url else ''}"
        )
    return url


def address(base_url: str, path: PurePosixPath) -> str:
    """The address of a file: its quoted path below the base's path, before the base's query."""
    parts = urllib.parse.urlsplit(base_url)
    base = urllib.parse.quote(parts.path.rstrip("/"), safe=QUOTED_ALREADY)
    below = f"{base}/{urllib.parse.quote(str(path))}"
    query = urllib.parse.quote(parts.query, safe=QUOTED_ALREADY + "?")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, below, query, ""))


def partial_of(target: Path) -> Path:
    """The name of a file while it is not complete."""
    return target.with_name(f".{target.name}.part")


def http_downloader(on_answer: Callable[[], None] = lambda: None) -> "HTTPDownloader":
    """pooch's downloader with a timeout and the certificates of `SSL_CERT_FILE`; files come as they are stored."""

    from pooch import HTTPDownloader

    def answered(response: "requests.Response", **_) -> None:
        on_answer()
        # Some servers send .gz files with this header, and requests would unpack them.
        response.raw.headers.pop("Content-Encoding", None)

    return HTTPDownloader(
        chunk_size=1 << 16,
        timeout=TIMEOUT_S,
        headers={"User-Agent": f"slimdiff/{__version__}", "Accept-Encoding": "identity"},
        hooks={"response": answered},
        verify=os.environ.get("SSL_CERT_FILE") or True,
    )


@dataclass(frozen=True)
class Downloader:
    """What all files of a run share."""

    moved: Callable[[int], object]
    """Called with the number of bytes that came; below 0: with those of a failed attempt."""
    stop: Event = field(default_factory=Event)
    """If set, every download raises Stopped at its next byte."""
    answered: Event = field(default_factory=Event)
    """Set as soon as a server has answered anything."""

    def download(self, url: str, file: File, target: Path) -> None:
        """Download `file` to a partial file beside `target`, check its sha256, and rename it.

        Raises DownloadError with the cause after the last attempt, or at once if a further one cannot help;
        FolderError if the file cannot be written; Stopped.
        """
        for attempt in range(ATTEMPTS):
            if self.stop.wait(WAIT_S * 2 ** (attempt - 1) if attempt else 0):
                raise Stopped
            try:
                self._attempt(url, file, target)
                return
            except _Fault as fault:
                cause = str(fault)
        raise DownloadError(f"{cause} (in {ATTEMPTS} attempts)")

    def _attempt(self, url: str, file: File, target: Path) -> None:
        import requests

        # Not pooch.retrieve: if a run is killed, it leaves files with random names in the dataset.
        partial, sink = partial_of(target), _Sink(self, file.size)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as sink.stream:
                http_downloader(self.answered.set)(url, sink, None)
            found = sha256(partial)
            if sink.count != file.size:
                raise _Fault(f"wrong size: expected {file.size} bytes, found {sink.count}")
            if found != file.sha256:
                raise _Fault(f"wrong content: expected sha256 {file.sha256[:12]}…, found {found[:12]}…")
            partial.replace(target)
        except BaseException as error:
            self.moved(-sink.count)
            with suppress(OSError):
                partial.unlink()
            if isinstance(error, requests.RequestException):
                raise _explained(error) from None
            if isinstance(error, OSError) and error.errno is None:  # requests' own: it finds no certificates
                raise DownloadError(str(error)) from None
            if isinstance(error, OSError):
                raise FolderError(
                    f"{target}: cannot be written: {error.strerror}; correct files are kept"
                ) from None
            raise


@dataclass
class _Sink:
    """What pooch writes to: it counts the bytes, and ends a download that is stopped or too long."""

    run: Downloader
    size: int
    stream: BinaryIO | None = None
    count: int = 0

    def write(self, chunk: bytes) -> None:
        if self.run.stop.is_set():
            raise Stopped
        if self.count + len(chunk) > self.size:
            raise _Fault(f"wrong size: expected {self.size} bytes, found more")
        self.stream.write(chunk)
        self.count += len(chunk)
        self.run.moved(len(chunk))

    def flush(self) -> None:
        self.stream.flush()


def _explained(error: "requests.RequestException") -> Exception:
    """_Fault, or DownloadError if another attempt cannot help. The address may hold a signature: it is not shown."""
    import requests

    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        kind = _Fault if status in RETRIED_STATUS or status >= 500 else DownloadError
        return kind(f"HTTP {status} {error.response.reason}")
    root: BaseException = error
    while below := root.__cause__ or root.__context__:
        root = below
    if isinstance(root, ssl.SSLCertVerificationError):
        return DownloadError(f"{root}; SSL_CERT_FILE can name the certificates to trust")
    if isinstance(root, TimeoutError):
        return _Fault(f"no byte for {TIMEOUT_S:g} s")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _Fault("the connection was cut before the file was complete")
    return _Fault(getattr(root, "strerror", None) or str(root) or type(root).__name__)
