import numpy as np
import pytest

from slimdiff.evaluation.metrics.outline import in_real_range, outlines


def slice_of(brain: np.ndarray) -> np.ndarray:
    return np.where(brain, 0.2, -1.0).astype(np.float16)


def disc(centre=(32, 31.5), radius=20.0) -> np.ndarray:
    rows, columns = np.indices((64, 64))
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_a_disc_is_solid_and_symmetric():
    area, solidity, symmetry = outlines(slice_of(disc())[None])[0]
    assert area == disc().sum()
    assert solidity > 0.97
    assert symmetry == 1


def test_holes_are_filled_and_smaller_pieces_do_not_count():
    brain = disc()
    with_hole = brain & ~disc(radius=5)
    with_hole[2:6, 2:6] = True
    np.testing.assert_array_equal(outlines(slice_of(with_hole)[None]), outlines(slice_of(brain)[None]))


def test_a_rectangle_with_a_corner_missing():
    brain = np.zeros((64, 64), bool)
    brain[20:40, 10:50] = True
    brain[20:40, 40:50] = False
    brain[30:40, 40:50] = True
    # 700 of the hull's 750 px, less the staircase of its diagonal; mirrored about column 28.07.
    area, solidity, symmetry = outlines(slice_of(brain)[None])[0]
    assert area == 700
    assert solidity == pytest.approx(700 / 750, abs=0.01)
    double = round(2 * np.nonzero(brain)[1].mean())
    assert symmetry == np.mean([brain[r, double - c] for r, c in np.argwhere(brain)])


def test_a_slice_without_brain_has_zeros():
    np.testing.assert_array_equal(outlines(np.full((2, 8, 8), -1.0, np.float16)), np.zeros((2, 3)))
    assert outlines(np.empty((0, 8, 8), np.float16)).shape == (0, 3)


def test_the_range_is_that_of_the_own_z_bin():
    real = outlines(np.stack([slice_of(disc(radius=r)) for r in np.linspace(18, 22, 40)]))
    small = outlines(slice_of(disc(radius=10))[None])
    z_bin = np.repeat([0, 1], 20)
    found = np.concatenate([real[[10, 30, 10]], small])
    inside = in_real_range(found, np.array([0, 1, 1, 0]), real, z_bin)
    np.testing.assert_array_equal(inside, [1, 1, 0, 0])


def test_ragged_and_cut_outlines_are_outside():
    rng = np.random.default_rng(0)
    radii = rng.uniform(18, 22, 60)
    real = outlines(np.stack([slice_of(disc(radius=r)) for r in radii]))
    z_bin = np.zeros(60, int)
    ragged = disc() & (rng.random((64, 64)) < 0.7)
    cut = disc() & (np.indices((64, 64))[1] < 40)
    found = outlines(np.stack([slice_of(ragged), slice_of(cut), slice_of(disc())]))
    np.testing.assert_array_equal(in_real_range(found, np.zeros(3, int), real, z_bin), [0, 0, 1])


def test_a_z_bin_with_few_real_slices_has_no_range():
    real = outlines(slice_of(disc())[None].repeat(9, axis=0))
    assert np.isnan(in_real_range(real[:1], np.zeros(1, int), real, np.zeros(9, int))).all()
