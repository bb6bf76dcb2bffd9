"""The outline of the brain: its area, solidity and left-right symmetry, and whether they are as in real slices."""

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops

from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD
from slimdiff.stored_rows import Rows, blocks_of

OUTLINE_FEATURES = ("area", "solidity", "symmetry")
RANGE = (0.01, 0.99)
"""Quantiles of the real slices between which a feature is in the real range."""
_BLOCK_PX = 2**21  # pixels in memory
MIN_REAL = 10
"""Fewest real slices of a z-bin that give a range."""


def outlines(images: np.ndarray | Rows) -> np.ndarray:
    """The outline of each slice: OUTLINE_FEATURES of its largest bright component, holes filled.

    Area in px; solidity, the share of its convex hull that it fills; symmetry, the Dice coefficient with its mirror
    image about the column of the centroid. A slice without brain has zeros.

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, 3) float64.

    Raises:
        TypeError, ValueError: as `store_precision`.
    """
    found = [
        _outline(one)
        for block in blocks_of(images, _BLOCK_PX)
        for one in store_precision(images[block]) > BRAIN_THRESHOLD
    ]
    return np.array(found).reshape(-1, len(OUTLINE_FEATURES))


def bright_brain(bright: np.ndarray) -> np.ndarray:
    """The largest component of bright pixels (H, W), holes filled; bool (H, W)."""
    components = label(bright, connectivity=1)
    if not components.any():
        return np.zeros(bright.shape, bool)
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(components == largest)


def _outline(bright: np.ndarray) -> tuple[float, float, float]:
    brain = bright_brain(bright)
    if not brain.any():
        return 0.0, 0.0, 0.0
    rows, columns = np.nonzero(brain)
    # The mirror image of column c is 2 x centroid - c, to the nearest column.
    mirrored = np.rint(2 * columns.mean()).astype(int) - columns
    inside = (mirrored >= 0) & (mirrored < brain.shape[1])
    symmetry = brain[rows[inside], mirrored[inside]].sum() / len(rows)
    return float(len(rows)), regionprops(brain.astype(np.uint8))[0].solidity, float(symmetry)


def in_real_range(
    found: np.ndarray, z_bin: np.ndarray, real: np.ndarray, real_z_bin: np.ndarray
) -> np.ndarray:
    """Whether all features of an outline are between the quantiles RANGE of the real slices of its z-bin.

    Args:
        found, real: (N, 3) and (M, 3) from `outlines`.
        z_bin, real_z_bin: (N,) and (M,).

    Returns:
        (N,) float64: 1 or 0; NaN where the z-bin has fewer than MIN_REAL real slices.
    """
    inside = np.full(len(found), np.nan)
    for one in np.unique(z_bin):
        known, own = real[real_z_bin == one], z_bin == one
        if len(known) >= MIN_REAL:
            low, high = np.quantile(known, RANGE, axis=0)
            inside[own] = ((found[own] >= low) & (found[own] <= high)).all(axis=1)
    return inside
