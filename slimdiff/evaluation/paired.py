"""Tests of paired numbers, one a fold or one a subject, and how large a difference is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from slimdiff.evaluation.statistics import smallest_wilcoxon_p


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
