"""The Wasserstein-1 distance between two sets of feature vectors, feature by feature, and its resampling."""

import numpy as np

from slimdiff.evaluation.metrics.mmd import (
    _RESAMPLINGS,
    check_subjects,
    standardise,
)

_VALUES = 2**22  # of distribution functions in memory


def wasserstein(u: np.ndarray, v: np.ndarray) -> float:
    """Wasserstein-1 distance between two sets of numbers: the area between their distribution functions.

    NaN if either set is empty.
    """
    weights = np.ones((1, len(u)))
    return float(_weighted_wasserstein(np.asarray(u, np.float64), np.asarray(v, np.float64), weights)[0])


def _weighted_wasserstein(u: np.ndarray, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) Wasserstein-1 between u (N,) under each row of weights (B, N) and v (M,); NaN if all weights are 0."""
    if not len(u) or not len(v):
        return np.full(len(weights), np.nan)
    order = np.argsort(u, kind="stable")
    u, v = u[order], np.sort(v)
    both = np.sort(np.concatenate([u, v]))
    widths, below_v = np.diff(both), np.searchsorted(v, both[:-1], side="right") / len(v)
    # The distribution function of u is constant between two neighbouring values of u, also at values of v.
    behind = np.searchsorted(u, both[:-1], side="right")
    distances = np.empty(len(weights))
    at_once = max(1, min(_RESAMPLINGS, _VALUES // len(both)))
    for start in range(0, len(weights), at_once):
        rows = slice(start, start + at_once)
        cumulated = np.pad(np.cumsum(weights[rows][:, order], axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        with np.errstate(invalid="ignore"):
            below_u = (cumulated / cumulated[:, -1:])[:, behind]
        distances[rows] = np.abs(below_u - below_v) @ widths
    return distances


def feature_wasserstein(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, float]:
    """Wasserstein-1 of every z-scored feature, and their geometric mean.

    Args:
        real, synthetic: (N, D) and (M, D) features in their own units.

    Returns:
        (D,) distances in real standard deviations, and their geometric mean; NaN if either set is empty.
    """
    everything = np.ones((1, 1))
    distances = resampled_wasserstein(real, synthetic, np.zeros(len(real), np.int64), everything)[0]
    with np.errstate(divide="ignore"):
        return distances, float(np.exp(np.mean(np.log(distances))))


def resampled_wasserstein(
    real: np.ndarray, synthetic: np.ndarray, subjects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Wasserstein-1 of every z-scored feature for every resampling of the real subjects.

    Args:
        real, synthetic: (N, D) and (M, D) features in their own units. The z-scores always use all real vectors.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B, D) distances in real standard deviations; NaN if a set is empty or a resampling has no vector.

    Raises:
        ValueError: the subjects do not match the vectors or counts.
    """
    check_subjects(real, subjects, counts)
    real, synthetic = standardise(real, synthetic)
    weights = np.asarray(counts)[:, subjects]
    features = range(real.shape[1])
    return np.stack([_weighted_wasserstein(real[:, d], synthetic[:, d], weights) for d in features], axis=1)
