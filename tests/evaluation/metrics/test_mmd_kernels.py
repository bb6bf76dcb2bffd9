import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from slimdiff.evaluation.metrics.kid import subset_mmd2
from slimdiff.evaluation.metrics.mmd import (
    clipped_scores,
    complete_mmd2,
    resampled_mmd2,
    standardise,
)
from slimdiff.evaluation.metrics.wasserstein import feature_wasserstein, resampled_wasserstein, wasserstein
from slimdiff.evaluation.statistics.bootstrap import Resampling


def k(a, b):
    return (float(np.dot(a, b)) / len(a) + 1) ** 3


def slow_mmd2(x, y):
    """The unbiased estimate, pair by pair."""
    n, m = len(x), len(y)
    of_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    of_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return of_x + of_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def sets(n=30, m=25, d=6, shift=0.3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)), generator.standard_normal((m, d)) + shift


def network_like(n, seed, shift=0.0, d=2304):
    """Rectified mixtures of few factors with channels of very different scale, like pooled network features."""
    shared, generator = np.random.default_rng(99), np.random.default_rng(seed)
    mixing, scale = shared.standard_normal((32, d)) / 6, shared.gamma(0.5, 2, d)
    factors = generator.standard_normal((n, 32)) + shift * (np.arange(32) < 4)
    noise = generator.standard_normal((n, d)) / 2
    return (np.maximum(factors @ mixing + noise + 0.3, 0) * scale).astype(np.float32)


# Below and above the largest number of features for which the kernel's feature space is explicit.
DIMENSIONS = pytest.mark.parametrize("d", [1, 5, 9, 40])


@DIMENSIONS
def test_all_vectors_in_every_subset_give_the_plain_estimate(d):
    x, y = sets(20, 20, d)
    found = subset_mmd2(x, y, seed=0, subsets=3)
    assert found.value == pytest.approx(slow_mmd2(x, y), rel=1e-11)
    assert found.sd == pytest.approx(0, abs=1e-11)
    assert found.subset_size == 20


@pytest.mark.parametrize(
    ("n", "m", "d", "subsets", "size"),
    [
        pytest.param(60, 45, 9, 20, 30, id="few features"),
        pytest.param(60, 45, 16, 20, 30, id="entries shared by the subsets"),
        pytest.param(300, 900, 16, 5, 30, id="subset by subset"),
    ],
)
def test_subsets_agree_with_torch_fidelity(n, m, d, subsets, size):
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    x, y = sets(n, m, d)
    found = subset_mmd2(x, y, seed=7, subsets=subsets, subset_size=size)
    theirs = kid_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=7,
        verbose=False,
    )
    assert found.value == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)
    assert found.sd == pytest.approx(theirs[KEY_METRIC_KID_STD], rel=1e-9)


@pytest.mark.parametrize("size", [40, 150])
def test_float32_features_lose_less_than_1e_5_of_kid(size):
    x, y = network_like(150, 1), network_like(160, 2, shift=0.3)
    own = subset_mmd2(x, y, seed=0, subset_size=size)
    exact = subset_mmd2(x.astype(np.float64), y.astype(np.float64), seed=0, subset_size=size)
    assert own.value != exact.value
    assert own.value == pytest.approx(exact.value, rel=1e-5)
    mean_kernel = np.mean((x.astype(np.float64) @ y.T / x.shape[1] + 1) ** 3)
    assert abs(own.value - exact.value) < 1e-8 * mean_kernel
    subjects, once = np.arange(150) % 6, np.ones((1, 6))
    resampled = [resampled_mmd2(a, b, subjects, once)[0] for a, b in ((x, y), (x.astype(float), y))]
    assert resampled[0] == pytest.approx(resampled[1], rel=1e-5)


def test_a_single_huge_vector_keeps_its_weight():
    x, y = sets(20, 20, 9)
    y[3] *= 40
    assert subset_mmd2(x, y, seed=0, subsets=1).value == pytest.approx(slow_mmd2(x, y), rel=1e-9)


