"""How much of a slice's power lies at which spatial frequency: speckle and blur, which features see badly."""

import numpy as np
from scipy import fft

from slimdiff.evaluation.metrics.grey_levels import store_precision

# Variance of rounding [-1, 1] to 256 grey levels: power below it is no picture, and keeps empty slices finite.
ROUNDING_POWER = (2 / 255) ** 2 / 12
_SPECTRUM_BLOCK = 256


def radial_spectra(images: np.ndarray) -> np.ndarray:
    """Power by spatial frequency, averaged over rings of the two-dimensional spectrum.

    The background is set to 0, so that slices do not differ by how they are padded. The transform is orthonormal:
    white noise of variance v has the power v at every frequency. The rings are centred at 1, 2, ... R steps of
    0.5 / R cycles/px and one step wide: the mean intensity (frequency 0) is left out, and so are the corners.

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, R) float64 in dB, lowest frequency first, R = min(H, W) // 2.

    Raises:
        TypeError, ValueError: as `store_precision`.
    """
    height, width = np.asarray(images).shape[1:3]
    rings = _rings(height, width)
    spectra = []
    for start in range(0, len(images), _SPECTRUM_BLOCK):
        block = store_precision(images[start : start + _SPECTRUM_BLOCK]) + 1
        power = np.abs(fft.rfft2(block, norm="ortho", workers=-1)).astype(np.float64) ** 2
        spectra.append(10 * np.log10(power.reshape(len(block), -1) @ rings + ROUNDING_POWER))
    return np.concatenate(spectra) if spectra else np.empty((0, rings.shape[1]))


def _rings(height: int, width: int) -> np.ndarray:
    """(H * (W // 2 + 1), R) weights that average the half spectrum of `rfft2` over each ring."""
    rows, columns = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None]
    count = min(height, width) // 2
    ring = np.rint(np.hypot(rows, columns) / 0.5 * count).astype(int)
    # A real image's other half is the mirror image of this one; only the first and, if even, the last column are not
    # there twice.
    twice = np.ones((height, width // 2 + 1)) * 2
    twice[:, 0] = 1
    if width % 2 == 0:
        twice[:, -1] = 1
    weights = np.where(np.arange(1, count + 1) == ring[..., None], twice[..., None], 0.0).reshape(-1, count)
    return weights / weights.sum(axis=0)


def spectrum_distance(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Mean over frequencies of the absolute difference of two mean spectra.

    Args:
        real, synthetic: (..., R) mean spectra, in dB.

    Returns:
        (...) in dB: 3 is a factor of two in power at a typical frequency.
    """
    return np.abs(np.asarray(real) - np.asarray(synthetic)).mean(axis=-1)


BRAIN_THRESHOLD = -0.95  # as MMD-PL's brain
BINS = 128
_HISTOGRAM_BLOCK = 256


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
    for start in range(0, len(images), _HISTOGRAM_BLOCK):
        block = store_precision(images[start : start + _HISTOGRAM_BLOCK])
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
