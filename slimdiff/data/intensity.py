"""Where the head or the brain is, and its intensities to [-1, 1]."""

import cc3d
import fill_voids
import numpy as np

from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.box import box_of
from slimdiff.data.participants import DataError

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


def normalise(
    volume: np.ndarray, config: PreprocessConfig, brain: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Map the percentiles to -1 and 1 and clip; outside the foreground is -1.

    Args:
        volume: (X, Y, Z), in the scanner's units.
        brain: bool (X, Y, Z), which is then the foreground; nothing: it is found by Otsu's threshold.

    Returns float32 in [-1, 1], the foreground, and the two intensities that became -1 and 1.
    Raises DataError where there is nothing to scale.
    """
    inside = brain
    if volume.min() == volume.max() or (brain is not None and not brain.any()):
        raise DataError(
            f"nothing but background is left at {config.spacing_mm} mm on the grid {list(config.grid)}"
        )
    if inside is None:
        inside = foreground(volume)
    everywhere = config.percentiles_over == "volume"
    turned, _ = _in_memory_order(volume)
    chosen = inside if turned is volume else inside.T
    over = turned if everywhere else turned[chosen]
    low, high = (float(value) for value in np.percentile(over, config.percentiles))
    if not high > low:
        raise DataError(
            f"percentiles {config.percentiles} of the image are equal ({low:g}): nothing to scale"
        )
    scaled = (turned - low) * (2 / (high - low)) - 1
    scaled = np.clip(scaled, -1, 1, out=scaled).astype(np.float32, copy=False)
    if not everywhere:
        np.copyto(scaled, np.float32(-1), where=~chosen)
    return (scaled if turned is volume else scaled.T), inside, (low, high)
