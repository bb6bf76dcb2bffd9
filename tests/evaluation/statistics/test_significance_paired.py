"""Signed ranks, Holm and Cliff against enumeration, hand-worked examples and closed forms."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from slimdiff.evaluation.statistics.significance import (
    cliffs_delta,
    holm,
    size_of_delta,
    wilcoxon_signed_rank,
)


def signs_by_hand(differences) -> float:
    """Two-sided p over all sign changes of differences without zeros."""
    ranks = rankdata(np.abs(differences))
    observed = ranks[np.asarray(differences) > 0].sum()
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(ranks))])
    return min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("tied", [False, True])
def test_p_agrees_with_all_sign_changes_with_and_without_ties(n, tied):
    generator = np.random.default_rng(n)
    for _ in range(10):
        differences = generator.standard_normal(n) + 0.5
        if tied:
            differences = np.where(differences < 0, -1.0, 1.0) * generator.integers(1, 3, n)
        found = wilcoxon_signed_rank(differences)
        assert found.p == pytest.approx(signs_by_hand(differences))
        assert found.p >= found.smallest_p


def test_all_of_one_sign_gives_the_smallest_p():
    for n in range(1, 12):
        assert wilcoxon_signed_rank(np.ones(n)).p == pytest.approx(
            wilcoxon_signed_rank(np.ones(n)).smallest_p
        )
        found = wilcoxon_signed_rank(np.arange(1.0, n + 1))
        assert found.p == pytest.approx(found.smallest_p) == pytest.approx(min(1, 2 / 2**n))


def test_zeros_are_left_out_and_raise_the_smallest_p():
    found = wilcoxon_signed_rank([0.0, 0.0, 1.0, 2.0, 3.0, np.nan])
    assert (found.n, found.zeros, found.p, found.smallest_p) == (3, 2, 0.25, 0.25)
    none = wilcoxon_signed_rank([0.0, 0.0])
    assert np.isnan([none.p, none.statistic]).all()
    assert (none.n, none.zeros, none.smallest_p) == (0, 2, 1.0)


def test_many_pairs_without_ties_agree_with_scipy():
    for n in (40, 90):
        differences = np.random.default_rng(n).standard_normal(n) + 0.2
        plain, found = wilcoxon(differences, method="exact"), wilcoxon_signed_rank(differences)
        assert (found.p, found.statistic) == pytest.approx((plain.pvalue, plain.statistic))


def test_many_pairs_with_ties_are_close_to_the_normal_approximation():
    values = np.random.default_rng(0).integers(-5, 6, 200).astype(float)
    found = wilcoxon_signed_rank(values)
    assert found.p == pytest.approx(wilcoxon(values[values != 0], method="asymptotic").pvalue, rel=0.03)
    assert found.zeros == (values == 0).sum() > 0


def test_exchanging_the_two_groups_changes_nothing():
    differences = np.random.default_rng(3).standard_normal(8)
    assert wilcoxon_signed_rank(differences) == wilcoxon_signed_rank(-differences[::-1])


def test_holm_by_hand():
    # 3 x .01; then 2 x .02 = .04; then 1 x .04, at least the previous value.
    assert holm([0.04, 0.01, 0.02]).tolist() == pytest.approx([0.04, 0.03, 0.04])
    # 4 x .005, 3 x .011, 2 x .02, and 0.04 stays: the usual textbook case.
    assert holm([0.011, 0.02, 0.005, 0.04]).tolist() == pytest.approx([0.033, 0.04, 0.02, 0.04])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]


def test_holm_counts_only_tests_that_were_made():
    found = holm([0.02, np.nan, 0.01])
    assert found[[0, 2]].tolist() == pytest.approx([0.02, 0.02])
    assert np.isnan(found[1])
    assert len(holm([])) == 0


def test_holm_controls_the_family_wise_error_rate():
    p = np.random.default_rng(0).random((4000, 6))
    assert np.mean([holm(family).min() < 0.05 for family in p]) == pytest.approx(0.05, abs=0.012)


def test_cliffs_delta_agrees_with_a_loop_over_all_pairs():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, 7), generator.integers(1, 8, 5)
    plain = sum((a > b) - (a < b) for a in first.tolist() for b in second.tolist()) / 35
    assert cliffs_delta(first, second) == pytest.approx(plain)
    assert cliffs_delta(second, first) == pytest.approx(-plain)
    assert cliffs_delta([1, 2], [3, 4, np.nan]) == -1
    assert np.isnan(cliffs_delta([np.nan], [1.0]))


@pytest.mark.parametrize(
    ("delta", "size"),
    [
        (0, "negligible"),
        (-0.146, "negligible"),
        (0.147, "small"),
        (-0.33, "medium"),
        (0.474, "large"),
        (-1, "large"),
    ],
)
def test_sizes_of_delta(delta, size):
    assert size_of_delta(delta) == size


def test_a_nan_delta_has_no_size():
    assert size_of_delta(float("nan")) is None
