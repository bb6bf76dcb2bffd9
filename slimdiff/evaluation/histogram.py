"""How bright the brain is: histograms of the intensities inside it, and how far two of them lie apart."""

import numpy as np

from slimdiff.evaluation.ranges import store_precision

BRAIN_THRESHOLD = -0.95  # as MMD-PL's brain
BINS = 128
_BLOCK = 256


def brain_histograms(images: np.ndarray, threshold: float = BRAIN_THRESHOLD, bins: int = BINS) -> np.ndarray:
    """Share of the brain's pixels in equal steps of intensity between `threshold` and 1; a brain is what lies above.

    Args:
        images: (N, H, W) float, in [-1, 1].
        threshold: in units of the image.
        bins: steps.

    Returns:
        (N, bins) float64, each row sums to 1; a row of NaN where a slice has no brain.

    Raises:
        TypeError, ValueError: as `store_precision`.
    """
    histograms = np.zeros((len(images), bins))
    for start in range(0, len(images), _BLOCK):
        block = store_precision(images[start : start + _BLOCK])
        slices, *_ = np.nonzero(block > threshold)
        values = block[block > threshold].astype(np.float64)
        step = np.minimum(((values - threshold) / (1 - threshold) * bins).astype(int), bins - 1)
        counted = np.bincount(slices * bins + step, minlength=len(block) * bins)
        histograms[start : start + len(block)] = counted.reshape(len(block), bins)
    with np.errstate(invalid="ignore"):
        return histograms / histograms.sum(axis=1, keepdims=True)


def histogram_distance(
    real: np.ndarray, synthetic: np.ndarray, threshold: float = BRAIN_THRESHOLD
) -> np.ndarray:
    """Wasserstein-1 distance of two mean histograms from `brain_histograms`.

    Args:
        real, synthetic: (..., bins), each summing to 1.
        threshold: with which they were made.

    Returns:
        (...) in units of the image, [-1, 1]: by how much grey values would have to be moved on average.
    """
    difference = np.asarray(real) - np.asarray(synthetic)
    width = (1 - threshold) / difference.shape[-1]
    return np.abs(np.cumsum(difference, axis=-1)[..., :-1]).sum(axis=-1) * width
