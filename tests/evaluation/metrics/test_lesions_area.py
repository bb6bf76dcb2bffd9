import numpy as np
import pytest

from slimdiff.evaluation.metrics.lesions import area_gap, resampled_area_gap


def test_lesions_twice_as_large_have_a_gap_of_one_doubling_in_any_z_bin():
    generator = np.random.default_rng(0)
    bins = np.repeat(np.arange(4), 25)
    areas = (10 * (1 + bins) * generator.uniform(0.5, 2, 100)).round()
    # Samples and lesions differ in their z-bins: one median over all is biased, a median per z-bin is not.
    chosen = np.concatenate([np.flatnonzero(bins == 3)] * 5 + [np.flatnonzero(bins == 0)])
    assert area_gap(areas, bins, 2 * areas[chosen], bins[chosen]) == pytest.approx(1)
    assert area_gap(areas, bins, areas, bins) == 0


def test_bins_missing_in_one_set_are_left_out():
    assert area_gap(np.array([8.0, 99]), np.array([0, 1]), np.array([4.0, 1]), np.array([0, 2])) == -1
    assert np.isnan(area_gap(np.array([8.0]), np.array([0]), np.array([4.0]), np.array([2])))


def test_a_z_bin_weighs_as_much_as_it_has_real_lesion_slices():
    """One slice of 8 px in a rare z-bin once gave two thirds of the gap."""
    bins = np.repeat([0, 1, 2], [1, 6, 3])
    areas = np.full(10, 8.0)
    others, other_bins = np.repeat([2.0, 16, 32], 20), np.repeat([0, 1, 2], 20)
    assert area_gap(areas, bins, others, other_bins) == pytest.approx((-2 * 1 + 1 * 6 + 2 * 3) / 10)
    # The number of samples in a z-bin does not matter.
    assert area_gap(areas, bins, others[15:], other_bins[15:]) == pytest.approx(1)


def test_resampled_gap_is_the_gap_of_the_drawn_subjects():
    generator = np.random.default_rng(2)
    areas, bins = generator.integers(5, 90, 40).astype(float), generator.integers(3, size=40)
    other, other_bins = generator.integers(5, 90, 30).astype(float), generator.integers(3, size=30)
    bins[:2] = 7
    subjects = np.repeat(np.arange(8), 5)
    counts = generator.multinomial(8, np.full(8, 1 / 8), size=20)
    slow = []
    for weight in counts:
        rows = np.repeat(np.arange(40), weight[subjects])
        slow.append(area_gap(areas[rows], bins[rows], other, other_bins))
    found = resampled_area_gap(areas, bins, other, other_bins, subjects, counts)
    assert found == pytest.approx(slow)
    nothing = resampled_area_gap(areas, bins, other, other_bins, np.where(subjects == 0, 0, 1), [[0, 0]])
    assert np.isnan(nothing[0])
