"""Where lesions lie in the brain: left or right, and how far two clouds of their centroids are apart."""

from functools import partial

import numpy as np
import torch

from slimdiff.evaluation import mmd
from slimdiff.evaluation.histogram import BRAIN_THRESHOLD
from slimdiff.evaluation.ranges import store_precision


def brain_middles(images: np.ndarray, threshold: float = BRAIN_THRESHOLD) -> np.ndarray:
    """Middle of the brain's bounding box in each slice; the image's own middle where there is no brain.

    Args:
        images: (N, H, W) float, in [-1, 1]; rows from anterior to posterior, columns from left to right.
        threshold: brain is what lies above, in units of the image.

    Returns:
        (N, 2) float64, row and column, px.
    """
    middles = []
    for axis in (2, 1):
        extent = np.stack([(store_precision(i[None])[0] > threshold).any(axis=axis - 1) for i in images])
        first, last = extent.argmax(axis=1), extent.shape[1] - 1 - extent[:, ::-1].argmax(axis=1)
        middles.append((first + last) / 2)
    return np.stack(middles, axis=1)


def positions(centroids: np.ndarray, slices: np.ndarray, images: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Centroids from the middle of their slice's brain.

    Args:
        centroids: (M, 2) row and column, px, from `morphology.components_of`.
        slices: (M,) the slice of each.
        images: (N, H, W) the slices.
        spacing_mm: size of a pixel.

    Returns:
        (M, 2) float64, mm: x to the right, y to the back.
    """
    used, index = np.unique(slices, return_inverse=True)
    if not len(used):
        return np.empty((0, 2))
    offsets = centroids - brain_middles(images[used])[index]
    return offsets[:, ::-1] * spacing_mm


def _minus_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


_SUMS = partial(mmd.group_sums, _minus_distance)


def energy_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013), unbiased: around 0 for equal distributions.

    It is the squared MMD of the kernel -|x - y|, has no bandwidth to choose, and is 0 only where the distributions
    are equal.

    Args:
        real, synthetic: (N, 2) and (M, 2) positions, mm.

    Returns:
        The distance in mm; NaN below 10 positions in either set.
    """
    everybody = np.zeros(len(real), np.int64)
    return float(resampled_energy_distance(real, synthetic, everybody, np.ones((1, 1)))[0])


def resampled_energy_distance(
    real: np.ndarray, synthetic: np.ndarray, subjects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """The energy distance when subjects, with all their real positions, are drawn with replacement.

    Args:
        real, synthetic: (N, 2) and (M, 2) positions, mm.
        subjects: (N,) index of each real position's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) mm; NaN below 10 positions in either set.
    """
    return mmd.resampled_by_subject(_SUMS, *mmd.on_device("cpu", real, synthetic), subjects, counts)


def left_share(positions_mm: np.ndarray) -> float:
    """Share of lesions whose centroid lies left of the brain's middle; NaN without a lesion.

    Args:
        positions_mm: (M, 2), from `positions`.
    """
    return float((positions_mm[:, 0] < 0).mean()) if len(positions_mm) else float("nan")
