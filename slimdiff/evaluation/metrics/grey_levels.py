"""Conversion of images to one range, dtype and precision before any metric.

Real slices are stored as float16; samples may be float32. A classifier can separate the two by their last bits alone,
and so can a metric. Therefore both are rounded to float16 here, and only here.
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
        TypeError: not a floating dtype (uint8 images are already converted, and a second conversion would wrap).
        ValueError: not three axes, values that are not finite, or values outside [-1, 1] by more than `TOLERANCE`.
    """
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"expected images of floats in [-1, 1], found {images.dtype}")
    if images.ndim != 3:
        raise ValueError(f"expected images of shape (N, H, W), found {images.shape}")
    # CPUs have no float16 arithmetic, so float32 is several times faster.
    wide = images.astype(np.float32) if images.dtype == np.float16 else images
    if images.size:
        low, high = float(wide.min()), float(wide.max())
        if not np.isfinite(low + high):
            bad = int(np.count_nonzero(~np.isfinite(wide)))
            raise ValueError(f"expected finite image values in [-1, 1], found {bad} that are NaN or infinite")
        if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
            raise ValueError(f"expected image values in [-1, 1], found [{low:.6g}, {high:.6g}]")
    rounded = wide if wide is not images else images.astype(np.float16).astype(np.float32)
    return np.clip(rounded, -1, 1, out=rounded)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Grey levels of images: -1 becomes 0, 1 becomes 255; ties are rounded to the even level.

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, H, W) uint8.

    Raises:
        TypeError, ValueError: as `store_precision`; uint8 raises an error and is never multiplied by 255 again.
    """
    return np.rint((store_precision(images) + 1) * np.float32(127.5)).astype(np.uint8)
