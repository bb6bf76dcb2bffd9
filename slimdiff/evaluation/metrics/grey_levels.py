"""The door that every image passes before it is measured: one range, one dtype, one rounding.

Real slices come from the store as float16, samples may come as float32. A classifier tells the two apart by
their last bits alone, and a metric may too, so both are rounded to the store's precision here and nowhere
else.
"""

import numpy as np

TOLERANCE = 1e-3  # about one step of float16 at 1


def store_precision(images: np.ndarray) -> np.ndarray:
    """Round images or continuous masks to the slice store's float16 and return them as float32.

    Args:
        images: (N, H, W) float16, float32 or float64, in [-1, 1].

    Returns:
        (N, H, W) float32, clipped to [-1, 1]; every value is a float16 number.

    Raises:
        TypeError: not a floating dtype (uint8 images have already been converted, and would wrap).
        ValueError: not three axes, no finite values only, or values outside [-1, 1] by more than `TOLERANCE`.
    """
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images are {images.dtype}, floats in [-1, 1] are wanted")
    if images.ndim != 3:
        raise ValueError(f"images have shape {images.shape}, (N, H, W) is wanted")
    # Half precision has no arithmetic of its own on a CPU: all that follows is several times faster in single.
    wide = images.astype(np.float32) if images.dtype == np.float16 else images
    if images.size:
        low, high = float(wide.min()), float(wide.max())
        if not np.isfinite(low + high):
            bad = int(np.count_nonzero(~np.isfinite(wide)))
            raise ValueError(
                f"images hold {bad} values that are NaN or infinite; finite ones in [-1, 1] are wanted"
            )
        if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
            raise ValueError(f"images span [{low:.6g}, {high:.6g}], [-1, 1] is wanted")
    rounded = wide if wide is not images else images.astype(np.float16).astype(np.float32)
    return np.clip(rounded, -1, 1, out=rounded)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Grey levels of images: -1 becomes 0, 1 becomes 255, halves go to the even level.

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, H, W) uint8.

    Raises:
        TypeError, ValueError: as `store_precision`; uint8 is refused, never multiplied by 255 again.
    """
    return np.rint((store_precision(images) + 1) * np.float32(127.5)).astype(np.uint8)
