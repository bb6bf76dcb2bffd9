"""Lesion masks: from continuous channels to components, their shapes, and how two sets of shapes differ."""

from dataclasses import dataclass

import numpy as np
from skimage.measure import label

from slimdiff.evaluation.kernels import MmdEstimate, feature_wasserstein, standardise, subset_mmd2
from slimdiff.evaluation.morphology import FEATURES, blocks, components_of
from slimdiff.evaluation.ranges import store_precision


def binarise(masks: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """Lesion where a continuous mask lies above tau; masks that are binary already are taken as they are.

    Args:
        masks: (N, H, W); float in [-1, 1], or bool or integer {0, 1}.
        tau: threshold, in (-1, 1).

    Returns:
        (N, H, W) bool; of bool masks and of integers of one byte not a copy.

    Raises:
        ValueError: integers other than 0 and 1, floats outside [-1, 1] or not finite, or floats that are all
            0 or 1: a binary mask stored as float would be lesion everywhere for tau < 0.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}, (N, H, W) is wanted")
    if masks.dtype == bool:
        return masks
    if not np.issubdtype(masks.dtype, np.floating):
        if masks.size and (masks.min() < 0 or masks.max() > 1):
            raise ValueError(
                f"{masks.dtype} masks hold other values than 0 and 1, from {masks.min()} to {masks.max()}"
            )
        return masks.view(bool) if masks.dtype.itemsize == 1 else masks.astype(bool)
    binary = np.empty(masks.shape, bool)
    zero_or_one, zero = True, False
    for block in blocks(masks.shape):
        part = store_precision(masks[block])
        np.greater(part, np.float32(tau), out=binary[block])
        zero_or_one = zero_or_one and bool(((part == 0) | (part == 1)).all())
        zero = zero or (zero_or_one and bool((part == 0).any()))
    if zero_or_one and zero:
        raise ValueError("masks hold 0 and 1 only but are floats; pass binary masks as bool or uint8")
    return binary


def undecided_shares(masks: np.ndarray) -> np.ndarray:
    """Share of each continuous mask's pixels in (-0.5, 0.5), where nothing was decided.

    masks: (N, H, W) float, in [-1, 1]; returns (N,).
    """
    shares = [
        (np.abs(store_precision(masks[block])) < 0.5).mean(axis=(1, 2)) for block in blocks(masks.shape)
    ]
    return np.concatenate(shares) if shares else np.empty(0)


def components(mask: np.ndarray, min_px: int = 5) -> list[np.ndarray]:
    """4-connected components of an (H, W) bool mask with at least `min_px` pixels, as (H, W) bool each."""
    labels = label(mask, connectivity=1)
    sizes = np.bincount(labels.ravel())
    return [labels == i for i in range(1, len(sizes)) if sizes[i] >= min_px]


def component_features(
    masks: np.ndarray, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Shape of every lesion component.

    Perimeter is scikit-image's; circularity = 4 pi area / perimeter^2, at most 1, and 0 where the perimeter
    is 0.

    Args:
        masks: (N, H, W), see `binarise`.
        tau: threshold of continuous masks.
        min_px: components with fewer pixels are left out.
        min_slice_px: slices with fewer lesion pixels are left out; give the rule that filled the slice
            store, so that real and synthetic slices pass the same one.

    Returns:
        (M, 9) float64, columns as `FEATURES`, lengths in px and areas in px^2; and (M,) the slice of each
        component.
    """
    found = components_of(binarise(masks, tau), min_px, min_slice_px)
    return found.features, found.slices


@dataclass(frozen=True)
class FeatureDistance:
    """How two tables of component features differ: the cubic MMD, and Wasserstein-1 by feature."""

    mmd: MmdEstimate
    w1: dict[str, float]  # in real standard deviations
    w1_geometric_mean: float


def feature_distance(
    real: np.ndarray, synthetic: np.ndarray, names: tuple[str, ...], seed: int, subsets: int = 100
) -> FeatureDistance:
    """Subset-averaged MMD of features z-scored on all real rows, and Wasserstein-1 of each.

    Args:
        real, synthetic: (N, D) and (M, D) component features in their own units.
        names: of the D features.
        seed, subsets: see `kernels.subset_mmd2`.

    Returns:
        The MMD is NaN below 10 components in either set; Wasserstein-1 where either has none. The order of rows
        does not matter to a bit, though subsets are drawn by row.
    """
    real, synthetic = (table[np.lexsort(table.T)] for table in (real, synthetic))
    mmd = subset_mmd2(*standardise(real, synthetic), seed=seed, subsets=subsets)
    each, geometric_mean = feature_wasserstein(real, synthetic)
    return FeatureDistance(mmd, dict(zip(names, each.tolist(), strict=True)), geometric_mean)


def mmd_mf(real: np.ndarray, synthetic: np.ndarray, seed: int, subsets: int = 100) -> FeatureDistance:
    """MMD-MF: distance between the lesion shapes of two tables from `component_features`."""
    return feature_distance(real, synthetic, FEATURES, seed, subsets)
