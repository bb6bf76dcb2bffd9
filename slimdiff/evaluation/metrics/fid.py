"""The Frechet distance between two sets of features, and its resampling over subjects."""

import numpy as np

from slimdiff.evaluation.metrics.mmd import MIN_VECTORS


def fid(real_features: np.ndarray, synthetic_features: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to both sets of features (Heusel et al. 2017).

    Tr (S1 S2)^1/2 is the sum of the singular values of A B', where S1 = A'A and S2 = B'B. This is exact and fast
    for fewer slices than features, when the covariance matrices are singular. FID is biased upwards for small
    sets, so compare it only between sets of equal size.

    Args:
        real_features, synthetic_features: (N, D) and (M, D).

    Returns:
        The distance, at least 0; NaN with fewer than 10 slices in either set.
    """
    if min(len(real_features), len(synthetic_features)) < MIN_VECTORS:
        return float("nan")
    (mean_real, real), (mean_synthetic, synthetic) = map(_fitted, (real_features, synthetic_features))
    trace_of_root = np.linalg.svd(real @ synthetic.T, compute_uv=False).sum()
    traces = float(np.sum(real**2) + np.sum(synthetic**2))
    return max(float(np.sum((mean_real - mean_synthetic) ** 2)) + traces - 2 * float(trace_of_root), 0.0)


def _fitted(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,), and A (at most D, D) with A'A the covariance (ddof 1)."""
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    return mean, np.linalg.qr(root, mode="r") if len(root) > root.shape[1] else root


def resampled_fid(
    real: np.ndarray, synthetic: np.ndarray, subjects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """FID for every resampling of the subjects, each with all its real vectors.

    Args:
        real, synthetic: (N, D) and (M, D) features.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) float64; NaN with fewer than 10 slices in either set. All values are biased upwards, because a
        resampling has fewer distinct slices than the full set.
    """
    if min(len(real), len(synthetic)) < MIN_VECTORS:
        return np.full(len(counts), np.nan)
    mean_synthetic, root = _fitted(synthetic)
    real = np.asarray(real, np.float64)
    seen = real @ root.T  # (N, r): the part of the real vectors that the trace depends on
    squared = np.sum((real - mean_synthetic) ** 2, axis=1)
    trace_synthetic = np.sum(root**2)
    values = np.full(len(counts), np.nan)
    for b, weight in enumerate(np.asarray(counts)[:, subjects]):
        total = weight.sum()
        if total < 2:
            continue
        rows = np.flatnonzero(weight)
        share = weight[rows] / total
        offset = np.sum((share @ real[rows] - mean_synthetic) ** 2)
        # sum w |x - mean|^2 = sum w |x - m|^2 - |mean - m|^2 for any m
        trace_real = (share @ squared[rows] - offset) * total / (total - 1)
        centred = (seen[rows] - share @ seen[rows]) * np.sqrt(weight[rows] / (total - 1))[:, None]
        small = centred @ centred.T if len(rows) < centred.shape[1] else centred.T @ centred
        singular = np.sqrt(np.maximum(np.linalg.eigvalsh(small), 0)).sum()
        values[b] = max(offset + trace_real + trace_synthetic - 2 * singular, 0.0)
    return values
