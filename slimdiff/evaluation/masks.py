"""Lesion masks: from continuous channels to components, their shapes, and how two sets of shapes differ."""

import warnings
from dataclasses import dataclass

import numpy as np
from skimage.measure import label, regionprops

from slimdiff.evaluation.kernels import MmdEstimate, feature_wasserstein, standardise, subset_mmd2
from slimdiff.evaluation.ranges import store_precision

FEATURES = (
    "area",
    "perimeter",
    "circularity",
    "solidity",
    "extent",
    "eccentricity",
    "major_axis",
    "minor_axis",
    "equivalent_diameter",
)
TAUS = (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)


def binarise(masks: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """Lesion where a continuous mask lies above tau; masks that are binary already are taken as they are.

    Args:
        masks: (N, H, W); float in [-1, 1], or bool or integer {0, 1}.
        tau: threshold, in (-1, 1).

    Returns:
        (N, H, W) bool.

    Raises:
        ValueError: integers other than 0 and 1, floats outside [-1, 1] or not finite, or floats that are all
            0 or 1: a binary mask stored as float would be lesion everywhere for tau < 0.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {masks.shape}, (N, H, W) is wanted")
    if not np.issubdtype(masks.dtype, np.floating):
        if masks.size and not np.isin(masks, (0, 1)).all():
            raise ValueError(f"{masks.dtype} masks hold other values than 0 and 1, up to {masks.max()}")
        return masks.astype(bool)
    masks = store_precision(masks)
    if masks.size and (masks == 0).any() and np.isin(masks, (0, 1)).all():
        raise ValueError("masks hold 0 and 1 only but are floats; pass binary masks as bool or uint8")
    return masks > np.float32(tau)


def undecided_share(masks: np.ndarray) -> float:
    """Share of continuous masks' pixels in (-0.5, 0.5), where nothing was decided; masks (N, H, W) float."""
    return float(np.mean(np.abs(store_precision(masks)) < 0.5))


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
    rows, slices = [], []
    for i, mask in enumerate(binarise(masks, tau)):
        if not mask.any() or mask.sum() < min_slice_px:
            continue
        for region in regionprops(label(mask, connectivity=1)):
            if region.area >= min_px:
                rows.append(_shape(region))
                slices.append(i)
    return np.array(rows, np.float64).reshape(-1, len(FEATURES)), np.array(slices, np.int64)


def _shape(region) -> tuple[float, ...]:
    perimeter = region.perimeter
    circularity = min(4 * np.pi * region.area / perimeter**2, 1.0) if perimeter > 0 else 0.0
    with warnings.catch_warnings():
        # a component of one row has no convex hull for qhull, and scikit-image says so; its solidity is 1
        warnings.simplefilter("ignore", UserWarning)
        area_convex = region.area_convex
    return (
        region.area,
        perimeter,
        circularity,
        region.area / area_convex if area_convex > 0 else 1.0,
        region.extent,
        region.eccentricity,
        region.axis_major_length,
        region.axis_minor_length,
        region.equivalent_diameter_area,
    )


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
        The MMD is NaN below 10 components in either set; Wasserstein-1 where either has none.
    """
    mmd = subset_mmd2(*standardise(real, synthetic), seed=seed, subsets=subsets)
    each, geometric_mean = feature_wasserstein(real, synthetic)
    return FeatureDistance(mmd, dict(zip(names, each.tolist(), strict=True)), geometric_mean)


def mmd_mf(real: np.ndarray, synthetic: np.ndarray, seed: int, subsets: int = 100) -> FeatureDistance:
    """MMD-MF: distance between the lesion shapes of two tables from `component_features`."""
    return feature_distance(real, synthetic, FEATURES, seed, subsets)


def tau_sweep(
    real: np.ndarray,
    synthetic: np.ndarray,
    seed: int,
    taus: tuple[float, ...] = TAUS,
    min_px: int = 5,
    min_slice_px: int = 0,
    subsets: int = 100,
) -> list[dict[str, float]]:
    """The mask metrics for every threshold of the synthetic masks.

    Args:
        real, synthetic: (N, H, W) and (M, H, W), see `binarise`; binary real masks do not change with tau.
        seed, subsets: see `kernels.subset_mmd2`.
        taus: thresholds.
        min_px, min_slice_px: see `component_features`.

    Returns:
        A row per tau: tau, n_components (synthetic), mmd_mf, w1 (geometric mean).
    """
    rows = []
    for tau in taus:
        real_table, _ = component_features(real, tau, min_px, min_slice_px)
        table, _ = component_features(synthetic, tau, min_px, min_slice_px)
        distance = mmd_mf(real_table, table, seed, subsets)
        rows.append(
            {
                "tau": tau,
                "n_components": len(table),
                "mmd_mf": distance.mmd.value,
                "w1": distance.w1_geometric_mean,
            }
        )
    return rows
