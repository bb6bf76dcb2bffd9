"""Distances between two sets of feature vectors: the cubic polynomial MMD and the Wasserstein-1 distance.

Binkowski et al. 2018 (KID, subset averaging), Gretton et al. 2012 (the unbiased estimate). Seeded: on one machine the
same features and seed give the same bits. Needs torch and numpy only.
"""

import numpy as np

from slimdiff.evaluation.metrics.mmd import (
    _RESAMPLINGS,
    check_subjects,
    standardise,
)


def wasserstein(u: np.ndarray, v: np.ndarray) -> float:
    """Wasserstein-1 distance between two samples of numbers: the area between their distribution functions.

    NaN where either is empty.
    """
    weights = np.ones((1, len(u)))
    return float(_weighted_wasserstein(np.asarray(u, np.float64), np.asarray(v, np.float64), weights)[0])


def _weighted_wasserstein(u: np.ndarray, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Wasserstein-1 between u (N,) under each of weights (B, N) and v (M,): (B,), NaN where nothing has weight."""
    if not len(u) or not len(v):
        return np.full(len(weights), np.nan)
    order = np.argsort(u, kind="stable")
    u, v = u[order], np.sort(v)
    both = np.sort(np.concatenate([u, v]))
    widths, below_v = np.diff(both), np.searchsorted(v, both[:-1], side="right") / len(v)
    # the distribution function of u has one value between two of its numbers, whatever lies of v in between
    behind = np.searchsorted(u, both[:-1], side="right")
    distances = np.empty(len(weights))
    for start in range(0, len(weights), _RESAMPLINGS):
        rows = slice(start, start + _RESAMPLINGS)
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
        (D,) distances in real standard deviations, and exp(mean(log)); NaN where either set is empty.
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
        real, synthetic: (N, D) and (M, D) features in their own units; z-scored by all real vectors, whatever a
            resampling drew.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B, D) distances in real standard deviations; NaN where a set is empty or a resampling drew no vector.

    Raises:
        ValueError: subjects that do not fit.
    """
    check_subjects(real, subjects, counts)
    real, synthetic = standardise(real, synthetic)
    weights = np.asarray(counts)[:, subjects]
    features = range(real.shape[1])
    return np.stack([_weighted_wasserstein(real[:, d], synthetic[:, d], weights) for d in features], axis=1)
