"""KID on feature vectors, and the pairs of slices that LPIPS is averaged over."""

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

    The rows are sorted first (along a fixed direction), because subsets are drawn by row: the order of the slices
    changes nothing. Of sorted float64 features it is equal to torch-fidelity's `kid_features_to_metric` with the same
    seed, subsets and size. Print the extractor beside it: only with `inception` is this *the* KID.

    Args:
        real_features, synthetic_features: (N, D) and (M, D), from `features.extract`.
        seed: of the subsets.
        subsets, subset_size: how many and how large; None: min(500, N, M).
        device: where kernels are computed.

    Returns:
        Mean and sd over subsets; NaN below 10 slices.
    """
    real, synthetic = (in_fixed_order(features) for features in (real_features, synthetic_features))
    return subset_mmd2(real, synthetic, seed, subsets, subset_size, device)


def in_fixed_order(features: np.ndarray) -> np.ndarray:
    """Rows (N, D) sorted along a fixed direction, whatever their order was."""
    # A single feature may be the same in many slices; a random direction tells all that differ apart.
    direction = np.random.default_rng(0).standard_normal(features.shape[1])
    return features[np.argsort(features.astype(np.float64) @ direction, kind="stable")]
