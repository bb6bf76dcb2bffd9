"""Read and write NIfTI files; headers by nibabel, with every promise of the header checked against the file.

`nibabel.load` repairs some headers without a message (a voxel size of 0 becomes 1), and it reads a gzip stream only as
far as it needs, so that damage within it goes unseen. Here the header is read as it is, and the whole stream is checked
against its own checksum.
"""

import gzip
import hashlib
import io
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip, isal_zlib

from slimdiff.files import content_hint, replacing

ENDINGS = (".nii", ".nii.gz")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_LEVEL = 1
"""Of written files: a higher level costs time, and noise does not compress further."""

MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's codes of metre, millimetre and micrometre (bits 0 to 2 of xyzt_units); any other code counts as mm."""
VOXEL_MM = (0.01, 100.0)
"""Voxel sizes outside this range come from a header with another unit than its numbers."""

MOST_VOXELS = 2**30
"""Of a file, all axes together: 1024 in each of three axes."""
MARGIN = 2**20
"""Bytes that may follow the last voxel; more are not unpacked."""

QUATERNION_ROUNDING = 1e-4
"""Largest excess of a quaternion's length over one that counts as a rounding error of its writer."""


class FileFault(ValueError):
    """Why a file cannot be read. `flag`: missing_file, empty_file, truncated or unreadable."""

    def __init__(self, flag: str, message: str):
        super().__init__(message)
        self.flag = flag


@dataclass(frozen=True)
class NiftiFile:
    """One file's content."""

    stored: np.ndarray
    """Voxels as stored in the file; any number of axes, read-only."""
    slope: float
    intercept: float
    """value = slope * stored + intercept."""
    affine: np.ndarray
    """(4, 4) voxel to world, mm, RAS+."""
    placed: bool
    """False: sform code and qform code are 0, so the affine holds only the voxel size."""
    qform: np.ndarray | None
    """(4, 4) of the header's qform where the affine is that of its sform; None without a valid qform."""
    sha256: str
    """Of the file's bytes."""

    @property
    def scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)


def read_nifti(path: Path) -> NiftiFile:
    """Read a .nii or .nii.gz (NIfTI-1 or NIfTI-2). Raises FileFault; messages do not repeat the path."""
    content = _bytes_of(path)
    raw = _unpacked(path, content)
    header = _by_standard(_header(raw))
    try:
        stored = _voxels(raw, header)
    except MemoryError:
        raise FileFault("unreadable", "does not fit into the memory of this machine") from None
    try:
        if np.isinf(header["scl_slope"]):
            raise nibabel.spatialimages.HeaderDataError("the slope is infinite")
        slope, intercept = header.get_slope_inter()
    except nibabel.spatialimages.HeaderDataError as error:
        raise FileFault("unreadable", f"its scaling is broken: {error}") from None
    # A slope of 0 or NaN means that there is no scaling (NIfTI-1 standard, scl_slope).
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))
    affine, placed = _affine(header)
    digest = hashlib.sha256(content).hexdigest()
    return NiftiFile(stored, slope, intercept, affine, placed, _second_form(header), digest)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, space: str = "scanner") -> None:
    """Write voxels (X, Y, Z) as .nii.gz, atomically; the same input gives the same bytes.

    affine: (4, 4) in mm, for sform and qform. space: NIfTI's name for its coordinate system.
    """
    header = nibabel.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(affine, code=space)
    header.set_qform(affine, code=space)
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.single_vox_offset
    # nibabel.save would put the temporary file's name and the time into the gzip header. The four bytes mean that
    # no extension follows.
    content = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    packed = igzip.compress(content, GZIP_LEVEL, mtime=0)
    with replacing(path, size=len(packed)) as temporary:
        temporary.write_bytes(packed)


def read_header(path: Path) -> nibabel.Nifti1Header:
    """The header alone, with a possible shape. Raises FileFault; messages do not repeat the path."""
    path = Path(path)
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
            start = stream.read(540)
    except FileNotFoundError:
        raise FileFault("missing_file", "not found") from None
    except (OSError, EOFError, zlib.error) as error:
        raise FileFault("truncated", f"ends too early or is damaged ({error}); copy it again") from None
    header = _by_standard(_header(start))
    _shape(header)
    return header


def voxel_count(path: Path) -> int | None:
    """Number of voxels by the header alone; None if it cannot be read, for example because the file is not fetched."""
    try:
        return int(np.prod(_shape(read_header(path)), dtype=object))
    except FileFault:
        return None


def _bytes_of(path: Path) -> bytes:
    if not path.name.lower().endswith(ENDINGS):
        raise FileFault("unreadable", f"expected a file named {' or '.join(ENDINGS)}; convert it")
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        hint = content_hint(path)
        raise FileFault("missing_file", f"not found: {hint}" if hint else "not found") from None
    except IsADirectoryError:
        raise FileFault("unreadable", "expected a file, found a folder") from None
    except PermissionError:
        raise FileFault("unreadable", "this user has no permission to read it") from None
    except OSError as error:
        raise FileFault("unreadable", error.strerror or str(error)) from None
    if not content:
        raise FileFault("empty_file", "is empty (0 bytes); copy it again")
    if hint := content_hint(path):
        raise FileFault("unreadable", hint)
    return content


