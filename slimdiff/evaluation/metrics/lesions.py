"""Lesions of a set of slices: binary masks, shapes, areas and positions, and the metrics computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from skimage.measure import label

from slimdiff.evaluation.metrics import mmd, robust_mmd
from slimdiff.evaluation.metrics.binary_masks import (
    binary_components,
    has_lesion,
)
from slimdiff.evaluation.metrics.components import FEATURES, Components, stack_blocks
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD
from slimdiff.evaluation.metrics.wasserstein import feature_wasserstein
from slimdiff.evaluation.statistics.bootstrap import resampled_quantile
from slimdiff.stored_rows import ChosenRows, Rows


def undecided_shares(masks: np.ndarray | Rows) -> np.ndarray:
    """Share of the pixels of each continuous mask in (-0.5, 0.5), where the model did not decide.

    Args:
        masks: (N, H, W) float, in [-1, 1].

    Returns:
        (N,) shares.
    """
    shares = [
        (np.abs(store_precision(masks[block])) < 0.5).mean(axis=(1, 2)) for block in stack_blocks(masks.shape)
    ]
    return np.concatenate(shares) if shares else np.empty(0)


def components(mask: np.ndarray, min_px: int = 5) -> list[np.ndarray]:
    """4-connected components of an (H, W) bool mask with at least `min_px` pixels, each as an (H, W) bool mask."""
    labels = label(mask, connectivity=1)
    sizes = np.bincount(labels.ravel())
    return [labels == i for i in range(1, len(sizes)) if sizes[i] >= min_px]


def component_features(
    masks: np.ndarray, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Shape of every lesion component.

    The perimeter is that of scikit-image. Circularity = 4 pi area / perimeter^2, at most 1; 0 if the perimeter is 0.

    Args:
        masks: (N, H, W), see `binarise`.
        tau: threshold of continuous masks.
        min_px: components with fewer pixels are left out.
        min_slice_px: slices with fewer lesion pixels are left out. Use the value of the slice store, so that the
            same rule applies to real and synthetic slices.

    Returns:
        (M, 9) float64, columns as `FEATURES`, lengths in px and areas in px^2; and (M,) the slice of each component.
    """
    found = binary_components(masks, tau, min_px, min_slice_px)
    return found.features, found.slices


@dataclass(frozen=True)
class FeatureDistance:
    """Distance between two tables of component features: cubic MMDs, and Wasserstein-1 of each feature."""

    mmd: float
    mmd_clipped: float  # of robust z-scores, see `mmd.clipped_scores`
    w1: dict[str, float]  # in real standard deviations
    w1_geometric_mean: float


def feature_distance(real: np.ndarray, synthetic: np.ndarray, names: tuple[str, ...]) -> FeatureDistance:
    """Unbiased MMD of features z-scored on all real rows, and Wasserstein-1 of each.

    Args:
        real, synthetic: (N, D) and (M, D) component features in their own units.
        names: names of the D features.

    Returns:
        The distances. The MMD is NaN with fewer than 10 components in either set, Wasserstein-1 if a set is empty.
        The result does not depend on the order of rows, not even in its last bit.
    """
    real, synthetic = (table[np.lexsort(table.T)] for table in (real, synthetic))
    mmd2 = mmd.complete_mmd2(*mmd.standardise(real, synthetic))
    each, geometric_mean = feature_wasserstein(real, synthetic)
    clipped = mmd.complete_mmd2(*mmd.clipped_scores(real, synthetic))
    return FeatureDistance(mmd2, clipped, dict(zip(names, each.tolist(), strict=True)), geometric_mean)


def mmd_mf(real: np.ndarray, synthetic: np.ndarray) -> FeatureDistance:
    """MMD-MF: distance between the lesion shapes of two tables from `component_features`."""
    return feature_distance(real, synthetic, FEATURES)


@dataclass(frozen=True)
class Lesions:
    """Lesion components with their shapes, and one vector per lesion slice."""

    components: Components
    vectors: np.ndarray
    """(L, 8), columns as `robust_mmd.COLUMNS`."""
    slices: np.ndarray
    """(L,) slice of each vector."""

    @property
    def shapes(self) -> np.ndarray:
        """(M, 9), columns as `components.FEATURES`."""
        return self.components.features