@DIMENSIONS
def test_values_do_not_depend_on_the_block_size(monkeypatch, d):
    x, y = sets(50, 40, d)
    whole = (
        subset_mmd2(x, y, seed=3, subset_size=20),
        resampled_mmd2(x, y, np.arange(50) % 7, np.ones((1, 7))),
    )
    monkeypatch.setattr("slimdiff.evaluation.metrics.mmd.ROWS", 8)
    blocked = (
        subset_mmd2(x, y, seed=3, subset_size=20),
        resampled_mmd2(x, y, np.arange(50) % 7, np.ones((1, 7))),
    )
    assert blocked[0].value == pytest.approx(whole[0].value, rel=1e-11)
    assert blocked[1] == pytest.approx(whole[1], rel=1e-11)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("d", [6, 61])
def test_f11_same_inputs_same_bits(precision, d):
    x, y = (z.astype(precision) for z in sets(70, 60, d))
    # the same numbers with another memory alignment
    elsewhere = np.empty(x.size + 1, precision)[1:].reshape(x.shape)
    elsewhere[:] = x
    subjects, counts = np.arange(70) % 7, np.array([[2, 0, 1, 1, 1, 2, 0]])
    assert subset_mmd2(x, y, seed=5, subset_size=12) == subset_mmd2(elsewhere, y, seed=5, subset_size=12)
    assert resampled_mmd2(x, y, subjects, counts) == resampled_mmd2(elsewhere, y, subjects, counts)
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
def test_invalid_subset_size_is_refused(size):
    with pytest.raises(ValueError, match=f"expected subset_size from 2 .* found {size}$"):
        subset_mmd2(*sets(), seed=0, subset_size=size)


def test_values_that_are_not_finite_are_refused():
    x, y = sets()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        subset_mmd2(x, y, seed=0)


@DIMENSIONS
def test_drawing_every_subject_once_gives_the_plain_estimate(d):
    x, y = sets(30, 25, d)
    found = resampled_mmd2(x, y, np.repeat(np.arange(6), 5), np.ones((1, 6)))
    assert found[0] == pytest.approx(slow_mmd2(x, y), rel=1e-11)


@DIMENSIONS
def test_resampling_agrees_with_explicit_pairs(d):
    x, y = sets(24, 12, d)
    subjects, counts = np.arange(24) % 6, np.array([[2, 0, 1, 1, 2, 0]])
    # copies of a subject count as separate subjects, but are not paired with each other
    copies = [(s, c) for s in range(6) for c in range(counts[0, s])]
    toward_y = [np.mean([k(a, b) for b in y]) for a in x]
    total = pairs = 0.0
    for s, c in copies:
        for t, other in copies:
            if s == t and c != other:
                continue
            for i in np.flatnonzero(subjects == s):
                for j in np.flatnonzero(subjects == t):
                    if i != j:
                        total += k(x[i], x[j]) - toward_y[i] - toward_y[j]
                        pairs += 1
    of_y = np.mean([k(y[i], y[j]) for i in range(12) for j in range(12) if i != j])
    assert resampled_mmd2(x, y, subjects, counts)[0] == pytest.approx(total / pairs + of_y, rel=1e-9)


def test_resampling_does_not_drift_from_the_estimate():
    x, y = sets(60, 60)
    subjects = np.repeat(np.arange(12), 5)
    draws = np.random.default_rng(0).integers(12, size=(2000, 12))
    counts = np.array([np.bincount(draw, minlength=12) for draw in draws])
    values = resampled_mmd2(x, y, subjects, counts)
    assert abs(values.mean() - slow_mmd2(x, y)) < 0.25 * values.std()


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_resampled_spread_is_close_to_the_spread_over_new_subjects(shift):
    """KID-like features: positive, with subject effects; near the floor and away from it."""
    generator = np.random.default_rng(4)

    def draw(n_subjects: int, moved: float = 0.0) -> np.ndarray:
        own = 1 + 0.1 * generator.standard_normal((n_subjects, 1, 40))
        return (own + 0.5 * generator.standard_normal((n_subjects, 12, 40)) + moved).reshape(-1, 40)

    y, subjects = draw(33, shift), np.repeat(np.arange(17), 12)
    values, spreads = [], []
    for seed in range(25):
        x, counts = draw(17), Resampling.of(subjects, 100, seed).counts
        values.append(resampled_mmd2(x, y, subjects, np.ones((1, 17)))[0])
        spreads.append(resampled_mmd2(x, y, subjects, counts).std())
    assert 0.6 < np.mean(spreads) / np.std(values) < 2.2


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


