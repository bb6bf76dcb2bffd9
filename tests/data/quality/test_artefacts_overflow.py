"""16-bit numbers that ran over their end, made by the casts that make them; and the images that only look so."""

import numpy as np
import pytest
from helpers.synthetic import ball, head

from slimdiff.data.quality.artefacts import overflow


def stretched(top: float, seed: int = 1) -> np.ndarray:
    """A head whose brightest voxel is `top`, int64."""
    volume = head(seed)
    return np.round(volume / volume.max() * top).astype(np.int64)


def face_jumps(stored: np.ndarray, dtype) -> set[tuple[int, ...]]:
    """Negative voxels more than half the type's range below a neighbour, voxel by voxel."""
    found = set()
    for place in np.argwhere(stored < 0):
        for axis in range(3):
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                if 0 <= other[axis] < stored.shape[axis]:
                    jump = int(stored[tuple(other)]) - int(stored[tuple(place)])
                    if jump > np.iinfo(dtype).max:
                        found.add(tuple(place))
    return found


def test_bright_tissue_beyond_int16_is_found_where_it_wrapped():
    stored = stretched(40000).astype(np.int16)
    assert (stored < 0).sum() > 100
    assert overflow(stored, scaled=False).wrapped_voxels == len(face_jumps(stored, np.int16)) > 100


def test_a_single_voxel_beyond_int16_is_found():
    wide = stretched(30000)
    wide[16, 16, 16] = 33000
    assert overflow(wide.astype(np.int16), scaled=False).wrapped_voxels == 1


def test_values_below_nought_in_an_unsigned_type_are_found():
    wide = stretched(900)
    rng = np.random.default_rng(0)
    noise = rng.integers(-2, 3, wide.shape)
    wide += np.where(wide == 0, noise, 0)
    found = overflow(wide.astype(np.uint16), scaled=False).wrapped_voxels
    # Tissue, up to 900, is as low as the background beside 65535.
    assert found == (wide < 0).sum() > 5000


def test_bright_tissue_beyond_uint16_is_found_as_holes():
    wide = np.full((32, 32, 32), 1000)
    for radius, value in ((9, 30000), (7, 62000), (4, 66000)):
        wide[ball((16, 16, 16), radius)] = value
    assert overflow(wide.astype(np.uint16), scaled=False).wrapped_voxels == ball((16, 16, 16), 4).sum()


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_intensities_that_were_cut_off_at_the_end_are_counted(dtype):
    end = np.iinfo(dtype).max
    stored = np.minimum(stretched(1.1 * end), end).astype(dtype)
    found = overflow(stored, scaled=False)
    assert found.clipped_share == np.mean(stretched(1.1 * end) >= end) > 1e-3
    assert found.wrapped_voxels == 0


CLEAN = {
    "8 bits, whole range": lambda: np.minimum(stretched(400), 255).astype(np.uint8),
    "signed 8 bits, wrapped": lambda: stretched(200).astype(np.int8),
    "whole range of int16": lambda: stretched(32767).astype(np.int16),
    "whole range of uint16": lambda: stretched(65535).astype(np.uint16),
    "padded with the lowest value": lambda: np.where(stretched(9) == 0, -32768, stretched(30000)).astype(
        np.int16
    ),
    "tissue below nought, as in CT": lambda: np.where(stretched(9) > 0, stretched(3000) - 1024, -1024).astype(
        np.int16
    ),
    "background near the lowest value": lambda: np.where(
        stretched(9) > 0, stretched(25000), np.random.default_rng(1).integers(-31000, -29000, (32, 32, 32))
    ).astype(np.int16),
    "black and white exchanged": lambda: (32767 - stretched(30000)).astype(np.int16),
    "float": lambda: head(1) * 1000,
    "32 bits": lambda: stretched(70000).astype(np.int32),
    "a bright speck": lambda: np.where(ball((16, 16, 16), 0), 4095, stretched(300)).astype(np.uint16),
}


@pytest.mark.parametrize("case", CLEAN)
def test_an_image_that_only_looks_so_is_left_alone(case):
    found = overflow(CLEAN[case](), scaled=False)
    assert found.wrapped_voxels == 0
    assert found.clipped_share < 1e-4


def test_an_image_that_its_writer_fitted_to_the_type_is_left_alone():
    # Background at the lowest value and tissue at the highest, as nibabel stores real numbers in 16 bits.
    volume = head(1).astype(np.float64)
    stored = np.round((volume - volume.min()) / np.ptp(volume) * 65535 - 32768).astype(np.int16)
    assert overflow(stored, scaled=True).wrapped_voxels == 0
    assert overflow(stored, scaled=True).clipped_share == 0