def lesions_of(
    lesion_masks: np.ndarray | Rows, z: np.ndarray, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0
) -> Lesions:
    """The lesions of slices at known heights.

    Args:
        lesion_masks: (N, H, W), see `binarise`.
        z: (N,) height of each slice, see `robust_mmd.slice_vectors`.
        tau: threshold of continuous masks.
        min_px, min_slice_px: see `component_features`.
    """
    found = binary_components(lesion_masks, tau, min_px, min_slice_px)
    return Lesions(found, *robust_mmd.slice_vectors(found, z))


def tau_sweep(
    real: Lesions,
    synthetic_masks: np.ndarray | Rows,
    z: np.ndarray,
    taus: Sequence[float],
    min_px: int = 5,
    min_slice_px: int = 0,
) -> list[dict[str, float]]:
    """The mask metrics for every threshold of the synthetic masks; real masks are binary.

    Args:
        real: lesions of held-out slices.
        synthetic_masks: (M, H, W) continuous, in [-1, 1].
        z: (M,) height of each synthetic slice.
        taus: thresholds.
        min_px, min_slice_px: see `component_features`.

    Returns:
        One row per tau: tau, n_slices and n_components (number of synthetic lesion slices and components), mmd_mf,
        mmd_mf_w1 (geometric mean), mmd_robust.
    """
    rows = []
    for tau in taus:
        drawn = lesions_of(synthetic_masks, z, tau, min_px, min_slice_px)
        distance = mmd_mf(real.shapes, drawn.shapes)
        rows.append(
            {
                "tau": tau,
                "n_slices": len(drawn.vectors),
                "n_components": len(drawn.shapes),
                "mmd_mf": distance.mmd,
                "mmd_mf_w1": distance.w1_geometric_mean,
                "mmd_robust": robust_mmd.robust_mmd(real.vectors, drawn.vectors, 0, seed=0).value,
            }
        )
    return rows


def area_gap(
    real_areas: np.ndarray, real_bins: np.ndarray, synthetic_areas: np.ndarray, synthetic_bins: np.ndarray
) -> float:
    """Mean over z-bins of log2 (median synthetic area / median real area), weighted by the real lesion slices.

    Medians are compared per z-bin, because real and synthetic lesions have different distributions of height. Without
    weights one slice in a rare z-bin would count as much as fifty in another. Only z-bins with lesions in both sets are
    used.

    Args:
        real_areas, synthetic_areas: (N,) and (M,) lesion area of each lesion slice, px.
        real_bins, synthetic_bins: (N,) and (M,) z-bin of each lesion slice.

    Returns:
        0 for equal sizes, 1 if synthetic lesions are twice as large; NaN without a common z-bin.
    """
    one_subject = np.zeros(len(real_areas), np.int64)
    return float(
        resampled_area_gap(
            real_areas, real_bins, synthetic_areas, synthetic_bins, one_subject, np.ones((1, 1))
        )[0]
    )


def resampled_area_gap(
    real_areas: np.ndarray,
    real_bins: np.ndarray,
    synthetic_areas: np.ndarray,
    synthetic_bins: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """`area_gap` for every resampling of the subjects, each with all its real slices.

    Args:
        subjects: (N,) index of each real slice's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) gaps. A z-bin without a lesion in a resampling has weight 0 there; NaN if a resampling has no lesion.
    """
    counts = np.asarray(counts)
    total, weights = np.zeros(len(counts)), np.zeros(len(counts))
    for z_bin in np.intersect1d(real_bins, synthetic_bins):
        own = real_bins == z_bin
        weight = counts @ np.bincount(subjects[own], minlength=counts.shape[1])
        real = resampled_quantile(real_areas[own], subjects[own], counts, 0.5)
        gap = np.log2(np.median(synthetic_areas[synthetic_bins == z_bin]) / real)
        total += np.where(weight > 0, weight * gap, 0)
        weights += weight
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, total, np.nan) / np.where(weights > 0, weights, 1)


@dataclass(frozen=True)
class ClassFidelity:
    """Shares of slices that agree with their class; NaN if a class has no slice."""

    lesion_share: float  # share of class-1 slices with a component
    clean_share: float  # share of class-0 slices without a component
    n_lesion: int
    n_clean: int


