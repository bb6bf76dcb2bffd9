"""Intervals over subjects: against brute force, and their coverage."""

import numpy as np
import pytest

from slimdiff.evaluation.metrics.wasserstein import wasserstein
from slimdiff.evaluation.statistics.bootstrap import (
    Resampling,
    centred_interval,
    distance_interval,
    resampled_means,
    share_interval,
)


def test_resampled_means_equal_means_of_repeated_rows():
    generator = np.random.default_rng(0)
    rows, subjects = generator.standard_normal((30, 4)), np.sort(generator.integers(6, size=30))
    counts = generator.multinomial(6, np.full(6, 1 / 6), size=8)
    slow = [np.repeat(rows, weight[subjects], axis=0).mean(axis=0) for weight in counts]
    np.testing.assert_allclose(resampled_means(rows, subjects, counts), slow)
    np.testing.assert_allclose(resampled_means(rows[:, 0], subjects, counts), np.array(slow)[:, 0])


def test_a_resampling_without_rows_is_nan():
    assert np.isnan(resampled_means(np.ones(3), np.array([0, 0, 0]), np.array([[0, 5]]))).all()


def test_few_subjects_give_no_resampling_and_a_reason():
    resampling = Resampling.of(["a", "b", "c", "d"], 100, 0)
    assert resampling.counts.shape == (0, 4)
    assert "4 held-out subjects" in resampling.percentile(np.empty(0)).reason
    assert "4 held-out subjects" in resampling.distance(1.0, np.empty(0)).reason


def test_interval_of_a_distance_contains_the_value_and_extends_to_its_large_sample_limit():
    values = np.linspace(2, 4, 1001)
    interval = distance_interval(2.5, values, 10)
    assert (interval.low, interval.high) == pytest.approx((5 - 3.95, 2.5 + 0.95))
    interval = distance_interval(0.2, values, 10)
    assert (interval.low, interval.high) == pytest.approx((0, 0.2 + 0.95))
    assert distance_interval(5.0, values, 10).low == 5.0


def test_a_centred_interval_is_centred_at_the_value_and_clipped_to_its_limits():
    interval = centred_interval(2.0, np.linspace(2, 4, 1001), 10, scale=0.5)
    assert (interval.low, interval.high) == pytest.approx((2 - 0.475, 2 + 0.475))
    interval = centred_interval(0.9, np.linspace(0, 1, 101), 10, lowest=0.0, highest=1.0)
    assert interval.low == pytest.approx(0.425) and interval.high == 1


def test_halves_have_equal_size_and_their_scaled_spread_is_that_of_all_subjects():
    subjects = np.repeat(np.arange(17), 3)
    halves = Resampling.halves(subjects, 2000, 0)
    assert set(halves.counts.sum(axis=1).tolist()) == {8} and halves.counts.max() == 1
    values = np.random.default_rng(0).standard_normal(17)
    means = resampled_means(values[subjects], halves.index, halves.counts)
    # The finite population's variance of a mean: s^2 / S, with s^2 of ddof 1.
    assert means.std() * halves.scale == pytest.approx(values.std(ddof=1) / np.sqrt(17), rel=0.05)
    assert Resampling.halves(["a", "b"], 10, 0).counts.shape == (0, 2)


@pytest.mark.slow
def test_interval_of_a_distance_covers_the_value_where_percentiles_do_not():
    """Wasserstein distance of subjects' values to a known set: every resampling overestimates it."""
    generator = np.random.default_rng(1)
    target = generator.standard_normal(4000)
    covered = {"distance": 0, "percentile": 0}
    rounds = 120
    for seed in range(rounds):
        subjects = np.repeat(np.arange(20), 4)
        real = 0.3 + generator.standard_normal(80)
        resampling = Resampling.of(subjects, 200, seed)
        values = np.array(
            [wasserstein(np.repeat(real, weight[subjects]), target) for weight in resampling.counts]
        )
        for name, interval in (
            ("distance", resampling.distance(wasserstein(real, target), values)),
            ("percentile", resampling.percentile(values)),
        ):
            # 0.3 is the true distance of the distributions.
            covered[name] += interval.low <= 0.3 <= interval.high
    assert covered["distance"] > 0.85 * rounds
    assert covered["distance"] >= covered["percentile"]


def test_share_interval_is_the_wilson_interval():
    low, high = share_interval(8, 10).low, share_interval(8, 10).high
    z = 1.959964
    middle, half = (
        (0.8 + z**2 / 20) / (1 + z**2 / 10),
        z * np.sqrt(0.8 * 0.2 / 10 + z**2 / 400) / (1 + z**2 / 10),
    )
    assert (low, high) == pytest.approx((middle - half, middle + half), rel=1e-5)
    assert share_interval(0, 0).reason == "no sample"


def test_without_a_subject_there_is_no_interval_and_no_error():
    """A fold whose z-bins with samples have no held-out slice."""
    none = Resampling.halves([], 10, 0)
    assert none.n_subjects == 0 and none.percentile(np.empty(0)).reason
