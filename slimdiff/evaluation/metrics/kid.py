"""KID on feature vectors."""

import numpy as np
import torch

from slimdiff.evaluation.metrics.mmd import MmdEstimate, subset_mmd2


def kid(
    real_features: np.ndarray,
    synthetic_features: np.ndarray,
    seed: int,
    subsets: int = 100,
    subset_size: int | None = None,
    device: str | torch.device = "cpu",
) -> MmdEstimate:
    """Kernel distance between real and synthetic features (Binkowski et al. 2018).

    The rows are sorted first along a fixed direction. Subsets are drawn by row, so without sorting the result would
    depend on the order of the slices. For sorted float64 features the result equals torch-fidelity's
    `kid_features_to_metric` with the same seed, subsets and size. Always report the extractor: published KIDs use
    `inception`.

    Args:
        real_features, synthetic_features: (N, D) and (M, D), from `features.extract`.
        seed: seed of the subsets.
        subsets: number of subsets.
        subset_size: vectors per set in a subset; None: min(500, N, M).
        device: where kernels are computed.

    Returns:
        Mean and sd over subsets; NaN with fewer than 10 slices in either set.
    """
    real, synthetic = (in_fixed_order(features) for features in (real_features, synthetic_features))
    return subset_mmd2(real, synthetic, seed, subsets, subset_size, device)


def in_fixed_order(features: np.ndarray) -> np.ndarray:
    """Rows (N, D) sorted along a fixed direction, so that the result does not depend on their order."""
    # A single feature may have ties between slices; a random direction separates all rows that differ.
    direction = np.random.default_rng(0).standard_normal(features.shape[1])
    return features[np.argsort(features.astype(np.float64) @ direction, kind="stable")]
