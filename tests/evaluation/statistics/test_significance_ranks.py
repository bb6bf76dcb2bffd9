"""Friedman and Nemenyi against full enumeration, scipy and published critical values."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata

from slimdiff.evaluation.statistics import significance
from slimdiff.evaluation.statistics.significance import friedman


def every_order(values):
    """Sums of ranks of every combination of orders within folds: ((k!)^n, k)."""
    own = rankdata(values, axis=1)
    orders = [[row[list(order)] for order in permutations(range(len(row)))] for row in own]
    return np.array([np.sum(chosen, axis=0) for chosen in product(*orders)])


@pytest.mark.parametrize(("n", "k"), [(2, 3), (3, 3), (4, 3), (2, 4), (3, 4), (5, 3)])
@pytest.mark.parametrize("tied", [False, True])
def test_exact_p_is_the_share_of_all_orders(n, k, tied):
    generator = np.random.default_rng(10 * n + k)
    values = generator.integers(0, 3, (n, k)).astype(float) if tied else generator.random((n, k))
    values[:, 0] += 0.4
    found, sums, own = friedman(values), every_order(values), rankdata(values, axis=1).sum(axis=0)
    squares = ((sums - n * (k + 1) / 2) ** 2).sum(axis=1)
    observed = ((own - n * (k + 1) / 2) ** 2).sum()
    assert found.exact_p == pytest.approx((squares >= observed - 1e-9).mean())
    assert found.smallest_p == pytest.approx((squares >= squares.max() - 1e-9).mean())
    for i, j in product(range(k), repeat=2):
        further = (np.ptp(sums, axis=1) >= abs(own[i] - own[j]) - 1e-9).mean()
        assert found.nemenyi_exact_p[i, j] == pytest.approx(further)
    assert found.draws == 0


def test_statistic_and_its_approximation_agree_with_scipy():
    values = np.random.default_rng(0).integers(0, 5, (8, 4)).astype(float)
    plain, found = friedmanchisquare(*values.T), friedman(values)
    assert (found.statistic, found.p) == pytest.approx((plain.statistic, plain.pvalue))


def test_three_variants_in_three_folds_reach_an_exact_p_of_1_in_36_where_chi_square_gives_1_in_20():
    found = friedman(np.arange(9.0).reshape(3, 3))
    assert found.exact_p == found.smallest_p == pytest.approx(6 / 6**3)
    assert found.p == pytest.approx(0.0498, abs=1e-4)
    assert found.mean_ranks.tolist() == [1, 2, 3]


def test_random_orders_agree_with_full_enumeration(monkeypatch):
    values = np.random.default_rng(2).random((3, 4)) + np.array([0, 0.1, 0.2, 0.6])
    counted = friedman(values)
    monkeypatch.setattr(significance, "ORDERS", 10_000)  # of 13,824
    significance._null_distribution.cache_clear()
    drawn = friedman(values, seed=1)
    significance._null_distribution.cache_clear()
    assert (counted.draws, drawn.draws) == (0, 10_000)
    spread = np.sqrt(counted.exact_p * (1 - counted.exact_p) / 10_000)
    assert drawn.exact_p == pytest.approx(counted.exact_p, abs=4 * spread)
    assert drawn.smallest_p >= 1 / 10_001


def test_nine_variants_use_random_orders_and_repeat_bit_for_bit():
    values = np.random.default_rng(0).random((3, 9))
    first, again, other = friedman(values), friedman(values), friedman(values, seed=1)
    assert first.draws == significance.ORDERS
    assert (first.exact_p, first.nemenyi_exact_p.tolist()) == (again.exact_p, again.nemenyi_exact_p.tolist())
    assert first.exact_p != other.exact_p


def test_scale_within_a_fold_and_the_order_of_folds_do_not_matter():
    values = np.random.default_rng(5).random((4, 3))
    moved = friedman((values * [[1], [10], [3], [7]] + [[5], [0], [1], [2]])[::-1])
    assert moved.exact_p == friedman(values).exact_p
    turned = friedman(values[:, [2, 0, 1]])
    assert turned.exact_p == friedman(values).exact_p
    assert turned.nemenyi_p[0, 1] == pytest.approx(friedman(values).nemenyi_p[2, 0])


def test_variants_that_never_differ_have_no_statistic():
    found = friedman(np.ones((3, 4)))
    assert np.isnan([found.statistic, found.p]).all()
    assert found.exact_p == found.smallest_p == 1


# Demšar (2006), table 5a: the critical values of Nemenyi's test at 0.05 for k classifiers.
@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_nemenyi_has_the_published_critical_differences(k, q):
    n = 12
    critical = q * np.sqrt(k * (k + 1) / (6 * n))
    below, above = [], []
    for seed in range(12):
        drift = np.linspace(0, 0.8, k)
        found = friedman(np.random.default_rng(seed).random((n, k)) + drift)
        distance = np.abs(found.mean_ranks[:, None] - found.mean_ranks)
        below += found.nemenyi_p[distance < critical].tolist()
        above += found.nemenyi_p[distance > critical].tolist()
        assert np.diag(found.nemenyi_p) == pytest.approx(1)
    assert min(below) > 0.05 > max(above)
    # The closest p values are near the level.
    assert min(below) < 0.12
    assert max(above) > 0.015


@pytest.mark.parametrize("shape", [(1, 3), (3, 2), (3,)])
def test_too_few_folds_or_variants_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 folds x 3 variants"):
        friedman(np.ones(shape))


def test_a_missing_value_is_refused():
    with pytest.raises(ValueError, match="finite"):
        friedman(np.array([[1, 2, np.nan], [1, 2, 3]]))
