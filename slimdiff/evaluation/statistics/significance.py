"""Tests over folds or subjects, and the size of a difference: scipy.stats and scikit-posthocs, one form of result."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import numpy as np
from scipy.stats import friedmanchisquare, permutation_test, rankdata, wilcoxon

from slimdiff.evaluation.statistics.bootstrap import smallest_wilcoxon_p

ORDERS = 20_000
"""Orders within folds that are counted at most; where there are more, this number of random ones is taken."""


@dataclass(frozen=True)
class SignedRank:
    """A two-sided Wilcoxon signed rank test."""

    statistic: float
    """The smaller of the two sums of ranks; NaN where no pair differs."""
    p: float
    smallest_p: float
    """p if all n differences had the same sign."""
    n: int
    """Pairs that differ."""
    zeros: int
    """Pairs that do not differ; they are left out."""


def wilcoxon_signed_rank(differences: Sequence[float]) -> SignedRank:
    """Two-sided exact test whether paired differences are symmetric about zero (Wilcoxon 1945).

    Zeros are left out, as Wilcoxon did; equal sizes share their mean rank. Without ties p is scipy's. scipy's exact
    distribution does not allow ties, and its permutation test takes 2 s from 15 pairs on and is random there; with ties
    p counts all changes of sign here, which takes milliseconds.

    Args:
        differences: one per pair; NaN is left out.
    """
    finite = np.asarray(differences, np.float64)
    finite = finite[np.isfinite(finite)]
    kept = finite[finite != 0]
    n, zeros = len(kept), int((finite == 0).sum())
    if not n:
        return SignedRank(float("nan"), float("nan"), smallest_wilcoxon_p(0), 0, zeros)
    ranks = rankdata(np.abs(kept))
    statistic = float(min(ranks[kept > 0].sum(), ranks[kept < 0].sum()))
    tied = len(np.unique(ranks)) < n
    p = _exact_p(ranks, statistic) if tied else float(wilcoxon(kept, method="exact").pvalue)
    return SignedRank(statistic, p, smallest_wilcoxon_p(n), n, zeros)


def _exact_p(ranks: np.ndarray, statistic: float) -> float:
    """Two-sided share of all changes of sign whose smaller sum of ranks is at most the statistic."""
    # Mean ranks are multiples of one half; probability[s] is that of a sum of s halves.
    doubled = np.rint(2 * ranks).astype(np.int64)
    probability = np.zeros(doubled.sum() + 1)
    probability[0] = 1
    for rank in doubled:
        with_it = np.zeros_like(probability)
        with_it[rank:] = probability[:-rank]
        probability = (probability + with_it) / 2
    return min(1.0, 2 * float(probability[: round(2 * statistic) + 1].sum()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values of one family, corrected to control the family-wise error rate (Holm 1979).

    Args:
        p_values: (M,); NaN stays NaN and does not count.
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


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of k variants over n folds, and Nemenyi's comparison of every pair."""

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
    """(k, k) by the studentized range (Demšar 2006, section 3.2.2)."""
    nemenyi_exact_p: np.ndarray
    """(k, k) share of all orders in which any two variants differ at least as much."""
    n: int
    draws: int
    """Number of random orders; 0 where all orders were counted."""


def friedman(values: np.ndarray, seed: int = 0) -> Friedman:
    """Test whether variants differ, by their ranks within each fold (Friedman 1937).

    Statistic and approximate p: scipy; exact p: scipy's permutation test within folds; Nemenyi (1963): scikit-posthocs.

    Args:
        values: (n, k) one row per fold and one column per variant, all finite; n >= 2 and k >= 3.
        seed: of the random orders, where there are too many to count.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    from scikit_posthocs import posthoc_nemenyi_friedman  # here, because it imports statsmodels

    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 3 or not np.isfinite(values).all():
        raise ValueError(f"expected finite values of at least 2 folds x 3 variants, found {values.shape}")
    n = len(values)
    ranks = rankdata(values, axis=1)
    sums, alike = ranks.sum(axis=0), np.sort(ranks, axis=1).sum(axis=0)
    pattern = tuple(map(tuple, np.sort(ranks, axis=1)))
    squares, drawn = _null_distribution(pattern, "squares", seed)
    ranges, _ = _null_distribution(pattern, "range", seed)
    if np.ptp(ranks, axis=1).any():
        found = friedmanchisquare(*values.T)
        statistic, p = float(found.statistic), float(found.pvalue)
    else:
        statistic = p = float("nan")

    def share(null: np.ndarray, observed: float) -> float:
        hits = int((null >= observed - 1e-9).sum())
        # A share of random orders counts the observed one too (Phipson & Smyth 2010), so that it is never 0.
        return (1 + hits) / (1 + len(null)) if drawn else hits / len(null)

    distances = np.abs(sums[:, None] - sums)
    exact = {distance: share(ranges, distance) for distance in np.unique(distances)}
    return Friedman(
        statistic,
        p,
        share(squares, _squares(sums)),
        share(squares, _squares(alike)),
        sums / n,
        posthoc_nemenyi_friedman(values).to_numpy(),
        np.vectorize(exact.get)(distances),
        n,
        len(squares) if drawn else 0,
    )


def _squares(sums: np.ndarray) -> np.ndarray:
    # The correction for ties is the same for all orders within folds, so the sum of squares sorts the statistic.
    return (sums**2).sum(axis=0)


@lru_cache(maxsize=64)
def _null_distribution(
    ranks: tuple[tuple[float, ...], ...], statistic: str, seed: int
) -> tuple[np.ndarray, bool]:
    """A statistic of the variants' rank sums over all orders within folds, or over `ORDERS` random ones if drawn.

    ranks: sorted within each fold; metrics without ties share one distribution. Returns the values, and whether they
    are drawn.
    """
    of_sums = _squares if statistic == "squares" else lambda sums: np.ptp(sums, axis=0)
    found = permutation_test(
        tuple(np.array(ranks).T),
        lambda *variants, axis: of_sums(np.stack(variants).sum(axis=axis if axis < 0 else axis + 1)),
        permutation_type="samples",
        n_resamples=ORDERS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return found.null_distribution, factorial(len(ranks[0])) ** len(ranks) > ORDERS
