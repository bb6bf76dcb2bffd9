import numpy as np
import pytest

from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.lpips import matched_pairs


def sets(n=40, m=30, d=8, shift=0.5, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((d, d))
    return generator.standard_normal((n, d)), generator.standard_normal((m, d)) @ mixing + shift


def test_kid_of_two_points_is_the_closed_form():
    # every real vector is a, every synthetic one b: k(a, a) + k(b, b) - 2 k(a, b)
    real, synthetic = np.tile([1.0, 0.0], (12, 1)), np.tile([0.0, 2.0], (15, 1))
    assert kid(real, synthetic, seed=0).value == pytest.approx(1.5**3 + 3**3 - 2, rel=1e-12)


def test_few_slices_give_nan():
    real, synthetic = sets(40, 9)
    assert np.isnan(kid(real, synthetic, seed=0).value)


def test_f11_kid_repeats_bit_for_bit():
    real, synthetic = sets()
    assert kid(real, synthetic, seed=1, subset_size=20) == kid(real, synthetic, seed=1, subset_size=20)
    assert kid(real, synthetic, seed=1, subset_size=20) != kid(real, synthetic, seed=2, subset_size=20)


def test_matched_pairs_share_the_z_bin_and_never_the_subject():
    generator = np.random.default_rng(0)
    bins, subjects = generator.integers(6, size=80), generator.integers(4, size=80)
    a, b = matched_pairs(bins, bins, 200, seed=3, groups_a=subjects, groups_b=subjects)
    assert len(a) == len(b) == 200
    assert np.array_equal(bins[a], bins[b])
    assert (subjects[a] != subjects[b]).all()
    again = matched_pairs(bins, bins, 200, seed=3, groups_a=subjects, groups_b=subjects)
    assert np.array_equal(a, again[0])
    assert np.array_equal(b, again[1])


def test_no_common_z_bin_gives_no_pair():
    a, b = matched_pairs(np.zeros(5), np.ones(5), 10, seed=0)
    assert len(a) == len(b) == 0
