"""Intervals over subjects, floors, and summaries over folds.

Slices of one subject are not independent, and neither are samples of one trained model: subjects and folds
are what is resampled and counted here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SUBJECTS = 5


@dataclass(frozen=True)
class Interval:
    """A percentile interval, or why there is none."""

    low: float
    high: float
    reason: str | None = None  # set where low and high are NaN, to be printed as n/a


def subject_indices(subjects: Sequence) -> tuple[np.ndarray, int]:
    """Number the subjects of rows: (N,) index into the sorted subjects, and how many there are."""
    names, index = np.unique(np.asarray(subjects), return_inverse=True)
    return index.reshape(-1), len(names)


def resample_counts(n_subjects: int, n_boot: int, seed: int) -> np.ndarray:
    """How often each of n_boot draws with replacement took each subject: (n_boot, n_subjects)."""
    draws = np.random.default_rng(seed).integers(n_subjects, size=(n_boot, n_subjects))
    return (draws[:, :, None] == np.arange(n_subjects)).sum(axis=1)


def percentile_interval(values: np.ndarray, n_subjects: int, level: float = 0.95) -> Interval:
    """The central `level` of resampled values.

    Args:
        values: (n_boot,) the statistic of every resampling; NaN where it could not be computed.
        n_subjects: how many subjects were resampled; under 5 there is no interval.
        level: in (0, 1).
    """
    if n_subjects < FEWEST_SUBJECTS:
        return Interval(
            np.nan, np.nan, f"{n_subjects} held-out subjects, at least {FEWEST_SUBJECTS} are wanted"
        )
    finite = values[np.isfinite(values)]
    if len(finite) < 0.9 * len(values) or not len(finite):
        return Interval(np.nan, np.nan, f"only {len(finite)} of {len(values)} resamplings gave a number")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def subject_bootstrap(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence,
    n_boot: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Interval of a statistic when subjects, with all their rows, are drawn with replacement (Efron 1979).

    For an MMD use `kernels.resampled_mmd2`: here a row that is drawn twice would be paired with itself.

    Args:
        statistic: takes row indices (with repeats) and gives a number.
        groups: (N,) subject of each row.
        n_boot: number of resamplings.
        seed: of the draws.
        level: of the interval.

    Returns:
        The percentile interval; without numbers and with a reason under 5 subjects, where it is not computed
        at all.
    """
    index, n_subjects = subject_indices(groups)
    if n_subjects < FEWEST_SUBJECTS:
        return percentile_interval(np.empty(0), n_subjects, level)
    rows = [np.flatnonzero(index == subject) for subject in range(n_subjects)]
    draws = np.random.default_rng(seed).integers(n_subjects, size=(n_boot, n_subjects))
    values = np.array([statistic(np.concatenate([rows[s] for s in draw])) for draw in draws], np.float64)
    return percentile_interval(values, n_subjects, level)


def floor(
    metric: Callable[[np.ndarray, np.ndarray], float],
    test_rows: np.ndarray,
    train_rows: np.ndarray,
    n: int,
    seed: int,
) -> float:
    """The metric between two sets of real rows: what a perfect model of other subjects would score.

    Args:
        metric: takes (real, synthetic) rows and gives a number.
        test_rows: (N, ...) of held-out subjects, in the place of the real ones.
        train_rows: (M, ...) of training subjects, in the place of the synthetic ones.
        n: how many synthetic rows the number beside it used; at most as many training rows are drawn,
            because FID and Wasserstein distances shrink with the size of the set.
        seed: of the draw.
    """
    chosen = np.random.default_rng(seed).permutation(len(train_rows))[:n]
    return metric(test_rows, train_rows[np.sort(chosen)])


@dataclass(frozen=True)
class FoldSummary:
    """Mean and sd (ddof 1) over the folds that gave a number."""

    mean: float
    sd: float  # NaN for one fold
    n: int


def fold_summary(values: Sequence[float]) -> FoldSummary:
    """Summary of one number a fold; folds that are NaN are left out and show in n."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    mean = float(finite.mean()) if len(finite) else float("nan")
    return FoldSummary(mean, float(finite.std(ddof=1)) if len(finite) > 1 else float("nan"), len(finite))


def smallest_wilcoxon_p(n_folds: int) -> float:
    """The smallest two-sided p of the exact Wilcoxon signed rank test for n pairs: 2 / 2^n, 0.25 for 3."""
    return min(1.0, 2.0 ** (1 - n_folds))


def sign_agreement(differences: Sequence[float]) -> tuple[int, int]:
    """How many of n differences (one a fold) have the commoner sign, and n.

    Zeros agree with neither sign; NaN is left out of both counts.
    """
    finite = np.asarray(differences, np.float64)
    finite = finite[np.isfinite(finite)]
    return int(max((finite > 0).sum(), (finite < 0).sum())), len(finite)
