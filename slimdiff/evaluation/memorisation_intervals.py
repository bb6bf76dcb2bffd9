"""How sure memorisation's numbers are: the held-out subjects are drawn again, all draws at once.

What varies is who was held out. The samples are those of one trained model and stay as they are.
"""

from collections.abc import Sequence

import numpy as np

from slimdiff.evaluation.kernels import resampled_wasserstein
from slimdiff.evaluation.memorisation import QUANTILE, Memorisation
from slimdiff.evaluation.statistics import (
    FEWEST_SUBJECTS,
    Interval,
    Resampling,
    percentile_interval,
    resampled_quantile,
)

_DRAWS = 128  # held at once, each with a weight for every slice


class HeldOut:
    """Held-out distances under draws of their subjects.

    The halves are drawn each for itself: the threshold is as uncertain as the share that it flags, and an interval
    around a threshold that stood firm would cover the 1 % too seldom.
    """

    def __init__(self, found: Memorisation, distance: np.ndarray, subjects: Sequence, n_boot: int, seed: int):
        """found: of `memorisation`, for these test slices' distances and subjects, both (M,); n_boot, seed: of the
        draws."""
        subjects = np.asarray(subjects)
        self._matched = found.calibrating | found.checking
        self._test = distance[self._matched]
        self._everybody = Resampling.of(subjects[self._matched], n_boot, seed)
        self._check = distance[found.checking]
        self._checking = Resampling.of(subjects[found.checking], n_boot, seed + 1)
        calibrating = Resampling.of(subjects[found.calibrating], n_boot, seed + 2)
        self._n_calibrating = calibrating.n_subjects
        self._w1 = found.w1
        self.thresholds = resampled_quantile(
            distance[found.calibrating], calibrating.index, calibrating.counts, QUANTILE
        )
        """(B,) the threshold of every draw; empty with fewer than 5 calibrating subjects."""

    def ratio(self, synthetic: np.ndarray, rows: np.ndarray | None = None) -> Interval:
        """Of R, for finite distances of samples; rows: (M,) bool, test slices that count (one z-bin's)."""
        own = np.ones(len(self._test), bool) if rows is None else rows[self._matched]
        index = self._everybody.index[own]
        medians = resampled_quantile(self._test[own], index, self._everybody.counts, 0.5)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = (np.median(synthetic) if len(synthetic) else np.nan) / medians
        return percentile_interval(values, len(np.unique(index)))

    def suspect_share(self, synthetic: np.ndarray) -> Interval:
        """Of the share of samples below the threshold, for their finite distances: the threshold is drawn again."""
        if self._n_calibrating < FEWEST_SUBJECTS:
            return _too_few(self._n_calibrating, "behind the threshold")
        if not len(synthetic):
            return Interval(np.nan, np.nan, "no sample")
        below = np.searchsorted(np.sort(synthetic), self.thresholds, side="left")
        return percentile_interval(below / len(synthetic), self._n_calibrating)

    def check_share(self) -> Interval:
        """Of the share of the other half's slices below the threshold: both halves are drawn again."""
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
        return self._checking.percentile(shares)

    def w1(self, synthetic: np.ndarray) -> Interval:
        """Of W1 between finite distances of samples and the test slices'; a basic interval, because every draw has
        fewer distinct slices and so lies further away."""
        if not len(synthetic):
            return Interval(np.nan, np.nan, "no sample")
        if self._everybody.n_subjects < FEWEST_SUBJECTS:
            return self._everybody.percentile(np.empty(0))
        spread = self._test.std()
        # Back into the unit of the distances, from standard deviations of the test slices'.
        values = resampled_wasserstein(
            self._test[:, None], synthetic[:, None], self._everybody.index, self._everybody.counts
        )[:, 0] * (spread if spread > 0 else 1)
        return self._everybody.distance(self._w1, values)


def _too_few(n: int, which: str) -> Interval:
    reason = f"{n} held-out subjects {which}, at least {FEWEST_SUBJECTS} are wanted"
    return Interval(np.nan, np.nan, reason)
