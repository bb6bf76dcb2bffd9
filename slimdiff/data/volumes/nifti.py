"""Read and write NIfTI files; headers by nibabel, with every promise of the header checked against the file.

`nibabel.load` repairs some headers without a message (a voxel size of 0 becomes 1), and it reads a gzip stream only as
far as it needs, so that damage within it goes unseen. Here the header is read as it is, and the whole stream is checked
against its own checksum.
"""

import gzip
import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
"""Bytes that may follow the last voxel; a file with more is not read."""
MOST_BEFORE = 2**28
"""Bytes that may precede the first voxel: the header and its extensions."""
HEADER = 540
"""Bytes of the longer header, that of NIfTI-2."""
HEAD = 2**18
"""Bytes of a gzip file in which its header is looked for."""
PART = 2**16
"""Bytes that are read and unpacked at once. What follows a gzip member in them is copied for the next one."""

QUATERNION_ROUNDING = 1e-4
"""Largest excess of a quaternion's length over one that counts as a rounding error of its writer."""

NO_MEMORY = "it does not fit into the memory of this machine"


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
    try:
        with _opened(path) as stream:
            raw, digest = _content(path, stream)
    except MemoryError:
        raise FileFault("unreadable", NO_MEMORY) from None
    header = _by_standard(_header(raw))
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
    with _opened(path) as stream:
        header = _by_standard(_header(_start(path, stream)))
    _shape(header)
    return header


def voxel_count(path: Path) -> int | None:
    """Number of voxels by the header alone; None if it cannot be read, for example because the file is not fetched."""
    try:
        return int(np.prod(_shape(read_header(path)), dtype=object))
    except FileFault:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes as a stream. Raises FileFault for anything but a regular file with content."""
    if not path.name.lower().endswith(ENDINGS):
        raise FileFault("unreadable", f"expected a file named {' or '.join(ENDINGS)}; convert it")
    try:
        # Before it is opened: a pipe blocks, and a device may have no end.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "folder" if stat.S_ISDIR(found.st_mode) else "device, pipe or socket"
            raise FileFault("unreadable", f"expected a file, found a {what}")
        if not found.st_size:
            raise FileFault("empty_file", "is empty (0 bytes); copy it again")
        if hint := content_hint(path):
            raise FileFault("unreadable", hint)
        with path.open("rb") as stream:
            yield stream
    except (FileNotFoundError, NotADirectoryError):
        hint = content_hint(path)
        raise FileFault("missing_file", f"not found: {hint}" if hint else "not found") from None
    except PermissionError:
        raise FileFault("unreadable", "this user has no permission to read it") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error) as error:
        raise FileFault("truncated", f"ends too early or is damaged ({error}); copy it again") from None
    except OSError as error:
        raise FileFault("unreadable", error.strerror or str(error)) from None


def _start(path: Path, stream: BinaryIO) -> bytes:
    """The bytes of the header, unpacked; no more than the beginning of the file is read."""
    start = stream.read(HEAD)
    stream.seek(0)
    named, packed = path.name.lower().endswith(".gz"), start.startswith(GZIP_MAGIC)
    if named and not packed:
        raise FileFault("unreadable", "it is named .gz but not gzipped; rename it or copy it again")
    if packed and not named:
        raise FileFault("unreadable", "it is gzipped but not named .gz; rename it")
    if not packed:
        return start[:HEADER]
    with gzip.GzipFile(fileobj=io.BytesIO(start)) as unpacked:
        return unpacked.read(HEADER)


def _content(path: Path, stream: BinaryIO) -> tuple[bytes, str]:
    """The file's content, unpacked, and the sha256 of its bytes; no more is read than its header promises."""
    # A few bytes can unpack to any size, and a file with holes can have any size.
    start, _, promised = _extent(_by_standard(_header(_start(path, stream))))
    packed = path.name.lower().endswith(".gz")
    most = start + promised + MARGIN
    # Noise takes a little more when it is packed.
    longest = most + most // 8 if packed else most
    size = os.fstat(stream.fileno()).st_size
    if size > longest:
        raise FileFault(
            "unreadable",
            f"its header promises {start + promised} bytes, and the file has {size}, more than {longest}; it was not "
            "read; convert the image again",
        )
    if not packed:
        raw = stream.read(most)
        return raw, hashlib.sha256(raw).hexdigest()
    raw, digest = _unpacked(stream, most)
    if raw is None:
        raise FileFault(
            "unreadable",
            f"its header promises {start + promised} bytes, and it unpacks to more than {most}; no more was unpacked; "
            "convert the image again",
        )
    return raw, digest


def _unpacked(stream: BinaryIO, most: int) -> tuple[bytes | None, str]:
    """The gzip members of a file, unpacked, and the sha256 of its bytes; None if there are more than `most` bytes.

    Raises EOFError, or an error of zlib, for damage before it.
    """
    raw, digest, member = io.BytesIO(), hashlib.sha256(), None
    while part := stream.read(PART):
        digest.update(part)
        # Zeros may pad the file.
        while part := part if member else part.lstrip(b"\0"):
            # Twice as fast as the standard library, checksum included.
            member = member or isal_zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            raw.write(member.decompress(part, most + 1 - raw.tell()))
            if raw.tell() > most:
                return None, ""
            # The limit was not reached, so the part, or the member, was.
            part = member.unused_data
            member = None if member.eof else member
    if member:
        raise EOFError("the compressed stream has no end")
    return raw.getvalue(), digest.hexdigest()


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
    if start > MOST_BEFORE:
        raise FileFault(
            "unreadable",
            f"its header says that the voxels begin at byte {start}; expected at most {MOST_BEFORE}; convert the image "
            "again",
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
