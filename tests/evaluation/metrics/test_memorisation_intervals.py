"""Intervals of the memorisation metrics: against the same draws one by one, and their coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest

from slimdiff.evaluation.metrics.memorisation import QUANTILE, HeldOut, calibrated_rank, memorisation
from slimdiff.evaluation.metrics.wasserstein import wasserstein
from slimdiff.evaluation.statistics.bootstrap import Resampling, percentile_interval, resampled_quantile


def held_out(n_subjects, slices, seed, of_subject=0.2, of_slice=0.3):
    """Log-normal distances with an effect of the subject, and the subjects' names."""
    generator = np.random.default_rng(seed)
    index = np.repeat(np.arange(n_subjects), slices)
    effect = generator.normal(0, of_subject, n_subjects)[index]
    distance = np.exp(effect + generator.normal(0, of_slice, len(index)))
    return distance, np.array([f"sub-{i:03d}" for i in index])


@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_resampled_quantiles_agree_with_numpy_on_repeated_values(quantile):
    generator = np.random.default_rng(0)
    values, subjects = generator.standard_normal(50).round(1), generator.integers(6, size=50)
    counts = generator.multinomial(6, np.full(6, 1 / 6), size=300)
    slow = [np.quantile(np.repeat(values, weight[subjects]), quantile) for weight in counts]
    np.testing.assert_allclose(resampled_quantile(values, subjects, counts, quantile), slow, rtol=1e-12)


def test_a_draw_without_values_has_no_quantile():
    counts = np.array([[0, 3], [1, 2]])
    found = resampled_quantile(np.array([4.0, 2.0]), np.array([0, 0]), counts, 0.5)
    assert np.isnan(found[0]) and found[1] == 3.0
    assert np.isnan(resampled_quantile(np.array([]), np.array([], int), counts, 0.5)).all()


def test_every_interval_agrees_with_draws_one_by_one():
    test, subjects = held_out(13, 9, 0)
    synthetic, _ = held_out(20, 5, 1, of_slice=0.4)
    found = memorisation(synthetic, test, subjects, 0)
    own = HeldOut(found, test, subjects, 200, 5)

    def draws(chosen, seed):
        resampling = Resampling.of(subjects[chosen], 200, seed)
        return [np.repeat(test[chosen], weight[resampling.index]) for weight in resampling.counts]

    all_subjects = draws(np.ones(len(test), bool), 5)
    calibration, check = draws(found.calibrating, 7), draws(found.checking, 6)
    thresholds = np.array([np.sort(drawn)[calibrated_rank(len(drawn)) - 1] for drawn in calibration])
    everyone, half = np.unique(subjects), len(np.unique(subjects[found.calibrating]))
    of_all = [
        np.concatenate([test[subjects == everyone[one]] for one in draw])
        for draw in np.random.default_rng(7).integers(13, size=(200, half))
    ]
    other_thresholds = [np.sort(drawn)[calibrated_rank(len(drawn)) - 1] for drawn in of_all]
    expected_draws = {
        "ratio": [np.median(synthetic) / np.median(drawn) for drawn in all_subjects],
        "suspect_share": [(synthetic < threshold).mean() for threshold in other_thresholds],
        "check_share": [(c < t).mean() for c, t in zip(check, thresholds, strict=True)],
    }
    for name, values in expected_draws.items():
        interval = getattr(own, name)(*([] if name == "check_share" else [synthetic]))
        slow = percentile_interval(np.array(values), 13)
        low, high = slow.low, slow.high
        if name != "ratio":
            shown = synthetic if name == "suspect_share" else test[found.checking]
            below = int((shown < found.threshold).sum())
            wilson = binomtest(below, len(shown)).proportion_ci(0.95, method="wilson")
            low, high = min(low, wilson.low), max(high, wilson.high)
        assert (interval.low, interval.high) == pytest.approx((low, high)), name
        assert interval.low < interval.high
    distances = np.array([wasserstein(drawn, synthetic) for drawn in all_subjects])
    top = np.quantile(distances, 0.975)
    expected = max(2 * found.w1 - top, 0), found.w1 + top - distances.mean()
    interval = own.w1(synthetic)
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_no_suspect_among_many_samples_does_not_exclude_a_few():
    test, subjects = held_out(13, 9, 0)
    found = memorisation(np.full(240, 9.0), test, subjects, 0)
    interval = HeldOut(found, test, subjects, 200, 5).suspect_share(np.full(240, 9.0))
    # Wilson 1927: z^2 / (n + z^2).
    assert interval.low == 0 and interval.high == pytest.approx(1.96**2 / (240 + 1.96**2), rel=1e-3)


