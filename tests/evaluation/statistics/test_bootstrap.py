import numpy as np
import pytest
from scipy.stats import wilcoxon

from slimdiff.evaluation.statistics.bootstrap import (
    fold_summary,
    percentile_interval,
    resample_counts,
    sign_agreement,
    smallest_wilcoxon_p,
    subject_bootstrap,
    subject_indices,
)


def test_interval_of_a_mean_agrees_with_the_central_limit_theorem():
    values = np.random.default_rng(0).standard_normal(400)
    found = subject_bootstrap(lambda rows: values[rows].mean(), np.arange(400), n_boot=2000, seed=0)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found.reason is None


def test_slices_of_one_subject_count_as_one():
    generator = np.random.default_rng(1)
    subjects = np.repeat([f"sub-{i}" for i in range(20)], 30)
    values = np.repeat(generator.standard_normal(20), 30) + 0.01 * generator.standard_normal(600)

    def width(groups):
        found = subject_bootstrap(lambda rows: values[rows].mean(), groups, n_boot=500, seed=0)
        return found.high - found.low

    assert width(subjects) > 4 * width(np.arange(600))


def test_a_drawn_subject_contributes_all_of_its_rows():
    groups, seen = np.array([0, 0, 1, 1, 1, 2, 3, 4, 4]), []
    subject_bootstrap(lambda rows: seen.append(rows) or 0.0, groups, n_boot=20, seed=0)
    for rows in seen:
        counts = np.bincount(rows, minlength=9)
        for subject in range(5):
            assert len(set(counts[groups == subject])) == 1
        assert sum(counts[np.unique(groups, return_index=True)[1]]) == 5


def test_fewer_than_five_subjects_give_no_interval_and_a_reason():
    def never(rows):
        raise AssertionError("the statistic must not be computed")

    found = subject_bootstrap(never, ["a", "b", "c", "d"] * 3, n_boot=10, seed=0)
    assert np.isnan([found.low, found.high]).all()
    assert found.reason == "4 held-out subjects, at least 5 are required"


def test_too_many_resamplings_without_a_value_give_a_reason():
    values = np.where(np.arange(100) < 30, np.nan, 1.0)
    assert percentile_interval(values, 8).reason == "only 70 of 100 resamplings gave a number"
    values[:25] = 1.0
    assert percentile_interval(values, 8).reason is None


def test_counts_agree_with_the_draws_of_the_bootstrap():
    groups, seen = np.arange(6), []
    subject_bootstrap(
        lambda rows: seen.append(np.bincount(rows, minlength=6)) or 0.0, groups, n_boot=15, seed=9
    )
    assert np.array_equal(resample_counts(6, 15, seed=9), seen)


def test_f11_intervals_repeat_bit_for_bit():
    values, groups = np.random.default_rng(0).standard_normal(60), np.arange(60) % 12

    def interval(seed):
        return subject_bootstrap(lambda rows: values[rows].mean(), groups, n_boot=100, seed=seed)

    assert interval(2) == interval(2)
    assert interval(2) != interval(3)


def test_subjects_are_numbered_in_order_of_name():
    index, n = subject_indices(["sub-b", "sub-a", "sub-b"])
    assert index.tolist() == [1, 0, 1]
    assert n == 2


def test_fold_summary_uses_ddof_1_and_leaves_nan_out():
    found = fold_summary([1.0, 2.0, np.nan, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.sd == pytest.approx(np.sqrt(7))
    assert np.isnan(fold_summary([1.0]).sd)
    assert np.isnan(fold_summary([]).mean)


@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_smallest_wilcoxon_p_is_the_minimum_of_the_exact_test(n):
    assert smallest_wilcoxon_p(n) == pytest.approx(wilcoxon(np.arange(1, n + 1), method="exact").pvalue)


def test_sign_agreement():
    assert sign_agreement([0.1, 0.2, -0.3]) == (2, 3)
    assert sign_agreement([-1, -2, 0, np.nan]) == (2, 3)
