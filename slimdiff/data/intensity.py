"""Where the head or the brain is, and its intensities to [-1, 1]."""

import numpy as np
from scipy import ndimage

from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import DataError


def foreground(volume: np.ndarray) -> np.ndarray:
    """Head or brain: above Otsu's threshold, largest component, holes filled. bool (X, Y, Z)."""
    from skimage.filters import threshold_otsu

    largest = largest_component(volume > threshold_otsu(volume))
    if not largest.any():
        return largest
    box = ndimage.find_objects(largest.view(np.uint8))[0]
    filled = np.zeros_like(largest)
    # Nothing outside of its box can be enclosed by it.
    inside = largest[box].copy()
    _fill(inside, ndimage.generate_binary_structure(3, 1))
    # Ventricles and sulci are as dark as the background, so every plane is filled, not the volume alone.
    for axis in range(3):
        in_plane = ndimage.generate_binary_structure(3, 1)
        np.moveaxis(in_plane, axis, 0)[[0, 2]] = False
        _fill(inside, in_plane, axis)
    filled[box] = inside
    return filled


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask (X, Y, Z) that hangs together by faces of voxels; nothing where the mask is empty."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _fill(mask: np.ndarray, neighbours: np.ndarray, across: int | None = None) -> None:
    """Fill, in place, background that does not reach the border. `across`: in planes across this axis, each alone."""
    labels, count = ndimage.label(~mask, neighbours)
    reached = np.zeros(count + 1, bool)
    for axis in range(3):
        if axis != across:
            for end in (0, -1):
                reached[np.unique(np.take(labels, end, axis))] = True
    mask |= ~reached[labels]


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
    over = volume[inside] if config.percentiles_over == "foreground" else volume
    low, high = (float(value) for value in np.percentile(over, config.percentiles))
    if not high > low:
        raise DataError(
            f"percentiles {config.percentiles} of the image are equal ({low:g}): nothing to scale"
        )
    scaled = np.clip(2 * (volume - low) / (high - low) - 1, -1, 1).astype(np.float32)
    if config.percentiles_over == "foreground":
        scaled[~inside] = -1
    return scaled, inside, (low, high)
