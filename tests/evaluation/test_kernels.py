import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from slimdiff.evaluation.kernels import (
    feature_wasserstein,
    polynomial_kernel,
    resampled_mmd2,
    standardise,
    subset_mmd2,
    wasserstein,
)


def slow_mmd2(x, y):
    """The unbiased estimate, pair by pair."""

    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    of_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    of_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return of_x + of_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def sets(n=30, m=25, d=6, shift=0.3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)), generator.standard_normal((m, d)) + shift


def test_all_vectors_in_every_subset_give_the_plain_estimate():
    x, y = sets(20, 20)
    found = subset_mmd2(x, y, seed=0, subsets=3)
    assert found.value == pytest.approx(slow_mmd2(x, y), rel=1e-12)
    assert found.sd == pytest.approx(0, abs=1e-12)
    assert found.subset_size == 20


def test_subsets_are_those_of_torch_fidelity():
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    x, y = sets(60, 45, 16)
    found = subset_mmd2(x, y, seed=7, subsets=20, subset_size=30)
    theirs = kid_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        kid_subsets=20,
        kid_subset_size=30,
        rng_seed=7,
        verbose=False,
    )
    assert found.value == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)
    assert found.sd == pytest.approx(theirs[KEY_METRIC_KID_STD], rel=1e-9)


def test_rows_beyond_one_block_change_nothing(monkeypatch):
    x, y = sets(50, 40)
    whole = (
        subset_mmd2(x, y, seed=3, subset_size=20),
        resampled_mmd2(x, y, np.arange(50) % 7, np.ones((1, 7))),
    )
    monkeypatch.setattr("slimdiff.evaluation.kernels._ROWS", 8)
    blocked = (
        subset_mmd2(x, y, seed=3, subset_size=20),
        resampled_mmd2(x, y, np.arange(50) % 7, np.ones((1, 7))),
    )
    assert blocked[0].value == pytest.approx(whole[0].value, rel=1e-12)
    assert blocked[1] == pytest.approx(whole[1], rel=1e-12)


def test_f11_same_inputs_same_bits():
    x, y = sets()
    assert subset_mmd2(x, y, seed=5, subset_size=12) == subset_mmd2(
        x.copy(), y.copy(), seed=5, subset_size=12
    )
    other = subset_mmd2(x, y, seed=6, subset_size=12)
    assert other.value != subset_mmd2(x, y, seed=5, subset_size=12).value


def test_equal_distributions_average_to_zero():
    estimates = [subset_mmd2(*sets(40, 40, shift=0, seed=s), seed=0, subsets=1).value for s in range(60)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(len(estimates))


def test_too_few_vectors_give_nan():
    x, y = sets(9, 30)
    assert np.isnan(subset_mmd2(x, y, seed=0).value)
    assert np.isnan(subset_mmd2(y, x, seed=0).value)
    assert np.isnan(subset_mmd2(np.empty((0, 6)), y, seed=0).value)


@pytest.mark.parametrize("size", [1, 26])
def test_impossible_subset_is_refused(size):
    with pytest.raises(ValueError, match=f"subsets of {size}"):
        subset_mmd2(*sets(), seed=0, subset_size=size)


def test_values_that_are_not_finite_are_refused():
    x, y = sets()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        subset_mmd2(x, y, seed=0)


def test_drawing_every_subject_once_gives_the_plain_estimate():
    x, y = sets(30, 25)
    found = resampled_mmd2(x, y, np.repeat(np.arange(6), 5), np.ones((1, 6)))
    assert found[0] == pytest.approx(slow_mmd2(x, y), rel=1e-12)


def test_resampling_agrees_with_pairs_written_out():
    x, y = sets(24, 12)
    subjects, counts = np.arange(24) % 6, np.array([[2, 0, 1, 1, 2, 0]])
    # copies of a subject stand side by side like subjects of their own, but are not paired with each other
    copies = [(s, c) for s in range(6) for c in range(counts[0, s])]
    total = pairs = 0.0
    for s, c in copies:
        for t, d in copies:
            if s == t and c != d:
                continue
            for i in np.flatnonzero(subjects == s):
                for j in np.flatnonzero(subjects == t):
                    if i != j:
                        total += polynomial_kernel(x[[i]], x[[j]]).item()
                        pairs += 1
    rows = np.concatenate([np.flatnonzero(subjects == s) for s, _ in copies])
    of_y = polynomial_kernel(y, y)
    expected = (
        total / pairs + (of_y.sum() - np.trace(of_y)) / (12 * 11) - 2 * polynomial_kernel(x[rows], y).mean()
    )
    assert resampled_mmd2(x, y, subjects, counts)[0] == pytest.approx(expected, rel=1e-12)


def test_resampling_does_not_drift_from_the_estimate():
    x, y = sets(60, 60)
    subjects = np.repeat(np.arange(12), 5)
    draws = np.random.default_rng(0).integers(12, size=(2000, 12))
    counts = np.array([np.bincount(draw, minlength=12) for draw in draws])
    values = resampled_mmd2(x, y, subjects, counts)
    assert abs(values.mean() - slow_mmd2(x, y)) < 0.25 * values.std()


def test_standardised_real_vectors_have_mean_0_and_sd_1():
    x, y = sets(shift=4)
    real, synthetic = standardise(3 * x + 5, 3 * y + 5)
    assert real.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert real.std(axis=0) == pytest.approx(1)
    assert synthetic == pytest.approx((y - x.mean(axis=0)) / x.std(axis=0))


def test_constant_feature_is_centred_only():
    real, synthetic = standardise(np.full((12, 1), 0.1), np.full((12, 1), 2.1))
    assert real == pytest.approx(0, abs=1e-12)
    assert synthetic == pytest.approx(2)


def test_wasserstein_agrees_with_scipy():
    generator = np.random.default_rng(0)
    for n, m in ((1, 1), (1, 7), (30, 50), (40, 40)):
        u, v = generator.standard_normal(n), generator.gamma(2, size=m)
        assert wasserstein(u, v) == pytest.approx(wasserstein_distance(u, v), rel=1e-12)
    assert wasserstein([1, 1, 2], [1, 1, 2]) == 0
    assert np.isnan(wasserstein([], [1.0]))


def test_feature_wasserstein_of_a_shift_is_the_shift():
    x, _ = sets()
    sd = x.std(axis=0)
    each, geometric_mean = feature_wasserstein(x, x + sd * np.arange(1, 7))
    assert each == pytest.approx(np.arange(1, 7))
    assert geometric_mean == pytest.approx(720 ** (1 / 6))
