"""Where the head or the brain is, and its intensities to [-1, 1]."""

import cc3d
import fill_voids
import numpy as np

from slimdiff.data.volumes.grid import box_of

OTSU_BINS = 256


def foreground(volume: np.ndarray) -> np.ndarray:
    """Head or brain: above Otsu's threshold, largest component, holes filled. bool (X, Y, Z)."""
    from skimage.filters import threshold_otsu

    turned, axes = _in_memory_order(volume)
    above = turned > threshold_otsu(hist=_histogram(turned))
    filled = np.zeros_like(above)
    # Nothing outside of its box can be enclosed by the head, nor be a part of it.
    box = box_of(above)
    if box is not None:
        inside = largest_component(np.ascontiguousarray(above[box]))
        # Ventricles and sulci are as dark as the background, so every plane is filled; what is enclosed in the volume
        # is enclosed in each plane.
        for axis in axes:
            _fill_planes(inside, axis)
        filled[box] = inside
    return filled if turned is volume else filled.T


def _in_memory_order(volume: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The volume, or its transpose where that is how it lies in memory (several times faster to walk), and its axes.

    The axes are in the order of the volume's own.
    """
    if volume.flags.f_contiguous and not volume.flags.c_contiguous:
        return volume.T, (2, 1, 0)
    return volume, (0, 1, 2)


def _histogram(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts in equal bins between the lowest and the highest value, and the bins' centres."""
    low, high = float(volume.min()), float(volume.max())
    edges = np.linspace(low, high, OTSU_BINS + 1)
    scale = OTSU_BINS / (high - low) if high > low else 0.0
    counts = np.zeros(OTSU_BINS, np.int64)
    # Plane by plane, because a plane stays in the processor's cache.
    for plane in volume:
        bins = ((plane.ravel() - volume.dtype.type(low)) * volume.dtype.type(scale)).astype(np.intp)
        counts += np.bincount(np.minimum(bins, OTSU_BINS - 1), minlength=OTSU_BINS)
    return counts, (edges[1:] + edges[:-1]) / 2


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask (X, Y, Z) that hangs together by faces of voxels; nothing where the mask is empty."""
    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    if count <= 1:
        return mask.copy()
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _fill_planes(mask: np.ndarray, across: int) -> None:
    """Fill, in place, background that does not reach the border of its plane, in planes across an axis."""
    for plane in np.moveaxis(mask, across, 0):
        plane[:] = fill_voids.fill(np.ascontiguousarray(plane))


PRIOR_SIGMA_MM = 0.875
"""Gaussian smoothing of a slice before Otsu's threshold, in mm (0.7 px of the paper's grid)."""
PRIOR_MIN_COMPONENT_MM2 = 781.25
"""Smallest area of a slice's largest component, in mm2 (500 px of the paper's grid)."""
PRIOR_MIN_SHARE = 0.1
"""Smallest further component, as a share of the largest."""


def brain_of(image: np.ndarray, spacing_mm: float, low_bin: bool) -> np.ndarray:
    """Brain pixels of one slice: rescale p1-p99, smooth, Otsu, components, fill holes. bool (H, W)."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    low, high = np.percentile(image, (1, 99))
    if not high > low:
        return np.zeros(image.shape, bool)
    scaled = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    smooth = ndimage.gaussian_filter(scaled, PRIOR_SIGMA_MM / spacing_mm)
    labels, count = ndimage.label(smooth > threshold_otsu(smooth))
    if count == 0:
        return np.zeros(image.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    order = np.argsort(sizes)[::-1]
    if sizes[order[0]] * spacing_mm**2 < PRIOR_MIN_COMPONENT_MM2:
        return np.zeros(image.shape, bool)
    kept = [
        label for label in order[: 3 if low_bin else 1] if sizes[label] >= PRIOR_MIN_SHARE * sizes[order[0]]
    ]
    return ndimage.binary_fill_holes(np.isin(labels, np.asarray(kept) + 1))
