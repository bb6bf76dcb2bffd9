"""Tests of paired numbers, one a fold or one a subject, and how large a difference is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from slimdiff.evaluation.statistics.bootstrap import smallest_wilcoxon_p


@dataclass(frozen=True)
class SignedRank:
    """A two-sided Wilcoxon signed rank test."""

    statistic: float
    """The smaller of the two sums of ranks; NaN where no pair differs."""
    p: float
    smallest_p: float
    """What the test would give if all of these n differences had one sign."""
    n: int
    """Pairs that differ."""
    zeros: int
    """Pairs that do not, left out."""


def wilcoxon_signed_rank(differences: Sequence[float]) -> SignedRank:
    """Whether paired differences are as often and as far above zero as below (Wilcoxon 1945).

    Zeros are left out, as Wilcoxon did, and equal sizes share their mean rank. p counts all changes of sign of these
    very ranks, so that it is exact for any number of pairs, ties or not (scipy's exact distribution wants none).

    Args:
        differences: one a pair; NaN is left out.
    """
    finite = np.asarray(differences, np.float64)
    finite = finite[np.isfinite(finite)]
    kept = finite[finite != 0]
    n, zeros = len(kept), int((finite == 0).sum())
    if not n:
        return SignedRank(float("nan"), float("nan"), smallest_wilcoxon_p(0), 0, zeros)
    ranks = rankdata(np.abs(kept))
    least = min(ranks[kept > 0].sum(), ranks[kept < 0].sum())
    # Mean ranks are halves at most.
    probabilities = _sums_of_subsets(np.rint(2 * ranks).astype(np.int64))
    p = min(1.0, 2 * float(probabilities[: round(2 * least) + 1].sum()))
    return SignedRank(float(least), p, smallest_wilcoxon_p(n), n, zeros)


def _sums_of_subsets(numbers: np.ndarray) -> np.ndarray:
    """Probability of each sum from 0 on, if each number is in it or not by a fair coin."""
    found = np.zeros(numbers.sum() + 1)
    found[0] = 1
    for number in numbers:
        with_it = np.zeros_like(found)
        with_it[number:] = found[:-number]
        found = (found + with_it) / 2
    return found


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values of one family, corrected so that any false alarm in it is rarer than the level (Holm 1979).

    Args:
        p_values: (M,); NaN stays NaN and is no member of the family.
    """
    p_values = np.asarray(p_values, np.float64)
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    steps = np.arange(len(order), 0, -1) * p_values[order]
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def cliffs_delta(first: Sequence[float], second: Sequence[float]) -> float:
    """P(first > second) - P(first < second) over all combinations, in [-1, 1] (Cliff 1993); NaN is left out."""
    first, second = (np.asarray(values, np.float64) for values in (first, second))
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    if not len(first) or not len(second):
        return float("nan")
    return float(np.sign(first[:, None] - second).mean())


def size_of_delta(delta: float) -> str | None:
    """Cliff's delta in words, by the limits of Romano et al. (2006): 0.147, 0.33, 0.474; None for NaN."""
    if np.isnan(delta):
        return None
    names = ("negligible", "small", "medium", "large")
    return names[int(np.searchsorted((0.147, 0.33, 0.474), abs(delta), side="right"))]


MOST_SUMS = 300_000
"""Sums of ranks looked at a fold; beyond that orders are drawn instead of counted."""
MOST_COUNTED_VARIANTS = 6
DRAWS = 20_000


@dataclass(frozen=True)
class Friedman:
    """Friedman's test over n folds, and which of its k variants differ."""

    statistic: float
    """Chi-square, corrected for ties; NaN where all variants are equal in every fold."""
    p: float
    """By the chi-square approximation with k - 1 degrees of freedom."""
    exact_p: float
    """Share of all orders within folds whose statistic is at least this large."""
    smallest_p: float
    """The exact p if every fold had ranked the variants alike."""
    mean_ranks: np.ndarray
    """(k,) over folds; 1 is the smallest number."""
    nemenyi_p: np.ndarray
    """(k, k) by the studentized range, see `nemenyi`."""
    nemenyi_exact_p: np.ndarray
    """(k, k) share of all orders in which any two variants lie at least that far apart."""
    n: int
    draws: int
    """0 where the orders were counted; else how many were drawn."""


def friedman(values: np.ndarray, seed: int = 0) -> Friedman:
    """Whether variants differ, by their ranks within each fold (Friedman 1937).

    Args:
        values: (n, k) a row a fold and a column a variant, all finite; n >= 2 and k >= 3.
        seed: of the drawn orders, where they are too many to be counted.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 3 or not np.isfinite(values).all():
        raise ValueError(f"finite numbers of at least 2 folds x 3 variants are wanted, found {values.shape}")
    n = len(values)
    ranks = rankdata(values, axis=1)
    sums = ranks.sum(axis=0)
    orders, weights, draws = _counted(tuple(map(tuple, np.sort(ranks, axis=1)))) or _drawn(ranks, seed)
    # Within these orders the correction for ties is constant: the sum of squares alone orders the statistic.
    squares, ranges = (orders**2).sum(axis=1), np.ptp(orders, axis=1)
    apart = np.abs(sums[:, None] - sums)
    alike = np.sort(ranks, axis=1).sum(axis=0)
    if np.ptp(ranks, axis=1).any():
        found = friedmanchisquare(*values.T)
        statistic, p = float(found.statistic), float(found.pvalue)
    else:
        statistic = p = float("nan")

    def share(reached: np.ndarray) -> float:
        # A drawn share counts the observed order too (Phipson & Smyth 2010), so that it is never 0.
        hits = float(weights[reached].sum())
        return (1 + hits) / (1 + draws) if draws else hits / float(weights.sum())

    return Friedman(
        statistic,
        p,
        share(squares >= (sums**2).sum()),
        share(squares >= (alike**2).sum()),
        sums / n,
        nemenyi(sums / n, n),
        np.array([[share(ranges >= distance) for distance in row] for row in apart]),
        n,
        draws,
    )


@lru_cache(maxsize=64)
def _counted(folds: tuple[tuple[float, ...], ...]) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Sums of ranks over all orders within folds, sorted, each once with its number of orders; None if too many.

    Only the ranks given in each fold count, so that all metrics without ties share one answer.
    """
    k = len(folds[0])
    if k > MOST_COUNTED_VARIANTS:
        return None
    orders = np.array(list(permutations(range(k))))
    # Which variant has which sum does not matter, so that the first fold may keep its order.
    sums, weights = np.array(folds[:1]), np.ones(1)
    for fold in np.array(folds[1:]):
        if len(sums) * len(orders) > MOST_SUMS:
            return None
        further = np.sort((sums[:, None] + fold[orders]).reshape(-1, k), axis=1)
        sums, place = np.unique(further, axis=0, return_inverse=True)
        weights = np.bincount(place.reshape(-1), np.repeat(weights, len(orders)))
    return sums, weights, 0


def _drawn(ranks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Sums of ranks over DRAWS random orders within folds."""
    generator, sums = np.random.default_rng(seed), np.zeros((DRAWS, ranks.shape[1]))
    for fold in ranks:
        sums += generator.permuted(np.broadcast_to(fold, sums.shape), axis=1)
    return sums, np.ones(DRAWS), DRAWS


def nemenyi(mean_ranks: np.ndarray, n: int) -> np.ndarray:
    """p of every pair after Friedman's test, held for all pairs at once (Nemenyi 1963; Demšar 2006, section 3.2.2).

    It is the large-sample distribution: two mean ranks differ at 0.05 by q sqrt(k (k + 1) / (6 n)) with q = 2.343 for
    three variants.

    Args:
        mean_ranks: (k,) over folds.
        n: number of folds.

    Returns:
        (k, k), 1 on the diagonal.
    """
    mean_ranks = np.asarray(mean_ranks, np.float64)
    k = len(mean_ranks)
    apart = np.abs(mean_ranks[:, None] - mean_ranks) / np.sqrt(k * (k + 1) / (6 * n))
    distances, place = np.unique(apart, return_inverse=True)
    return studentized_range.sf(distances * np.sqrt(2), k, np.inf)[place.reshape(k, k)]
