"""Foreground masks: head or brain in a volume, brain in a slice."""

from collections.abc import Sequence

import numpy as np

OTSU_BINS = 256
BORDER_SHARE, DARKER_SHARE = 0.5, 0.05
"""Of `background_within`: the share of the border with one value, and the share of the other voxels that are darker. At
edges resampling makes some darker ones, too, but fewer."""


def background_within(volume: np.ndarray) -> float | None:
    """The value of the background (X, Y, Z) if it lies within the intensities of the brain; None if it is the darkest.

    So it is in a stripped image whose brain was scaled to a mean of 0, with 0 outside: most of the border has one
    value, and other voxels are darker.
    """
    faces = np.concatenate([np.take(volume, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    values, counts = np.unique(faces, return_counts=True)
    most = counts.argmax()
    darker, others = (np.count_nonzero(of) for of in (volume < values[most], volume != values[most]))
    if counts[most] < BORDER_SHARE * faces.size or darker <= DARKER_SHARE * others:
        return None
    return float(values[most])


def connected_to_border(mask: np.ndarray) -> np.ndarray:
    """The components (6-connected) of a mask (X, Y, Z) that touch the border of the volume. bool (X, Y, Z)."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask)
    faces = [np.unique(np.take(parts, end, axis)) for axis in range(3) for end in (0, -1)]
    return np.isin(parts, np.setdiff1d(np.concatenate(faces), [0]))


def with_dark_background(volume: np.ndarray, value: float | None) -> np.ndarray:
    """The volume; its background of this value (`background_within`) becomes darker than all of the brain.

    It then is as far below the darkest voxel as the median of the others is above it, as in an image that was not
    shifted. Only voxels that are connected to the border are background.
    """
    if value is None:
        return volume
    outside = connected_to_border(volume == volume.dtype.type(value))
    lowest, middle = float(volume.min()), float(np.median(volume[~outside]))
    return np.where(outside, volume.dtype.type(2 * lowest - middle), volume)


def foreground(volume: np.ndarray) -> np.ndarray:
    """Head or brain: above Otsu's threshold, largest component, holes filled. bool (X, Y, Z)."""
    from skimage.filters import threshold_otsu

    turned, axes = _in_memory_order(volume)
    above = turned > threshold_otsu(hist=_histogram(turned))
    filled = np.zeros_like(above)
    # Components and their holes lie within the bounding box.
    box = box_of(above)
    if box is not None:
        inside = largest_component(np.ascontiguousarray(above[box]))
        # Ventricles and sulci are as dark as the background, so holes are filled in every plane. This includes the
        # holes of the volume, which are holes in each plane.
        for axis in axes:
            _fill_planes(inside, axis)
        filled[box] = inside
    return filled if turned is volume else filled.T


def _in_memory_order(volume: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The volume, transposed if stored in Fortran order (several times faster to traverse), and its axes.

    Entry k of the axes is the axis of the returned array that holds axis k of `volume`.
    """
    if volume.flags.f_contiguous and not volume.flags.c_contiguous:
        return volume.T, (2, 1, 0)
    return volume, (0, 1, 2)


def _histogram(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts in equal bins from the lowest to the highest value, and the bin centres."""
    low, high = float(volume.min()), float(volume.max())
    edges = np.linspace(low, high, OTSU_BINS + 1)
    scale = OTSU_BINS / (high - low) if high > low else 0.0
    counts = np.zeros(OTSU_BINS, np.int64)
    # Plane by plane, because a plane fits into the processor's cache.
    for plane in volume:
        bins = ((plane.ravel() - volume.dtype.type(low)) * volume.dtype.type(scale)).astype(np.intp)
        counts += np.bincount(np.minimum(bins, OTSU_BINS - 1), minlength=OTSU_BINS)
    return counts, (edges[1:] + edges[:-1]) / 2


def box_of(mask: np.ndarray, margin: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...] | None:
    """Slices of the bounding box of a mask (X, Y, Z); None if the mask is empty.

    margin: voxels added on both sides of each axis, within the volume.
    """
    box = []
    for axis, more in enumerate(margin):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(where):
            return None
        box.append(slice(max(0, int(where[0] - more)), min(mask.shape[axis], int(where[-1] + more + 1))))
    return tuple(box)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected component of a mask (X, Y, Z); empty if the mask is empty."""
    import cc3d

    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    if count <= 1:
        return mask.copy()
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _fill_planes(mask: np.ndarray, across: int) -> None:
    """Fill holes in place, in every plane across an axis; a hole does not reach the border of its plane."""
    import fill_voids

    for plane in np.moveaxis(mask, across, 0):
        plane[:] = fill_voids.fill(np.ascontiguousarray(plane))


PRIOR_SIGMA_MM = 0.875
"""Gaussian smoothing of a slice before Otsu's threshold, in mm (0.7 px of the paper's grid)."""
PRIOR_MIN_COMPONENT_MM2 = 781.25
"""Smallest area of a slice's largest component, in mm2 (500 px of the paper's grid)."""
PRIOR_MIN_SHARE = 0.1
"""Smallest area of a further component, as a share of the largest component."""


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
