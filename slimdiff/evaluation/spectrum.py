"""How much of a slice's power lies at which spatial frequency: speckle and blur, which features see badly."""

import numpy as np
from scipy import fft

from slimdiff.evaluation.ranges import store_precision

# Variance of rounding [-1, 1] to 256 grey levels: power below it is no picture, and keeps empty slices finite.
ROUNDING_POWER = (2 / 255) ** 2 / 12
_BLOCK = 256


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
    for start in range(0, len(images), _BLOCK):
        block = store_precision(images[start : start + _BLOCK]) + 1
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
