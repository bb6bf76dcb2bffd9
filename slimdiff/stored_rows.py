"""Slices or vectors that stay on disk: rows are read when they are indexed, and written one by one, so memory has no
more than these.

Reads are positioned reads of a file, not a memory map: pages of a map count as memory of the process. `Rows` have
`shape`, `dtype`, `ndim` and `len`, and `rows[index]` is an array; the index is a slice, numbers, a mask or one number.
Code that takes an array block by block can take them instead.
"""

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np


class Rows(ABC):
    """Rows that are made or read when they are indexed; a subclass gives `_take` for one array of indices."""

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = shape, np.dtype(dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        if isinstance(rows, slice):
            return self._take(np.arange(*rows.indices(len(self))))
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise IndexError(f"expected a mask of {len(self)} rows, found the shape {index.shape}")
            return self._take(np.flatnonzero(index))
        index = index.astype(np.int64)
        if index.size and not (-len(self) <= index.min() and index.max() < len(self)):
            raise IndexError(
                f"expected rows below {len(self)}, found rows from {index.min()} to {index.max()}"
            )
        index = np.where(index < 0, index + len(self), index)
        return self._take(index) if index.ndim else self._take(index[None])[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @abstractmethod
    def _take(self, index: np.ndarray) -> np.ndarray:
        """The rows of these numbers, which are all there, in this order."""


class StoredRows(Rows):
    """The rows of an array in an open file, in C order from `offset` on."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: Any):
        super().__init__(shape, dtype)
        self.path, self.offset = Path(path), offset
        self.row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize
        # Kept open: a file that is replaced meanwhile stays readable.
        self._stream = self.path.open("rb", buffering=0)
        if os.fstat(self._stream.fileno()).st_size < offset + len(self) * self.row_bytes:
            raise ValueError(f"{path}: shorter than its header says")

    def _take(self, index: np.ndarray) -> np.ndarray:
        found = np.empty((len(index), *self.shape[1:]), self.dtype)
        if not found.size:
            return found
        flat = memoryview(found.reshape(-1)).cast("B")
        # Neighbouring rows are read at once.
        begins = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(index)], strict=True):
            part = flat[begin * self.row_bytes : end * self.row_bytes]
            self._read(part, self.offset + int(index[begin]) * self.row_bytes)
        return found

    def _read(self, into: memoryview, offset: int) -> None:
        while len(into):
            count = os.preadv(self._stream.fileno(), [into], offset)
            if not count:
                raise ValueError(f"{self.path}: ends before byte {offset + len(into)}; expected more rows")
            into, offset = into[count:], offset + count


class ChosenRows(Rows):
    """Some of other `Rows`, or of an array, in any order."""

    def __init__(self, source: "Rows | np.ndarray", rows: np.ndarray):
        rows = np.asarray(rows)
        self.source, self.rows = source, np.flatnonzero(rows) if rows.dtype == bool else rows
        super().__init__((len(self.rows), *source.shape[1:]), source.dtype)

    def _take(self, index: np.ndarray) -> np.ndarray:
        return np.asarray(self.source[self.rows[index]])


class JoinedRows(Rows):
    """Several `Rows` or arrays of one shape, one after the other."""

    def __init__(self, parts: "Sequence[Rows | np.ndarray]"):
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"expected rows of one shape, found {sorted(shapes)}")
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])
        super().__init__((int(self.ends[-1]), *shapes.pop()), np.result_type(*(part.dtype for part in parts)))

    def _take(self, index: np.ndarray) -> np.ndarray:
        found = np.empty((len(index), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.ends, index, side="right")
        for number in np.unique(owner):
            own, part = owner == number, self.parts[number]
            found[own] = part[index[own] - (self.ends[number] - len(part))]
        return found


class ConvertedRows(Rows):
    """Other `Rows`, or an array, converted when they are read.

    Args:
        convert: function of (n, ...) rows that treats each row alone.
        dtype: type of the converted rows.
        shape: shape of a converted row; None: that of the source.
    """

    def __init__(
        self,
        source: "Rows | np.ndarray",
        convert: Callable[[np.ndarray], np.ndarray],
        dtype: Any,
        shape: tuple[int, ...] | None = None,
    ):
        self.source, self.convert = source, convert
        super().__init__((len(source), *(source.shape[1:] if shape is None else shape)), dtype)

    def _take(self, index: np.ndarray) -> np.ndarray:
        return self.convert(np.asarray(self.source[index]))


def blocks_of(rows: "Rows | np.ndarray", values: int) -> list[slice]:
    """Slices that cover the rows in blocks of at most so many values; no row gives one empty block."""
    step = max(1, values // max(1, int(np.prod(rows.shape[1:], dtype=np.int64))))
    return [slice(start, min(start + step, len(rows))) for start in range(0, max(len(rows), 1), step)]


def in_memory(rows: Rows, values: int = 2**24) -> "np.ndarray | Rows":
    """The rows as an array if they have at most so many values, else these `Rows`."""
    return rows[:] if np.prod(rows.shape, dtype=np.int64) <= values else rows


def stored_npy(path: Path) -> StoredRows:
    """The rows of a .npy file; raises ValueError where it is damaged, or is no array in C order."""
    with Path(path).open("rb") as stream:
        return _after_header(path, stream)


def stored_npz(path: Path, name: str) -> StoredRows | None:
    """The rows of an array in a .npz file; None where they have to be unpacked first."""
    with ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != ZIP_STORED:
        return None
    with Path(path).open("rb") as stream:
        # The local header's name and extra field may be longer than those of the directory.
        stream.seek(member.header_offset + 26)
        stream.seek(sum(struct.unpack("<HH", stream.read(4))), os.SEEK_CUR)
        try:
            return _after_header(path, stream)
        except ValueError:
            return None


def _after_header(path: Path, stream) -> StoredRows:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"{path}: expected an array of format 1.0 or 2.0, found {version}")
    shape, fortran_order, dtype = read[version](stream)
    if fortran_order or dtype.hasobject or not shape:
        raise ValueError(f"{path}: expected an array of numbers in C order, found {dtype} of shape {shape}")
    return StoredRows(path, stream.tell(), shape, dtype)


class ArrayWriter:
    """Write arrays of one shape and type to a .npy file, one after the other, without keeping them in memory."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self.path, self.shape, self.dtype, self.count = Path(path), shape, np.dtype(dtype), 0

    def __enter__(self) -> "ArrayWriter":
        self.stream = self.path.open("wb")
        self._header()
        self.begin = self.stream.tell()
        return self

    def append(self, array: np.ndarray) -> None:
        """One more array along the first axis; raises ValueError if its shape differs."""
        if array.shape != self.shape:
            raise ValueError(f"{self.path}: expected an array of shape {self.shape}, found {array.shape}")
        self.stream.write(np.ascontiguousarray(array, self.dtype).tobytes())
        self.count += 1

    def _header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self.stream,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (self.count, *self.shape),
            },
        )

    def __exit__(self, *_) -> None:
        # NumPy pads the header, so that a longer first axis still fits.
        self.stream.seek(0)
        self._header()
        grown = self.stream.tell() != self.begin
        self.stream.close()
        if grown:
            raise RuntimeError(
                f"{self.path}: the header with the final shape is longer than the space kept for it"
            )