def class_fidelity(
    masks: np.ndarray, classes: np.ndarray, tau: float = 0.0, min_px: int = 5
) -> ClassFidelity:
    """How often a mask agrees with the requested class.

    Args:
        masks: (N, H, W), see `binarise`.
        classes: (N,) 0 = no lesion, 1 = lesion.
        tau: threshold of continuous masks.
        min_px: smallest component that counts as a lesion.

    Raises:
        ValueError: a class other than 0 and 1, or different numbers of classes and masks.
    """
    classes = np.asarray(classes)
    if len(classes) != len(masks) or not np.isin(classes, (0, 1)).all():
        raise ValueError(
            f"expected {len(masks)} classes of 0 or 1, one per mask, found {len(classes)} with values "
            f"{np.unique(classes).tolist()}"
        )
    lesion = has_lesion(masks, tau, min_px)
    lesion_class, clean = lesion[classes == 1], ~lesion[classes == 0]
    return ClassFidelity(_mean(lesion_class), _mean(clean), len(lesion_class), len(clean))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def brain_middles(images: np.ndarray | Rows, threshold: float = BRAIN_THRESHOLD) -> np.ndarray:
    """Centre of the bounding box of the brain in each slice; the centre of the image if there is no brain.

    Args:
        images: (N, H, W) float, in [-1, 1]; rows from anterior to posterior, columns from left to right.
        threshold: pixels above it are brain, in units of the image.

    Returns:
        (N, 2) float64, row and column, px.
    """
    extents: tuple[list, list] = ([], [])
    for block in stack_blocks(images.shape):
        brain = store_precision(images[block]) > threshold
        for extent, axis in zip(extents, (2, 1), strict=True):
            extent.append(brain.any(axis=axis))
    middles = []
    for extent in map(np.concatenate, extents):
        first, last = extent.argmax(axis=1), extent.shape[1] - 1 - extent[:, ::-1].argmax(axis=1)
        middles.append((first + last) / 2)
    return np.stack(middles, axis=1)


def positions(
    centroids: np.ndarray, slices: np.ndarray, images: np.ndarray | Rows, spacing_mm: float
) -> np.ndarray:
    """Positions of centroids relative to the centre of the brain in their slice.

    Args:
        centroids: (M, 2) row and column, px, from `components.components_of`.
        slices: (M,) slice of each centroid.
        images: (N, H, W) the slices.
        spacing_mm: size of a pixel.

    Returns:
        (M, 2) float64, mm: x to the right, y to the back.
    """
    used, index = np.unique(slices, return_inverse=True)
    if not len(used):
        return np.empty((0, 2))
    offsets = centroids - brain_middles(ChosenRows(images, used))[index]
    return offsets[:, ::-1] * spacing_mm


def _minus_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


_SUMS = partial(mmd.group_sums, _minus_distance)


def energy_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013), unbiased: around 0 for equal distributions.

    It is the squared MMD of the kernel -|x - y|. It needs no bandwidth, and its expectation is 0 only for equal
    distributions.

    Args:
        real, synthetic: (N, 2) and (M, 2) positions, mm.

    Returns:
        The distance in mm; NaN with fewer than 10 positions in either set.
    """
    one_subject = np.zeros(len(real), np.int64)
    return float(resampled_energy_distance(real, synthetic, one_subject, np.ones((1, 1)))[0])


def resampled_energy_distance(
    real: np.ndarray, synthetic: np.ndarray, subjects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """The energy distance for every resampling of the subjects, each with all its real positions.

    At most `mmd.LARGEST_SYNTHETIC` synthetic positions are used.

    Args:
        real, synthetic: (N, 2) and (M, 2) positions, mm.
        subjects: (N,) index of each real position's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) mm; NaN with fewer than 10 positions in either set.
    """
    x, y = mmd.on_device("cpu", real, mmd.at_most(synthetic))
    return mmd.resampled_by_subject(_SUMS, x, y, subjects, counts)


def left_share(positions_mm: np.ndarray) -> float:
    """Share of lesions whose centroid is left of the centre of the brain; NaN without a lesion.

    Args:
        positions_mm: (M, 2), from `positions`.
    """
    return float((positions_mm[:, 0] < 0).mean()) if len(positions_mm) else float("nan")