def _unpacked(path: Path, content: bytes) -> bytes:
    named, packed = path.name.lower().endswith(".gz"), content.startswith(GZIP_MAGIC)
    if named and not packed:
        raise FileFault("unreadable", "it is named .gz but not gzipped; rename it or copy it again")
    if packed and not named:
        raise FileFault("unreadable", "it is gzipped but not named .gz; rename it")
    if not packed:
        return content
    try:
        # The header alone says how much of the stream belongs to the file: a few bytes can unpack to any size.
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            start, _, promised = _extent(_by_standard(_header(stream.read(540))))
        most = start + promised + MARGIN
        raw, rest = _members(content, most)
    except (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error) as error:
        raise FileFault("truncated", f"ends too early or is damaged ({error}); copy it again") from None
    if rest:
        raise FileFault(
            "unreadable",
            f"its header promises {start + promised} bytes, and it unpacks to more than {most}; no more was unpacked; "
            "convert the image again",
        )
    return raw


def _members(content: bytes, most: int) -> tuple[bytes, bool]:
    """The gzip members of a file, unpacked up to a number of bytes, and whether there is more.

    Raises EOFError, or an error of zlib, for damage before it.
    """
    parts, size = [], 0
    while content:
        # Twice as fast as the standard library, checksum included.
        stream = isal_zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        part = stream.decompress(content, most + 1 - size)
        parts.append(part)
        size += len(part)
        if size > most:
            return b"", True
        if not stream.eof:
            # The limit was not reached, so the stream was.
            raise EOFError("the compressed stream has no end")
        # Zeros may pad the file.
        content = stream.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts), False


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


def _by_standard(header: nibabel.Nifti1Header) -> nibabel.Nifti1Header:
    """Two values that are valid by the NIfTI-1 standard and that nibabel refuses.

    pixdim[0] = 0 means 1. A quaternion whose length is above one by a rounding error has that length divided out.
    """
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1
    names = ("quatern_b", "quatern_c", "quatern_d")
    length = float(np.sqrt(sum(float(header[name]) ** 2 for name in names)))
    if 1 < length < 1 + QUATERNION_ROUNDING:
        for name in names:
            header[name] = header[name] / length
    return header


def _shape(header: nibabel.Nifti1Header) -> tuple[int, ...]:
    count = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : count + 1])
    if not 1 <= count <= 7 or min(shape) < 1:
        raise FileFault("unreadable", f"its header gives the impossible shape {shape} ({count} axes)")
    return shape


def _extent(header: nibabel.Nifti1Header) -> tuple[int, tuple[np.dtype, tuple[int, ...]], int]:
    """Where the voxels begin, their type and shape, and their size in bytes, by the header. Raises FileFault."""
    shape = _shape(header)
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
            "unreadable", f"expected voxels that are integers or real numbers, found {name} (datatype {code})"
        )
    start = int(header["vox_offset"]) if np.isfinite(header["vox_offset"]) else -1
    if start < header.single_vox_offset:
        raise FileFault(
            "unreadable", f"its header says that the voxels begin at byte {start}, inside the header"
        )
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MOST_VOXELS:
        raise FileFault(
            "unreadable",
            f"its header gives the shape {shape}: expected at most {MOST_VOXELS} voxels; is it a volume of one head?",
        )
    promised = dtype.itemsize * voxels
    # As stored, and as float32.
    if promised + 4 * voxels > (memory := _memory()):
        raise FileFault(
            "unreadable",
            f"its header promises {promised / 1e9:.3g} GB for voxels {shape}, which do not fit into the memory of this "
            f"machine ({memory / 1e9:.3g} GB)",
        )
    return start, (dtype, shape), promised


def _memory() -> int:
    """Physical memory in bytes; no limit where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def _voxels(raw: bytes, header: nibabel.Nifti1Header) -> np.ndarray:
    start, (dtype, shape), promised = _extent(header)
    if len(raw) - start < promised:
        raise FileFault(
            "truncated",
            f"its header promises {promised} bytes for voxels {shape}, found {max(len(raw) - start, 0)}; "
            "copy it again",
        )
    return np.ndarray(shape, dtype, raw, start, order="F")


def mm_per_unit(header: nibabel.Nifti1Header) -> float:
    """Length in mm of the unit of the voxel sizes and the affine."""
    return MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _affine(header: nibabel.Nifti1Header) -> tuple[np.ndarray, bool]:
    by_sform, by_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    to_mm = mm_per_unit(header)
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64)) * to_mm
    if not by_sform and not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise FileFault("unreadable", f"its voxel size is {_numbers(sizes)} mm; fix its header")
    try:
        affine = np.array(header.get_best_affine(), np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise FileFault("unreadable", f"its qform is broken ({error}); fix its header") from None
    if not np.isfinite(affine).all():
        raise FileFault("unreadable", "its affine is not finite; fix its header")
    affine[:3] *= to_mm
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    # Determinant of the directions alone, so that small voxels do not count as singular.
    if (sizes == 0).any() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        which = (
            f"voxel size {_numbers(sizes)} mm" if (sizes == 0).any() else "two axes have the same direction"
        )
        raise FileFault("unreadable", f"its affine is singular ({which}); fix its header")
    if to_mm != 1 and not (VOXEL_MM[0] <= sizes.min() and sizes.max() <= VOXEL_MM[1]):
        unit = "metre" if to_mm > 1 else "micrometre"
        raise FileFault(
            "unreadable",
            f"its header gives the unit {unit} (xyzt_units), so its voxel size is {_numbers(sizes)} mm; expected "
            f"{VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm; fix xyzt_units (2: mm)",
        )
    return affine, by_sform or by_qform


def _second_form(header: nibabel.Nifti1Header) -> np.ndarray | None:
    """The qform in mm of a header whose sform counts."""
    if int(header["sform_code"]) <= 0 or int(header["qform_code"]) <= 0:
        return None
    try:
        affine = np.array(header.get_qform(), np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return None
    affine[:3] *= mm_per_unit(header)
    return affine if np.isfinite(affine).all() else None


def _numbers(values: np.ndarray) -> str:
    return " x ".join(f"{value:g}" for value in values)
