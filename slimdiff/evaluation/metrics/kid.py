"""KID on feature vectors: the unbiased squared MMD of the cubic kernel, averaged over seeded subsets."""

from dataclasses import dataclass

import numpy as np
import torch

from slimdiff.evaluation.metrics.mmd import (
    LARGEST_EXPLICIT,
    MIN_VECTORS,
    check_sets,
    cubic_sums,
    on_device,
    unbiased_mmd2,
)
from slimdiff.stored_rows import ChosenRows, Rows, blocks_of

SUBSETS = 100
"""Number of seeded subsets, as in torch-fidelity."""
_SORTED = 2**22  # values in memory
LARGEST_SUBSET = 500
"""Vectors per set in a subset, unless a set has fewer."""


@dataclass(frozen=True)
class MmdEstimate:
    """A squared MMD as the mean over seeded subsets."""

    value: float
    sd: float  # over subsets (ddof 0), as torch-fidelity reports it; not an interval over subjects
    n_real: int
    n_synthetic: int
    subset_size: int


def kid(
    real_features: np.ndarray | Rows,
    synthetic_features: np.ndarray | Rows,
    seed: int,
    subsets: int = SUBSETS,
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


def in_fixed_order(features: np.ndarray | Rows) -> ChosenRows:
    """Rows (N, D) sorted along a fixed direction, so that the result does not depend on their order."""
    # A single feature may have ties between slices; a random direction separates all rows that differ.
    direction = np.random.default_rng(0).standard_normal(features.shape[1])
    along = [features[block].astype(np.float64) @ direction for block in blocks_of(features, _SORTED)]
    return ChosenRows(features, np.argsort(np.concatenate(along), kind="stable"))


def subset_mmd2(
    real: np.ndarray | Rows,
    synthetic: np.ndarray | Rows,
    seed: int,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
    device: str | torch.device = "cpu",
) -> MmdEstimate:
    """Unbiased squared MMD, averaged over random subsets of equal size drawn without replacement.

    The subsets are those of torch-fidelity (real set first), so the KID of the same float64 features and seed is
    equal. If all features are float32, kernels are computed in float32 and summed in float64. For network features
    this changes the result by less than 1e-8 of the mean kernel, which is less than 1e-5 of a KID that differs from 0.

    Args:
        real, synthetic: (N, D) and (M, D) features.
        seed: seed of the subsets.
        subsets: number of subsets.
        subset_size: vectors per set in a subset; None: min(500, N, M).
        device: where kernels are computed.

    Returns:
        The mean and sd over subsets; both NaN if either set has fewer than 10 vectors.

    Raises:
        ValueError: mismatched shapes, values that are not finite, or a subset larger than a set.
    """
    check_sets(real, synthetic)
    n_real, n_synthetic = len(real), len(synthetic)
    size = min(LARGEST_SUBSET, n_real, n_synthetic) if subset_size is None else subset_size
    if min(n_real, n_synthetic) < MIN_VECTORS:
        return MmdEstimate(np.nan, np.nan, n_real, n_synthetic, size)
    if not 2 <= size <= min(n_real, n_synthetic):
        raise ValueError(
            f"expected subset_size from 2 to {min(n_real, n_synthetic)} ({n_real} real, {n_synthetic} synthetic "
            f"vectors), found {size}"
        )
    generator = np.random.RandomState(seed)
    of_real, of_synthetic = np.empty((2, subsets, size), np.int64)
    for subset in range(subsets):
        of_real[subset] = generator.choice(n_real, size, replace=False)
        of_synthetic[subset] = generator.choice(n_synthetic, size, replace=False)
    # Compute the full kernel once for all subsets, or one kernel per subset, whichever needs fewer multiplications.
    dim, entries = real.shape[1], (n_real + n_synthetic) ** 2 / 2
    if dim <= LARGEST_EXPLICIT or entries * (dim + subsets) < subsets * 2 * size**2 * dim:
        x, y = on_device(device, real, synthetic)
        parts = [(x, _indicators(of_real, n_real), y, _indicators(of_synthetic, n_synthetic))]
    else:
        everything = np.ones((1, size))
        pairs = zip(of_real, of_synthetic, strict=True)
        both = (on_device(device, real[rows], synthetic[columns]) for rows, columns in pairs)
        parts = ((x, everything, y, everything) for x, y in both)
    sums_of = cubic_sums(dim)
    sums: list[list[np.ndarray]] = [[], [], []]
    for vectors, groups, others, other_groups in parts:
        sums[0].append(sums_of(vectors, groups, paired=True))
        sums[1].append(sums_of(others, other_groups, paired=True))
        sums[2].append(sums_of(vectors, groups, others, other_groups, paired=True))
    values = unbiased_mmd2(*(np.concatenate(part) for part in sums), size, size)
    return MmdEstimate(float(values.mean()), float(values.std()), n_real, n_synthetic, size)


def _indicators(drawn: np.ndarray, n: int) -> np.ndarray:
    """0/1 membership (subsets, n) from the drawn indices (subsets, size)."""
    rows = np.zeros((len(drawn), n))
    np.put_along_axis(rows, drawn, 1, axis=1)
    return rows
