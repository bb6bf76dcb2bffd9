"""Memorisation: distances of samples to their nearest training slices, compared with those of held-out slices.

Needs only numpy and torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimdiff.evaluation.metrics.wasserstein import resampled_wasserstein, wasserstein
from slimdiff.evaluation.statistics.bootstrap import (
    FEWEST_SUBJECTS,
    Interval,
    Resampling,
    percentile_interval,
    resample_counts,
    resampled_quantile,
    resampled_rank,
    share_interval,
)

QUANTILE = 0.01
"""Share of unseen slices that the threshold of suspects may flag."""


@dataclass(frozen=True)
class Memorisation:
    """Distances of samples to the training slices, compared with those of held-out slices.

    Distances are relative to a scale: the median distance of held-out slices in the same z-bin (`bin_scales`). Slices
    at the top and bottom of the brain have smaller distances, so without it only their z-bins would have suspects.

    - `ratio` R = median(synthetic to train) / median(test to train). Below 1, samples are closer to the training
      slices than unseen subjects are.
    - `suspects` are below `threshold`, an order statistic of the relative test distances of half of the held-out
      subjects (`calibrated_rank`).
    - `check_share` is the share of slices of the other half below `threshold`; `expected_share` is expected.
    - `suspects_ref` are closer than the closest test slice, in absolute distances, as in the published code.
    """

    ratio: float
    threshold: float  # a relative distance
    suspects: np.ndarray  # (N,) bool
    suspect_share: float  # among samples that have a training slice in their z-bin
    check_share: float  # NaN with fewer than two held-out subjects
    expected_share: (
        float  # share of new slices like the calibrating ones below the threshold; NaN without any
    )
    suspects_ref: np.ndarray  # (N,) bool
    ref_share: float  # among the same samples as suspect_share
    ref_floor: float  # share of slices of the second half closer than the closest slice of the first half
    w1: float  # between the relative distances of samples and of test slices
    w1_floor: float  # between the relative distances of the two halves of the held-out subjects
    calibrating: np.ndarray  # (M,) bool: test slices that define the threshold
    checking: np.ndarray  # (M,) bool: test slices of the other half
    n_unmatched: int  # samples without a training slice in their z-bin; never suspects

    @property
    def n_calibration(self) -> int:
        """Number of test slices that define the threshold; below 100 it is close to their minimum."""
        return int(self.calibrating.sum())


FEWEST_SLICES = 5
"""Held-out slices that a z-bin needs for a scale of its own."""


def bin_scales(test_distance: np.ndarray, test_bin: np.ndarray, n_bins: int) -> np.ndarray:
    """(n_bins,) the median distance of the held-out slices in each z-bin.

    A z-bin with fewer than 5 finite distances, or with median 0, has the median over all z-bins; NaN without any.

    Args:
        test_distance: (M,) from `nearest`, test to train.
        test_bin: (M,) z-bin of each test slice.
        n_bins: number of z-bins.
    """
    known = np.isfinite(test_distance)
    overall = np.median(test_distance[known]) if known.any() else np.nan
    scales = np.full(n_bins, overall)
    for z_bin in range(n_bins):
        own = test_distance[known & (test_bin == z_bin)]
        if len(own) >= FEWEST_SLICES and np.median(own) > 0:
            scales[z_bin] = np.median(own)
    return scales


def memorisation(
    synthetic_distance: np.ndarray,
    test_distance: np.ndarray,
    test_subjects: Sequence,
    seed: int,
    synthetic_scale: np.ndarray | float = 1.0,
    test_scale: np.ndarray | float = 1.0,
) -> Memorisation:
    """Compare nearest-neighbour distances of samples with those of held-out slices.

    Args:
        synthetic_distance: (N,) from `nearest`, synthetic to train.
        test_distance: (M,) from `nearest`, test to train.
        test_subjects: (M,) subject of each test slice.
        seed: seed of the split of the held-out subjects into two halves, for calibration and check.
        synthetic_scale, test_scale: (N,) and (M,) scale of each distance, see `bin_scales`.

    Returns:
        See `Memorisation`. Without distances the numbers are NaN and no sample is a suspect.

    Raises:
        ValueError: different numbers of subjects and test slices.
    """
    test_subjects = np.asarray(test_subjects)
    if len(test_subjects) != len(test_distance):
        raise ValueError(
            f"expected {len(test_distance)} subjects, one per test slice, found {len(test_subjects)}"
        )
    matched = np.isfinite(test_distance)
    closest = _smallest(test_distance[matched])
    suspects_ref = synthetic_distance < closest
    raw_distance, test_distance = test_distance, test_distance / test_scale
    synthetic_distance = synthetic_distance / synthetic_scale
    test = test_distance[matched]
    synthetic = synthetic_distance[np.isfinite(synthetic_distance)]
    order = np.random.default_rng(seed).permutation(np.unique(test_subjects[matched]))
    calibrating = matched & np.isin(test_subjects, order[: (len(order) + 1) // 2])
    checking = matched & ~calibrating
    calibration, check = test_distance[calibrating], test_distance[checking]
    rank = int(calibrated_rank(len(calibration))) if len(calibration) else 0
    threshold = float(np.sort(calibration)[rank - 1]) if rank else float("nan")
    suspects = synthetic_distance < threshold  # False for NaN on either side
    n_matched = len(synthetic)
    return Memorisation(
        ratio=ratio(synthetic, test),
        threshold=threshold,
        suspects=suspects,
        suspect_share=_share(suspects.sum(), n_matched if np.isfinite(threshold) else 0),
        check_share=_share((check < threshold).sum(), len(check)),
        expected_share=_share(rank, len(calibration) + 1) if rank else float("nan"),
        suspects_ref=suspects_ref,
        ref_share=_share(suspects_ref.sum(), n_matched if len(test) else 0),
        ref_floor=_share((raw_distance[checking] < _smallest(raw_distance[calibrating])).sum(), len(check)),
        w1=wasserstein(synthetic, test),
        w1_floor=wasserstein(calibration, check),
        calibrating=calibrating,
        checking=checking,
        n_unmatched=len(synthetic_distance) - n_matched,
    )


def calibrated_rank(n: np.ndarray | int) -> np.ndarray:
    """Rank k of the threshold among n calibrating distances, 1 the smallest: floor(0.01 (n + 1)), at least 1.

    A new distance from the same distribution is below the k-th smallest of n with probability k / (n + 1) (conformal
    prediction, Vovk et al. 2005), at most 1 % from 99 distances on. An interpolated quantile would flag more.
    """
    return np.maximum(1, np.floor(QUANTILE * (np.asarray(n) + 1) + 1e-9).astype(np.int64))


def ratio(synthetic: np.ndarray, test: np.ndarray) -> float:
    """R of finite distances: ratio of the two medians; NaN if a set is empty or the second median is 0."""
    if not len(synthetic) or not len(test) or np.median(test) == 0:
        return float("nan")
    return float(np.median(synthetic) / np.median(test))


def _smallest(distance: np.ndarray) -> float:
    return distance.min() if len(distance) else float("nan")


def _share(count: int, n: int) -> float:
    return float(count / n) if n else float("nan")


def by_training_subject(
    distance: np.ndarray,
    index: np.ndarray,
    suspects: np.ndarray,
    query_bin: np.ndarray,
    train_subjects: Sequence,
    train_bin: np.ndarray,
) -> list[dict]:
    """How often each training subject is the nearest one, and how often this is expected by chance.

    Args:
        distance, index: (N,) from `nearest`, synthetic to train.
        suspects: (N,) bool.
        query_bin: (N,) z-bin of each sample.
        train_subjects, train_bin: (M,) subject and z-bin of each training slice.

    Returns:
        One row per training subject, those with the most suspects first:

        - participant; n_slices, its number of training slices; n_nearest, the samples whose nearest slice it has;
        - expected_share: expected share of the samples if every training slice of a sample's z-bin is equally likely
          to be the nearest; NaN if no sample has a nearest slice;
        - n_suspects; closest, the smallest distance, NaN if the subject is never the nearest.
    """
    names, owner = np.unique(np.asarray(train_subjects), return_inverse=True)
    owner = owner.reshape(-1)
    matched = np.asarray(index) >= 0
    nearest_owner = owner[index[matched]]
    bins, position = np.unique(train_bin, return_inverse=True)
    slices = np.zeros((len(names), len(bins)))
    np.add.at(slices, (owner, position.reshape(-1)), 1)
    samples = np.array([(query_bin[matched] == z_bin).sum() for z_bin in bins])
    expected = (slices / slices.sum(axis=0)) @ samples
    rows = []
    for subject, name in enumerate(names):
        own = nearest_owner == subject
        rows.append(
            {
                "participant": str(name),
                "n_slices": int(slices[subject].sum()),
                "n_nearest": int(own.sum()),
                "expected_share": _share(expected[subject], len(nearest_owner)),
                "n_suspects": int(suspects[matched][own].sum()),
                "closest": float(distance[matched][own].min()) if own.any() else float("nan"),
            }
        )
    return sorted(rows, key=lambda row: (-row["n_suspects"], -row["n_nearest"], row["participant"]))


_DRAWS = 128  # resamplings in memory, each with a weight for every slice


class HeldOut:
    """Intervals of the memorisation metrics, from resamplings of the held-out subjects.

    For the check, the two halves of the subjects are resampled independently, because the threshold is uncertain too.
    With a fixed threshold the interval would contain the 1 % too rarely. For the suspects, as many subjects as the
    first half has are drawn of all: a threshold is one of the smallest distances, and resamplings of the half that gave
    it are never below its smallest.
    """

    def __init__(self, found: Memorisation, distance: np.ndarray, subjects: Sequence, n_boot: int, seed: int):
        """
        Args:
            found: result of `memorisation` for the same test slices.
            distance, subjects: (M,) distance and subject of each test slice.
            n_boot, seed: number and seed of the resamplings.
        """
        subjects = np.asarray(subjects)
        self._matched = found.calibrating | found.checking
        self._test = distance[self._matched]
        self._all_subjects = Resampling.of(subjects[self._matched], n_boot, seed)
        self._check = distance[found.checking]
        self._checking = Resampling.of(subjects[found.checking], n_boot, seed + 1)
        calibrating = Resampling.of(subjects[found.calibrating], n_boot, seed + 2)
        self._n_calibrating = calibrating.n_subjects
        self._w1, self._threshold = found.w1, found.threshold
        self.thresholds = resampled_rank(
            distance[found.calibrating], calibrating.index, calibrating.counts, calibrated_rank
        )
        """(B,) the threshold of every resampling of the first half; empty with fewer than 5 subjects in it."""
        drawn = resample_counts(
            self._all_subjects.n_subjects,
            n_boot if self._n_calibrating >= FEWEST_SUBJECTS else 0,
            seed + 2,
            self._n_calibrating,
        )
        self.other_thresholds = resampled_rank(self._test, self._all_subjects.index, drawn, calibrated_rank)
        """(B,) the threshold of as many subjects as the first half has, drawn of all held-out subjects."""

    def ratio(self, synthetic: np.ndarray, rows: np.ndarray | None = None) -> Interval:
        """Interval of R.

        Args:
            synthetic: finite distances of samples.
            rows: (M,) bool, the test slices to use, e.g. those of one z-bin; None: all.
        """
        own = np.ones(len(self._test), bool) if rows is None else rows[self._matched]
        index = self._all_subjects.index[own]
        medians = resampled_quantile(self._test[own], index, self._all_subjects.counts, 0.5)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = (np.median(synthetic) if len(synthetic) else np.nan) / medians
        return percentile_interval(values, len(np.unique(index)))

    def suspect_share(self, synthetic: np.ndarray) -> Interval:
        """Interval of the share of samples below the threshold.

        The threshold is resampled from all held-out subjects; the interval contains Wilson's interval over samples,
        too, so that none of 240 samples below it does not give [0, 0].

        Args:
            synthetic: finite distances of samples.
        """
        if self._n_calibrating < FEWEST_SUBJECTS:
            return _too_few(self._n_calibrating, "behind the threshold")
        if not len(synthetic):
            return Interval(np.nan, np.nan, "no sample")
        below = np.searchsorted(np.sort(synthetic), self.other_thresholds, side="left")
        resampled = percentile_interval(below / len(synthetic), self._n_calibrating)
        drawn = share_interval(int((synthetic < self._threshold).sum()), len(synthetic))
        return Interval(min(resampled.low, drawn.low), max(resampled.high, drawn.high), resampled.reason)

    def check_share(self) -> Interval:
        """Interval of the share of slices of the other half below the threshold; both halves are resampled.

        It contains Wilson's interval over these slices, too: often none of them is below the threshold.
        """
        for n, which in (
            (self._n_calibrating, "behind the threshold"),
            (self._checking.n_subjects, "to check it"),
        ):
            if n < FEWEST_SUBJECTS:
                return _too_few(n, which)
        shares = np.empty(len(self.thresholds))
        for start in range(0, len(shares), _DRAWS):
            draws = slice(start, start + _DRAWS)
            weights = self._checking.counts[draws][:, self._checking.index]
            flagged = self._check < self.thresholds[draws, None]
            shares[draws] = (weights * flagged).sum(axis=1) / weights.sum(axis=1)
        resampled = self._checking.percentile(shares)
        drawn = share_interval(int((self._check < self._threshold).sum()), len(self._check))
        return Interval(min(resampled.low, drawn.low), max(resampled.high, drawn.high), resampled.reason)

    def w1(self, synthetic: np.ndarray) -> Interval:
        """Interval of W1 between the distances of samples and those of test slices.

        It is a basic interval, because a resampling has fewer distinct slices and therefore a larger W1.

        Args:
            synthetic: finite distances of samples.
        """
        if not len(synthetic):
            return Interval(np.nan, np.nan, "no sample")
        if self._all_subjects.n_subjects < FEWEST_SUBJECTS:
            return self._all_subjects.percentile(np.empty(0))
        spread = self._test.std()
        # Convert from standard deviations of the test distances to the unit of the distances.
        values = resampled_wasserstein(
            self._test[:, None], synthetic[:, None], self._all_subjects.index, self._all_subjects.counts
        )[:, 0] * (spread if spread > 0 else 1)
        return self._all_subjects.distance(self._w1, values)


def _too_few(n: int, which: str) -> Interval:
    reason = f"{n} held-out subjects {which}, at least {FEWEST_SUBJECTS} are required"
    return Interval(np.nan, np.nan, reason)
