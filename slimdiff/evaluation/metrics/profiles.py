"""Radial power spectra and brain histograms: noise, blur and contrast, which network features detect poorly."""

import numpy as np
from scipy import fft

from slimdiff.evaluation.metrics.grey_levels import store_precision

# Variance of rounding [-1, 1] to 256 grey levels. It is added to the power, so that empty slices have finite values.
ROUNDING_POWER = (2 / 255) ** 2 / 12
_SPECTRUM_BLOCK = 256


def radial_spectra(images: np.ndarray) -> np.ndarray:
    """Power by spatial frequency, averaged over rings of the two-dimensional spectrum.

    The background is set to 0, so that padding has no effect. The transform is orthonormal: white noise of variance
    v has power v at every frequency. The rings are centred at 1, 2, ... R steps of 0.5 / R cycles/px and are one step
    wide. The mean intensity (frequency 0) and the corners are left out.

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, R) float64 in dB, lowest frequency first, R = min(H, W) // 2.

    Raises:
        TypeError, ValueError: as `store_precision`.
    """
    height, width = images.shape[1:3]
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
    # The other half of the spectrum of a real image mirrors this one, so every column counts twice, except the first
    # and, for an even width, the last.
    twice = np.ones((height, width // 2 + 1)) * 2
    twice[:, 0] = 1
    if width % 2 == 0:
        twice[:, -1] = 1
    weights = np.where(np.arange(1, count + 1) == ring[..., None], twice[..., None], 0.0).reshape(-1, count)
    return weights / weights.sum(axis=0)


def spectrum_distance(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Mean over frequencies of the absolute difference between two mean spectra.

    Args:
        real, synthetic: (..., R) mean spectra, in dB.

    Returns:
        (...) distance in dB; 3 dB is a factor of two in power.
    """
    return np.abs(np.asarray(real) - np.asarray(synthetic)).mean(axis=-1)


BRAIN_THRESHOLD = -0.95  # same brain as in MMD-PL
BINS = 128
_HISTOGRAM_BLOCK = 256


def brain_histograms(images: np.ndarray, threshold: float = BRAIN_THRESHOLD, bins: int = BINS) -> np.ndarray:
    """Histogram of the intensities of brain pixels, in equal bins between `threshold` and 1.

    Args:
        images: (N, H, W) float, in [-1, 1].
        threshold: pixels above it are brain, in units of the image.
        bins: number of bins.

    Returns:
        (N, bins) float64, each row sums to 1; a row of NaN for a slice without brain.

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
        threshold: threshold of the histograms.

    Returns:
        (...) mean shift of the intensities from one histogram to the other, in units of the image.
    """
    difference = np.asarray(real) - np.asarray(synthetic)
    width = (1 - threshold) / difference.shape[-1]
    return np.abs(np.cumsum(difference, axis=-1)[..., :-1]).sum(axis=-1) * width
