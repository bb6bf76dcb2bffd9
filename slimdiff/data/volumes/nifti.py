"""NIfTI files, read with every promise of their header checked against what is there, and written.

nibabel mends some headers without a word (a voxel size of 0 becomes 1) and reads a gzip stream no further than it has
to, so that damage behind the last voxel, or within it, goes unseen. Here the header is read as it stands and the whole
stream is checked against its own checksum.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip, isal_zlib

from slimdiff.files import replacing

ENDINGS = (".nii", ".nii.gz")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_LEVEL = 1
"""Of what is written: each level more costs time, and noise does not get smaller."""


class FileFault(ValueError):
    """Why a file cannot be read. `flag`: missing_file, empty_file, truncated or unreadable."""

    def __init__(self, flag: str, message: str):
        super().__init__(message)
        self.flag = flag


@dataclass(frozen=True)
class NiftiFile:
    """One file's content."""

    stored: np.ndarray
    """As it lies in the file; any number of axes, read-only."""
    slope: float
    intercept: float
    """value = slope * stored + intercept."""
    affine: np.ndarray
    """(4, 4) voxel to world, mm, RAS+."""
    placed: bool
    """False: sform and qform code are 0, so that the affine is only the voxel size."""
    sha256: str
    """Of the file's bytes."""

    @property
    def scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)


def read_nifti(path: Path) -> NiftiFile:
    """Read a .nii or .nii.gz (NIfTI-1 or NIfTI-2). Raises FileFault; messages do not repeat the path."""
    content = _bytes_of(path)
    raw = _unpacked(path, content)
    header = _header(raw)
    stored = _voxels(raw, header)
    try:
        if np.isinf(header["scl_slope"]):
            raise nibabel.spatialimages.HeaderDataError("the slope is infinite")
        slope, intercept = header.get_slope_inter()
    except nibabel.spatialimages.HeaderDataError as error:
        raise FileFault("unreadable", f"its scaling is broken: {error}") from None
    # A slope of 0 or NaN means that there is no scaling (NIfTI-1 standard, scl_slope).
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))
    affine, placed = _affine(header)
    return NiftiFile(stored, slope, intercept, affine, placed, hashlib.sha256(content).hexdigest())


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, space: str = "scanner") -> None:
    """Write voxels (X, Y, Z) as .nii.gz, whole or not at all; the same input gives the same bytes.

    affine: (4, 4) in mm, sform and qform. space: what it refers to, in NIfTI's words.
    """
    header = nibabel.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(affine, code=space)
    header.set_qform(affine, code=space)
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.single_vox_offset
    # Not by nibabel.save: the temporary file's name and the time would be in the gzip header. The four bytes say that
    # no extension follows.
    content = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    with replacing(path) as temporary:
        temporary.write_bytes(igzip.compress(content, GZIP_LEVEL, mtime=0))


def _bytes_of(path: Path) -> bytes:
    if not path.name.lower().endswith(ENDINGS):
        raise FileFault("unreadable", f"a file named {' or '.join(ENDINGS)} is wanted; convert it")
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise FileFault(
                "missing_file", f"is a link to {path.readlink()}, which is not there; fetch the file itself"
            ) from None
        raise FileFault("missing_file", "is not there") from None
    except IsADirectoryError:
        raise FileFault("unreadable", "it is a folder; a file is wanted") from None
    except PermissionError:
        raise FileFault("unreadable", "this user has no permission to read it") from None
    except OSError as error:
        raise FileFault("unreadable", error.strerror or str(error)) from None
    if not content:
        raise FileFault("empty_file", "is empty (0 bytes); copy it again")
    start = content[:200]
    if start.startswith(b"version https://git-lfs") or b"/annex/objects/" in start:
        raise FileFault("unreadable", "it is a pointer of Git LFS or git-annex; fetch the file itself")
    return content


def _unpacked(path: Path, content: bytes) -> bytes:
    named, packed = path.name.lower().endswith(".gz"), content.startswith(GZIP_MAGIC)
    if named and not packed:
        raise FileFault("unreadable", "it is named .gz and is not gzipped; rename it or copy it again")
    if packed and not named:
        raise FileFault("unreadable", "it is gzipped and not named .gz; rename it")
    if not packed:
        return content
    try:
        # Twice as fast as the standard library's, checksum included.
        return igzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error) as error:
        raise FileFault("truncated", f"ends too early or is damaged ({error}); copy it again") from None


def _header(raw: bytes) -> nibabel.Nifti1Header:
    sizes = {int.from_bytes(raw[:4], order) for order in ("little", "big")}
    for kind, size in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)):
        if size not in sizes:
            continue
        if len(raw) < size:
            raise FileFault("truncated", f"ends within its header, at {len(raw)} bytes; copy it again")
        header = kind(raw[:size], check=False)
        magic = bytes(header.structarr["magic"].item())
        if not magic.startswith((b"n+1", b"n+2")):
            what = "half of a .hdr/.img pair" if magic.startswith(b"ni") else "Analyze 7.5 or another format"
            raise FileFault("unreadable", f"it is no NIfTI file ({what}); convert it to .nii.gz")
        return header
    if len(raw) < 348:
        raise FileFault("truncated", f"has {len(raw)} bytes, less than a NIfTI header; copy it again")
    raise FileFault("unreadable", "it is no NIfTI file (it does not begin with a NIfTI header)")


def _voxels(raw: bytes, header: nibabel.Nifti1Header) -> np.ndarray:
    count = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : count + 1])
    if not 1 <= count <= 7 or min(shape) < 1:
        raise FileFault("unreadable", f"its header gives the impossible shape {shape} ({count} axes)")
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError):
        dtype = np.dtype("V")
    if dtype.kind not in "iuf":
        code = int(header["datatype"])
        name = {128: "RGB", 2304: "RGBA", 1: "single bits"}.get(
            code, "complex" if dtype.kind == "c" else "unknown"
        )
        raise FileFault(
            "unreadable", f"its voxels are {name} (datatype {code}); whole or real numbers are wanted"
        )
    start = int(header["vox_offset"]) if np.isfinite(header["vox_offset"]) else -1
    if start < header.single_vox_offset:
        raise FileFault("unreadable", f"its header says that voxels begin at byte {start}, within the header")
    promised = int(np.prod([dtype.itemsize, *shape], dtype=object))
    if len(raw) - start < promised:
        raise FileFault(
            "truncated",
            f"its header promises {promised} bytes of voxels {shape}, and {max(len(raw) - start, 0)} are there; "
            "copy it again",
        )
    return np.ndarray(shape, dtype, raw, start, order="F")


def _affine(header: nibabel.Nifti1Header) -> tuple[np.ndarray, bool]:
    by_sform, by_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    if not by_sform and not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise FileFault("unreadable", f"its voxel size is {_numbers(sizes)} mm; mend its header")
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise FileFault("unreadable", f"its qform is broken ({error}); mend its header") from None
    if not np.isfinite(affine).all():
        raise FileFault("unreadable", "its affine is not finite; mend its header")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    # Of the axes' directions alone, so that small voxels are not taken for flat ones.
    if (sizes == 0).any() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        which = f"voxel size {_numbers(sizes)} mm" if (sizes == 0).any() else "two axes point the same way"
        raise FileFault("unreadable", f"its affine is singular ({which}); mend its header")
    return affine, by_sform or by_qform


def _numbers(values: np.ndarray) -> str:
    return " x ".join(f"{value:g}" for value in values)
