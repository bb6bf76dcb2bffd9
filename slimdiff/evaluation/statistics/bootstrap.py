"""Intervals over subjects, and summaries over folds.

Slices of one subject are not independent, and neither are samples of one trained model. Therefore subjects are
resampled, and folds are counted. A subject is a person, with all its scans (`SliceStore.person`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SUBJECTS = 5
_DRAWS = 128  # resamplings in memory, each with a weight for every slice
SUBJECTS = "held-out subjects"
SAMPLES = "samples"


@dataclass(frozen=True)
class Interval:
    """An interval, or the reason why there is none."""

    low: float
    high: float
    reason: str | None = None  # set if low and high are NaN, which tables show as n/a


def subject_indices(subjects: Sequence) -> tuple[np.ndarray, int]:
    """(N,) index of each row's subject in the sorted subjects, and the number of subjects."""
    names, index = np.unique(np.asarray(subjects), return_inverse=True)
    return index.reshape(-1), len(names)


def resample_counts(n_subjects: int, n_boot: int, seed: int, drawn: int | None = None) -> np.ndarray:
    """(n_boot, n_subjects) how often each resampling with replacement drew each subject.

    drawn: number of subjects in a resampling; None: n_subjects.
    """
    size = (n_boot, n_subjects if drawn is None else drawn)
    draws = np.random.default_rng(seed).integers(n_subjects, size=size)
    # One resampling at a time limits the memory: samples are resampled too, and there may be ten thousand.
    counts = [np.bincount(draw, minlength=n_subjects) for draw in draws]
    return np.array(counts, np.int64).reshape(n_boot, n_subjects)


def percentile_interval(
    values: np.ndarray, n_subjects: int, level: float = 0.95, unit: str = SUBJECTS
) -> Interval:
    """The central `level` of resampled values.

    Args:
        values: (n_boot,) the statistic of every resampling; NaN if it could not be computed.
        n_subjects: number of resampled subjects; with fewer than 5 there is no interval.
        level: in (0, 1).
        unit: plural noun for the resampled units, used in the reason.
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
    """Resamplings of subjects, as the number of times each subject is drawn."""

    index: np.ndarray
    """(N,) subject of each row, 0 ... S-1."""
    counts: np.ndarray
    """(B, S) how often each resampling drew each subject; B = 0 with too few subjects for an interval."""
    scale: float = 1.0
    """Factor from the spread of the resamplings to the spread of sets of all subjects."""
    unit: str = SUBJECTS
    """Plural noun for the resampled units: subjects, or samples of one model."""

    @classmethod
    def of(cls, subjects: Sequence, n_boot: int, seed: int, unit: str = SUBJECTS) -> "Resampling":
        """Resample subjects with replacement.

        Args:
            subjects: (N,) subject of each row.
            n_boot: number of resamplings.
            seed: seed of the resamplings.
            unit: plural noun for the resampled units.
        """
        index, n_subjects = subject_indices(subjects)
        n_boot = n_boot if n_subjects >= FEWEST_SUBJECTS else 0
        return cls(index, resample_counts(n_subjects, n_boot, seed), unit=unit)

    @classmethod
    def halves(cls, subjects: Sequence, n_draws: int, seed: int) -> "Resampling":
        """Draw half of the subjects without replacement, so that all draws have the same size (Shao & Wu 1989).

        For statistics whose bias depends on the number of slices. With replacement, a resampling contains 56 to 72 %
        of the subjects, and this variation would exceed the variation between subjects. The variance of halves of
        size h about the statistic of all S subjects is (S - h) / h times the variance of that statistic; `scale`
        corrects for this factor.
        """
        index, n_subjects = subject_indices(subjects)
        half, generator = n_subjects // 2, np.random.default_rng(seed)
        n_draws = n_draws if n_subjects >= FEWEST_SUBJECTS else 0
        counts = np.zeros((n_draws, n_subjects), np.int64)
        for draw in counts:
            draw[generator.permutation(n_subjects)[:half]] = 1
        return cls(index, counts, float(np.sqrt(half / max(n_subjects - half, 1))))

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
    """Interval of a distance that cannot be negative and is overestimated by finite sets, even more by resamplings.

    The upper end is the value plus the upper spread of the resamplings about their mean. The lower end is
    2 value - quantile, the basic bootstrap (Davison & Hinkley 1997, section 5.2), and extends to the large-sample
    limit, which is 0 for equal distributions. The interval thus contains both the value, to be compared with a floor of
    the same bias, and the distance that it estimates.

    Args:
        value: the statistic of the full set.
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
    """Interval from the spread of the resamplings about their mean, centred on the value.

    For statistics whose bias depends on the number of slices, and which are compared with a floor of the same bias
    (FID, precision, recall). A resampling has fewer distinct slices and a larger bias; centring removes the difference.

    Args:
        value: the statistic of the full set.
        values, n_subjects: see `percentile_interval`.
        scale: factor of the spread.
        lowest, highest: limits to which the interval is clipped.
    """
    spread = percentile_interval(values, n_subjects)
    if spread.reason:
        return spread
    ends = value + scale * (np.array([spread.low, spread.high]) - np.nanmean(values))
    low, high = np.clip(ends, lowest, highest)
    return Interval(float(low), float(high))


