"""Intervals over subjects, and summaries over folds.

Slices of one subject are not independent, and neither are samples of one trained model: subjects and folds
are what is resampled and counted here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SUBJECTS = 5
_DRAWS = 128  # held at once, each with a weight for every slice
SUBJECTS = "held-out subjects"
SAMPLES = "samples"


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
    # Draw by draw: samples are resampled too, and there may be ten thousand of them.
    counts = [np.bincount(draw, minlength=n_subjects) for draw in draws]
    return np.array(counts, np.int64).reshape(n_boot, n_subjects)


def percentile_interval(
    values: np.ndarray, n_subjects: int, level: float = 0.95, unit: str = SUBJECTS
) -> Interval:
    """The central `level` of resampled values.

    Args:
        values: (n_boot,) the statistic of every resampling; NaN where it could not be computed.
        n_subjects: how many subjects were resampled; under 5 there is no interval.
        level: in (0, 1).
        unit: what was resampled, for the reason.
    """
    if n_subjects < FEWEST_SUBJECTS:
        return Interval(np.nan, np.nan, f"{n_subjects} {unit}, at least {FEWEST_SUBJECTS} are required")
    finite = values[np.isfinite(values)]
    if len(finite) < 0.9 * len(values) or not len(finite):
        return Interval(np.nan, np.nan, f"only {len(finite)} of {len(values)} resamplings gave a number")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Resampling:
    """Draws of subjects, as how often each was taken."""

    index: np.ndarray
    """(N,) subject of each row, 0 ... S-1."""
    counts: np.ndarray
    """(B, S); no draw at all with too few subjects for an interval."""
    scale: float = 1.0
    """By how much the spread of these draws has to be multiplied to be that of sets of all subjects."""
    unit: str = SUBJECTS
    """What is drawn: subjects, or samples of one model."""

    @classmethod
    def of(cls, subjects: Sequence, n_boot: int, seed: int, unit: str = SUBJECTS) -> "Resampling":
        """With replacement. subjects: (N,) of each row; n_boot: draws; seed: of the draws; unit: what they are."""
        index, n_subjects = subject_indices(subjects)
        n_boot = n_boot if n_subjects >= FEWEST_SUBJECTS else 0
        return cls(index, resample_counts(n_subjects, n_boot, seed), unit=unit)

    @classmethod
    def halves(cls, subjects: Sequence, n_draws: int, seed: int) -> "Resampling":
        """Half of the subjects without replacement: all draws have equally many distinct ones (Shao & Wu 1989).

        For numbers whose bias depends on how many slices there are: with replacement a draw has 56 to 72 % of the
        subjects, and that alone would move it more than who they are. The variance of a half h of S about the whole
        is that of the whole times (S - h) / h, which `scale` undoes.
        """
        index, n_subjects = subject_indices(subjects)
        half, generator = n_subjects // 2, np.random.default_rng(seed)
        n_draws = n_draws if n_subjects >= FEWEST_SUBJECTS else 0
        counts = np.zeros((n_draws, n_subjects), np.int64)
        for draw in counts:
            draw[generator.permutation(n_subjects)[:half]] = 1
        return cls(index, counts, float(np.sqrt(half / (n_subjects - half))))

    @property
    def n_subjects(self) -> int:
        return self.counts.shape[1]

    def percentile(self, values: np.ndarray) -> Interval:
        """See `percentile_interval`; values (B,)."""
        return percentile_interval(values, self.n_subjects, unit=self.unit)

    def distance(self, value: float, values: np.ndarray) -> Interval:
        """See `distance_interval`; values (B,)."""
        return distance_interval(value, values, self.n_subjects)

    def centred(self, value: float, values: np.ndarray, **limits: float) -> Interval:
        """See `centred_interval`; values (B,)."""
        return centred_interval(value, values, self.n_subjects, self.scale, **limits)


def distance_interval(value: float, values: np.ndarray, n_subjects: int) -> Interval:
    """For distances that cannot be negative and that finite sets overestimate, draws of them even more.

    The upper end is the spread of the draws laid around the value. The lower end mirrors the draws at the value,
    2 value - quantile (Davison & Hinkley 1997, section 5.2), so that it reaches down to what endless sets would
    give: 0 for equal ones. So the interval holds the value itself, which stands beside a floor with the same bias, and
    the distance that it estimates.

    Args:
        value: the statistic of the whole set.
        values, n_subjects: see `percentile_interval`.
    """
    quantiles = percentile_interval(values, n_subjects)
    if quantiles.reason:
        return quantiles
    upper = value + quantiles.high - float(np.nanmean(values))
    return Interval(min(max(2 * value - quantiles.high, 0.0), value), max(upper, value))


def centred_interval(
    value: float,
    values: np.ndarray,
    n_subjects: int,
    scale: float = 1.0,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> Interval:
    """The spread of the draws about their mean, laid around the value.

    For numbers whose bias depends on how many slices there are, and which are read beside a floor with the same bias
    (FID, precision, recall): a draw, of fewer distinct slices, adds to the bias, and that part is taken out.

    Args:
        value: the statistic of the whole set.
        values, n_subjects: see `percentile_interval`.
        scale: of the spread.
        lowest, highest: where the interval is cut off.
    """
    spread = percentile_interval(values, n_subjects)
    if spread.reason:
        return spread
    ends = value + scale * (np.array([spread.low, spread.high]) - np.nanmean(values))
    low, high = np.clip(ends, lowest, highest)
    return Interval(float(low), float(high))


def resampled_means(rows: np.ndarray, subjects: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of rows when subjects, with all their rows, are drawn with replacement.

    Args:
        rows: (N, ...) finite numbers.
        subjects: (N,) index of each row's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B, ...) float64; NaN where a resampling has no row.
    """
    rows, counts = np.asarray(rows, np.float64), np.asarray(counts, np.float64)
    sums = np.zeros((counts.shape[1], *rows.shape[1:]))
    np.add.at(sums, subjects, rows)
    sizes = counts @ np.bincount(subjects, minlength=counts.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.tensordot(counts, sums, 1) / sizes.reshape(-1, *[1] * (rows.ndim - 1))
    return np.where(sizes.reshape(means.shape[:1] + (1,) * (means.ndim - 1)) > 0, means, np.nan)


def resampled_quantile(
    values: np.ndarray, subjects: np.ndarray, counts: np.ndarray, quantile: float
) -> np.ndarray:
    """Quantile of numbers when subjects, with all their numbers, are drawn with replacement.

    Args:
        values: (N,) finite numbers.
        subjects: (N,) index of each number's subject, 0 ... S-1.
        counts: (B, S) how often each draw took each subject.
        quantile: in [0, 1]; interpolated between neighbours as `numpy.quantile` does.

    Returns:
        (B,) float64; NaN where a draw has no number.
    """
    order = np.argsort(values, kind="stable")
    ordered, owner = np.asarray(values, np.float64)[order], np.asarray(subjects)[order]
    result = np.full(len(counts), np.nan)
    for start in range(0, len(counts), _DRAWS):
        draws = slice(start, start + _DRAWS)
        # cumulated[b, i]: how many of a draw's numbers are among the i + 1 smallest.
        cumulated = np.cumsum(counts[draws][:, owner], axis=1)
        total = cumulated[:, -1] if len(ordered) else np.zeros(len(cumulated), np.int64)
        drawn = total > 0
        if not drawn.any():
            continue
        place = quantile * (total[drawn] - 1)
        lower = np.floor(place).astype(np.int64)
        upper = np.minimum(lower + 1, total[drawn] - 1)
        below, above = (ordered[(cumulated[drawn] <= rank[:, None]).sum(axis=1)] for rank in (lower, upper))
        result[draws][drawn] = below + (place - lower) * (above - below)
    return result


def share_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's interval of a share of independent trials (Wilson 1927).

    For shares among samples of one trained model: it says how well the share of *this* model is known, and nothing
    about models trained again.

    Args:
        successes, n: counts; without trials there is no interval.
        level: in (0, 1).
    """
    if n < 1:
        return Interval(np.nan, np.nan, "no sample")
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(float(low), float(high))


def sample_median_interval(values: np.ndarray, n_boot: int, seed: int) -> Interval:
    """Bootstrap interval of the median of numbers of one trained model's samples.

    Like `share_interval` it says how well the median of *this* model is known.

    Args:
        values: (N,); under 5 there is no interval.
        n_boot, seed: of the draws.
    """
    if len(values) < FEWEST_SUBJECTS:
        return Interval(np.nan, np.nan, f"{len(values)} samples, at least {FEWEST_SUBJECTS} are required")
    generator = np.random.default_rng(seed)
    # Draw by draw: (n_boot, N) indices of many lesions would be gigabytes.
    medians = [np.median(values[generator.integers(len(values), size=len(values))]) for _ in range(n_boot)]
    return percentile_interval(np.array(medians), len(values))


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
