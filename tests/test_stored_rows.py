"""Stacks on disk give the bits of the arrays that they stand for, and read no more than is asked."""

import numpy as np
import pytest

from slimdiff import stored_rows
from slimdiff.generation.samples import read_samples, write_samples
from slimdiff.stored_rows import (
    ChosenRows,
    ConvertedRows,
    JoinedRows,
    blocks_of,
    in_memory,
    stored_npy,
    stored_npz,
)

ROWS = [
    slice(None),
    slice(3, 9),
    slice(9, 2, -3),
    slice(40, 60),
    np.array([5, 4, 4, 11, 0, 1, 2]),
    np.array([-1, -12]),
    np.array([], np.int64),
    np.arange(12) % 3 == 1,
    7,
    -2,
]


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, 3, 5)).astype(np.float16)


def views(array, folder):
    """The array in every form of a stack."""
    np.save(folder / "one.npy", array)
    np.savez(folder / "many.npz", other=np.arange(99), images=array)
    stored = stored_npz(folder / "many.npz", "images")
    order = np.random.default_rng(1).permutation(12)
    return {
        "npy": stored_npy(folder / "one.npy"),
        "npz": stored,
        "joined": JoinedRows(
            [stored_npy(folder / "one.npy")[:4], ChosenRows(stored, np.arange(4, 4)), stored_tail(stored)]
        ),
        "chosen": ChosenRows(ChosenRows(stored, order), np.argsort(order)),
        "converted": ConvertedRows(ChosenRows(array * 2, np.arange(12)), lambda rows: rows / 2, np.float16),
    }


def stored_tail(stored):
    return ChosenRows(stored, np.arange(12) >= 4)


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_are_those_of_the_array(array, tmp_path, rows):
    for name, stack in views(array, tmp_path).items():
        assert (stack.shape, stack.dtype, len(stack), stack.ndim) == (array.shape, array.dtype, 12, 3), name
        found = stack[rows]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array[rows], err_msg=name)
        np.testing.assert_array_equal(np.asarray(stack), array, err_msg=name)


def test_rows_that_are_not_there_are_an_error(array, tmp_path):
    for stack in views(array, tmp_path).values():
        for rows in (12, np.array([0, 12]), np.array([-13]), np.ones(11, bool)):
            with pytest.raises(IndexError, match="12"):
                stack[rows]


def test_only_the_rows_that_are_asked_for_are_read(array, tmp_path, monkeypatch):
    stack = views(array, tmp_path)["npz"]
    read = []
    original = stored_rows.StoredRows._read

    def counted(self, into, offset):
        read.append(len(into))
        original(self, into, offset)

    monkeypatch.setattr(stored_rows.StoredRows, "_read", counted)
    stack[np.array([3, 4, 5, 9])]
    assert read == [3 * 30, 30]


def test_a_file_that_is_cut_off_or_replaced(array, tmp_path):
    path = tmp_path / "one.npy"
    np.save(path, array)
    stack = stored_npy(path)
    np.save(tmp_path / "new.npy", array + 1)
    (tmp_path / "new.npy").replace(path)
    # The file that was opened is still read.
    np.testing.assert_array_equal(stack[:], array)
    np.testing.assert_array_equal(stored_npy(path)[:], array + 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"one\.npy: shorter than its header says"):
        stored_npy(path)
    np.save(path, np.asfortranarray(array))
    with pytest.raises(ValueError, match="C order"):
        stored_npy(path)


def test_blocks_cover_every_row_once_and_are_small(array):
    assert blocks_of(array, 45) == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)]
    assert blocks_of(array, 1) == [slice(row, row + 1) for row in range(12)]
    assert blocks_of(array[:0], 45) == [slice(0, 0)]
    assert isinstance(in_memory(ChosenRows(array, np.arange(3)), 45), np.ndarray)
    assert isinstance(in_memory(ChosenRows(array, np.arange(4)), 45), ChosenRows)


def sample_rows(z_bin: int, count: int) -> list[dict]:
    rest = {"key": "k", "class": 1, "replica": 0, "index": 0, "acquisition": "n/a", "lesion_px": 0}
    return [{"id": f"s{z_bin}_{number}", "z_bin": z_bin, **rest} for number in range(count)]


def test_samples_on_disk_are_those_in_memory(array, tmp_path):
    for z_bin, count in enumerate((4, 0, 12)):
        write_samples(
            tmp_path / f"zbin-{z_bin:02d}", array[:count], -array[:count], sample_rows(z_bin, count)
        )
    on_disk, in_ram = (read_samples(tmp_path, 3, on_disk=on_disk) for on_disk in (True, False))
    for name in ("images", "masks", "z_bin", "label", "id"):
        np.testing.assert_array_equal(getattr(on_disk, name), getattr(in_ram, name))
    assert all(isinstance(part, stored_rows.StoredRows) for part in on_disk.images.parts)


def test_a_compressed_archive_is_read_into_memory(array, tmp_path):
    write_samples(tmp_path / "zbin-00", array, -array, sample_rows(0, 12))
    np.savez_compressed(tmp_path / "zbin-00.npz", images=array, masks=-array)
    found = read_samples(tmp_path, 1, on_disk=True)
    np.testing.assert_array_equal(found.images[:], array)
    np.testing.assert_array_equal(found.masks[:], -array)


def test_a_damaged_archive_is_found_when_the_samples_are_opened(array, tmp_path):
    write_samples(tmp_path / "zbin-00", array, -array, sample_rows(0, 12))
    path = tmp_path / "zbin-00.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"zbin-00\.npz: not readable"):
        read_samples(tmp_path, 1, on_disk=True)