def sample_mean_interval(values: np.ndarray, ids: Sequence, n_boot: int, seed: int) -> Interval:
    """Bootstrap interval of a mean over samples of one trained model, each with all its numbers.

    Args:
        values: (N,) finite numbers.
        ids: (N,) sample of each number; with fewer than 5 there is no interval.
        n_boot, seed: number and seed of the resamplings.
    """
    index, n = subject_indices(ids)
    if n < FEWEST_SUBJECTS:
        return percentile_interval(np.empty(0), n, unit=SAMPLES)
    sums, sizes = np.bincount(index, values, minlength=n), np.bincount(index, minlength=n)
    generator, means = np.random.default_rng(seed), np.empty(n_boot)
    # One resampling at a time, the same as of `resample_counts`: those of 100,000 samples would need gigabytes.
    for draw in range(n_boot):
        counts = np.bincount(generator.integers(n, size=n), minlength=n)
        means[draw] = (counts @ sums) / (counts @ sizes)
    return percentile_interval(means, n, unit=SAMPLES)


def resampled_means(rows: np.ndarray, subjects: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of rows for every resampling of the subjects, each with all its rows.

    Args:
        rows: (N, ...) finite numbers.
        subjects: (N,) index of each row's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B, ...) float64; NaN if a resampling has no row.
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
    """Quantile of numbers for every resampling of the subjects, each with all its numbers.

    Args:
        values: (N,) finite numbers.
        subjects: (N,) index of each number's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.
        quantile: in [0, 1]; interpolated as in `numpy.quantile`.

    Returns:
        (B,) float64; NaN if a resampling has no number.
    """

    def between(total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = quantile * (total - 1)
        lower = np.floor(place).astype(np.int64)
        return lower, np.minimum(lower + 1, total - 1), place - lower

    return _resampled_places(values, subjects, counts, between)


def resampled_rank(
    values: np.ndarray, subjects: np.ndarray, counts: np.ndarray, rank_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The number of a rank (1 the smallest) for every resampling of the subjects, each with all its numbers.

    Args:
        values, subjects, counts: as in `resampled_quantile`.
        rank_of: the rank for each number of numbers in a resampling, (B,) to (B,).

    Returns:
        (B,) float64; NaN if a resampling has no number.
    """

    def exactly(total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = rank_of(total) - 1
        return place, place, np.zeros(len(place))

    return _resampled_places(values, subjects, counts, exactly)


def _resampled_places(
    values: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
    places_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Values between two places (0 the smallest) of every resampling: lower + share * (upper - lower)."""
    order = np.argsort(values, kind="stable")
    ordered, owner = np.asarray(values, np.float64)[order], np.asarray(subjects)[order]
    result = np.full(len(counts), np.nan)
    for start in range(0, len(counts), _DRAWS):
        draws = slice(start, start + _DRAWS)
        # cumulated[b, i]: how many numbers of resampling b are among the i + 1 smallest.
        cumulated = np.cumsum(counts[draws][:, owner], axis=1)
        total = cumulated[:, -1] if len(ordered) else np.zeros(len(cumulated), np.int64)
        drawn = total > 0
        if not drawn.any():
            continue
        lower, upper, share = places_of(total[drawn])
        below, above = (ordered[(cumulated[drawn] <= rank[:, None]).sum(axis=1)] for rank in (lower, upper))
        result[draws][drawn] = below + share * (above - below)
    return result


def share_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's interval of a share of independent trials (Wilson 1927).

    For shares among samples of one trained model. It is the uncertainty of the share of *this* model and does not
    include the variation between trainings.

    Args:
        successes, n: number of successes and of trials; without trials there is no interval.
        level: in (0, 1).
    """
    if n < 1:
        return Interval(np.nan, np.nan, "no sample")
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(float(low), float(high))


def sample_median_interval(values: np.ndarray, n_boot: int, seed: int) -> Interval:
    """Bootstrap interval of the median over samples of one trained model.

    As for `share_interval`, it does not include the variation between trainings.

    Args:
        values: (N,) numbers; with fewer than 5 there is no interval.
        n_boot, seed: number and seed of the resamplings.
    """
    if len(values) < FEWEST_SUBJECTS:
        return Interval(np.nan, np.nan, f"{len(values)} samples, at least {FEWEST_SUBJECTS} are required")
    generator = np.random.default_rng(seed)
    # One resampling at a time: (n_boot, N) indices of many lesions would need gigabytes.
    medians = [np.median(values[generator.integers(len(values), size=len(values))]) for _ in range(n_boot)]
    return percentile_interval(np.array(medians), len(values))


def subject_bootstrap(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence,
    n_boot: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic over resamplings of the subjects, each with all its rows (Efron 1979).

    For an MMD use `mmd.resampled_mmd2`: here a row drawn twice would be paired with itself.

    Args:
        statistic: function of row indices (with repeats) that returns a number.
        groups: (N,) subject of each row.
        n_boot: number of resamplings.
        seed: seed of the resamplings.
        level: level of the interval, in (0, 1).

    Returns:
        The interval; with fewer than 5 subjects it is not computed and has a reason instead.
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
    """Mean and sd (ddof 1) over the folds with a value."""

    mean: float
    sd: float  # NaN for one fold
    n: int


def fold_summary(values: Sequence[float]) -> FoldSummary:
    """Summary of one value per fold; NaN is left out, and n counts the other folds."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    mean = float(finite.mean()) if len(finite) else float("nan")
    return FoldSummary(mean, float(finite.std(ddof=1)) if len(finite) > 1 else float("nan"), len(finite))


def smallest_wilcoxon_p(n_folds: int) -> float:
    """The smallest two-sided p of the exact Wilcoxon signed rank test for n pairs: 2 / 2^n, 0.25 for 3."""
    return min(1.0, 2.0 ** (1 - n_folds))


def sign_agreement(differences: Sequence[float]) -> tuple[int, int]:
    """Number of differences (one per fold) with the more frequent sign, and number of differences.

    Zeros have neither sign; NaN is left out of both counts.
    """
    finite = np.asarray(differences, np.float64)
    finite = finite[np.isfinite(finite)]
    return int(max((finite > 0).sum(), (finite < 0).sum())), len(finite)