def test_the_ratio_of_one_z_bin_uses_its_slices_only():
    test, subjects = held_out(12, 10, 0)
    bins = np.tile(np.arange(10), 12)
    found = memorisation(np.ones(5), test, subjects, 0)
    whole = HeldOut(found, test, subjects, 300, 0).ratio(np.ones(5), bins == 3)
    alone = HeldOut(
        memorisation(np.ones(5), test[bins == 3], subjects[bins == 3], 0),
        test[bins == 3],
        subjects[bins == 3],
        300,
        0,
    ).ratio(np.ones(5))
    assert whole == alone


def test_the_interval_of_the_check_share_covers_one_percent():
    """METHOD: the threshold of one half of the held-out subjects flags 1 % of the other half, within its interval."""
    covered = []
    for seed in range(60):
        test, subjects = held_out(40, 25, seed)
        found = memorisation(np.ones(1), test, subjects, seed)
        interval = HeldOut(found, test, subjects, 300, seed).check_share()
        covered.append(interval.low <= QUANTILE <= interval.high)
    assert np.mean(covered) >= 0.85


def test_the_interval_of_the_suspect_share_covers_that_of_a_new_threshold():
    """27 subjects of 12 slices: the threshold is one of the two smallest of about 160 distances."""
    synthetic, _ = held_out(60, 5, 999, of_slice=0.6)
    thresholds = []
    for seed in range(300):
        test, subjects = held_out(27, 12, 1000 + seed)
        thresholds.append(memorisation(synthetic, test, subjects, seed).threshold)
    truth, covered = np.mean([(synthetic < threshold).mean() for threshold in thresholds]), []
    for seed in range(100):
        test, subjects = held_out(27, 12, seed)
        found = memorisation(synthetic, test, subjects, seed)
        interval = HeldOut(found, test, subjects, 200, seed).suspect_share(synthetic)
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) >= 0.9


def test_the_interval_of_the_ratio_covers_the_true_ratio():
    """Samples whose median is 0.8 of the held-out population's: R is 0.8."""
    covered = []
    for seed in range(60):
        test, subjects = held_out(30, 10, seed)
        found = memorisation(np.full(9, 0.8), test, subjects, 0)
        interval = HeldOut(found, test, subjects, 300, seed).ratio(np.full(9, 0.8))
        covered.append(interval.low <= 0.8 <= interval.high)
    assert np.mean(covered) >= 0.85


def test_few_held_out_subjects_give_no_interval_and_a_reason():
    synthetic = np.array([0.5, 1.5, 2.0])
    for n, reasons in {
        1: ("1 held-out subjects", "1 held-out subjects behind the threshold"),
        4: ("4 held-out subjects", "2 held-out subjects behind the threshold"),
        9: (None, None),
    }.items():
        test, subjects = held_out(n, 8, n)
        found = memorisation(synthetic, test, subjects, 0)
        own = HeldOut(found, test, subjects, 50, 0)
        all_subjects, halves = reasons
        for interval, reason in (
            (own.ratio(synthetic), all_subjects),
            (own.w1(synthetic), all_subjects),
            (own.suspect_share(synthetic), halves),
            # Nine subjects: five for calibration, four for the check.
            (own.check_share(), halves or "4 held-out subjects to check it"),
        ):
            assert np.isnan(interval.low) == (reason is not None)
            assert reason is None or f"{reason}, at least 5 are required" in interval.reason


def test_without_samples_or_held_out_slices_there_is_a_reason():
    test, subjects = held_out(12, 8, 0)
    empty = np.array([])
    own = HeldOut(memorisation(empty, test, subjects, 0), test, subjects, 20, 0)
    assert own.w1(empty).reason == own.suspect_share(empty).reason == "no sample"
    assert "0 of 20 resamplings" in own.ratio(empty).reason
    no_subjects = HeldOut(memorisation(test, empty, [], 0), empty, [], 20, 0)
    for interval in (
        no_subjects.ratio(test),
        no_subjects.w1(test),
        no_subjects.suspect_share(test),
        no_subjects.check_share(),
    ):
        assert interval.reason.startswith("0 held-out subjects")


def test_a_thousand_draws_of_two_thousand_slices():
    test, subjects = held_out(50, 40, 0)
    synthetic, _ = held_out(100, 40, 1)
    found = memorisation(synthetic, test, subjects, 0)
    own = HeldOut(found, test, subjects, 1000, 0)
    for interval in (
        own.ratio(synthetic),
        own.suspect_share(synthetic),
        own.check_share(),
        own.w1(synthetic),
    ):
        assert interval.reason is None