def resampled_sets():
    generator = np.random.default_rng(4)
    real, synthetic = (
        generator.gamma(2, 3, size=(40, 3)).round(1),
        generator.gamma(2, 4, size=(70, 3)).round(1),
    )
    return real, synthetic, generator.integers(8, size=40), generator.multinomial(8, np.ones(8) / 8, size=300)


def test_resampled_wasserstein_agrees_with_scipy_under_weights():
    real, synthetic, subjects, counts = resampled_sets()
    found = resampled_wasserstein(real, synthetic, subjects, counts)
    assert found.shape == (300, 3)
    sd = real.std(axis=0)
    for b in range(0, 300, 20):
        for d in range(3):
            expected = wasserstein_distance(real[:, d], synthetic[:, d], counts[b][subjects]) / sd[d]
            assert found[b, d] == pytest.approx(expected, rel=1e-12)


def test_resampled_wasserstein_agrees_with_repeated_rows():
    real, synthetic, subjects, counts = resampled_sets()
    rows = np.repeat(np.arange(40), counts[0][subjects])
    found = resampled_wasserstein(real, synthetic, subjects, counts[:1])[0]
    sd = real.std(axis=0)
    expected = [wasserstein(real[rows, d] / sd[d], synthetic[:, d] / sd[d]) for d in range(3)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_resampled_wasserstein_of_empty_sets_is_nan():
    real, synthetic, subjects, counts = resampled_sets()
    counts[1] = 0
    found = resampled_wasserstein(real, synthetic, subjects, counts)
    assert np.isnan(found[1]).all() and np.isfinite(np.delete(found, 1, axis=0)).all()
    assert np.isnan(resampled_wasserstein(real, synthetic[:0], subjects, counts)).all()
    assert np.isnan(resampled_wasserstein(real[:0], synthetic, subjects[:0], counts)).all()


def test_resampling_requires_a_subject_for_every_vector():
    real, synthetic, subjects, counts = resampled_sets()
    for resampled in (resampled_wasserstein, resampled_mmd2):
        with pytest.raises(
            ValueError, match="expected a subject index below 8 for each of 40 vectors, found 39 indices"
        ):
            resampled(real, synthetic, subjects[1:], counts)


@DIMENSIONS
def test_the_complete_estimate_is_the_plain_one(d):
    x, y = sets(23, 17, d)
    assert complete_mmd2(x, y) == pytest.approx(slow_mmd2(x, y), rel=1e-9)
    assert np.isnan(complete_mmd2(x[:9], y))


def test_clipped_scores_do_not_depend_on_a_few_extreme_lesions():
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((200, 3)), generator.standard_normal((200, 3)) + 0.3
    spoilt = x.copy()
    spoilt[:4] *= 1000
    plain, other = (complete_mmd2(*clipped_scores(real, y)) for real in (x, spoilt))
    assert other == pytest.approx(plain, abs=0.25 * plain + 0.05)
    by_sd = [complete_mmd2(*standardise(real, y)) for real in (x, spoilt)]
    assert abs(by_sd[1] - by_sd[0]) > abs(other - plain)
    median, mad = np.median(x, axis=0), np.median(np.abs(x - np.median(x, axis=0)), axis=0)
    found = clipped_scores(x, y)
    np.testing.assert_allclose(found[0], np.clip((x - median) / (1.4826 * mad), -5, 5))
    np.testing.assert_allclose(found[1], np.clip((y - median) / (1.4826 * mad), -5, 5))


def test_a_feature_with_a_mad_of_zero_has_its_sd_and_a_constant_one_is_centred():
    x = np.stack([np.array([0.0] * 7 + [1, 2, 3]), np.full(10, 4.0)], axis=1)
    found, _ = clipped_scores(x, x)
    np.testing.assert_allclose(found[:, 0], np.clip(x[:, 0] / x[:, 0].std(), -5, 5))
    np.testing.assert_allclose(found[:, 1], 0)
