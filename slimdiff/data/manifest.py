"""The files of a public dataset as facts: path, size, sha256, and how each FLAIR was acquired.

They stand in `manifests/{dataset}.tsv`, so that a study of the dataset can be planned before it is fetched.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slimdiff.data.participants import DataError
from slimdiff.files import MISSING, read_table

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


def read_manifest(dataset: str) -> Manifest:
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
