import numpy as np
import pytest

from slimdiff.evaluation.metrics.components import components_of
from slimdiff.evaluation.metrics.lesions import (
    brain_middles,
    energy_distance,
    left_share,
    positions,
    resampled_energy_distance,
)


def slow_energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Pair by pair; a point is not paired with itself."""

    def mean(a, b, same=False):
        pairs = [
            np.hypot(*(p - q)) for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)
        ]
        return np.mean(pairs)

    return 2 * mean(x, y) - mean(x, x, True) - mean(y, y, True)


def clouds(n=14, m=18, shift=3.0, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(0, 10, (n, 2)), generator.normal(shift, 12, (m, 2))


def test_energy_distance_agrees_with_a_loop_over_pairs():
    x, y = clouds()
    assert energy_distance(x, y) == pytest.approx(slow_energy_distance(x, y), rel=1e-9)


def test_energy_distance_is_around_zero_for_equal_clouds_and_grows_with_a_shift():
    values = [energy_distance(*clouds(60, 60, 0.0, seed)) for seed in range(40)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40) + 0.5
    x, _ = clouds(60)
    grown = [energy_distance(x, x[::-1] + shift) for shift in (0, 5, 10, 20)]
    assert (np.diff(grown) > 0).all()


def test_drawing_every_subject_once_gives_the_distance_and_few_lesions_give_nan():
    x, y = clouds()
    subjects = np.repeat(np.arange(7), 2)
    found = resampled_energy_distance(x, y, subjects, np.ones((1, 7)))
    assert found[0] == pytest.approx(energy_distance(x, y))
    assert np.isnan(energy_distance(x[:9], y))


def lesion_slice(row: int, column: int, shape=(50, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A brain in rows 10..39 and columns 6..29, and a lesion of 3 x 3 px centred at (row, column)."""
    image, mask = np.full(shape, -1, np.float32), np.zeros(shape, bool)
    image[10:40, 6:30] = 0
    mask[row - 1 : row + 2, column - 1 : column + 2] = True
    return image, mask


def test_positions_are_in_mm_from_the_middle_of_the_brain():
    images, masks = map(np.array, zip(*[lesion_slice(20, 10), lesion_slice(30, 26)], strict=True))
    assert brain_middles(images).tolist() == [[24.5, 17.5]] * 2
    found = components_of(masks)
    places = positions(found.centroids, found.slices, images, 1.25)
    # (column - 17.5, row - 24.5) * 1.25: left anterior, right posterior.
    assert places.tolist() == [[-7.5 * 1.25, -4.5 * 1.25], [8.5 * 1.25, 5.5 * 1.25]]
    assert left_share(places) == 0.5


def test_positions_do_not_depend_on_where_the_brain_is_in_the_image():
    image, mask = lesion_slice(20, 10)
    both = np.array([image, np.roll(image, (4, 7), (0, 1))]), np.array([mask, np.roll(mask, (4, 7), (0, 1))])
    found = components_of(both[1])
    places = positions(found.centroids, found.slices, both[0], 1.0)
    assert places[0].tolist() == places[1].tolist()


def test_without_a_brain_the_middle_of_the_image_is_used_and_without_a_lesion_the_share_is_nan():
    assert brain_middles(np.full((1, 5, 9), -1, np.float32)).tolist() == [[2, 4]]
    assert np.isnan(left_share(np.empty((0, 2))))
