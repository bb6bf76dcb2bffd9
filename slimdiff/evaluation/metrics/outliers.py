"""Single samples that are broken: unlike the real slices of their z-bin, and unlike the other samples of it.

A model whose samples are all a little too smooth has no outliers; the metrics of the image axis say that.
"""

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.outline import bright_brain
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD, radial_spectra
from slimdiff.stored_rows import Rows, blocks_of

DESCRIPTORS = (
    "brain_area",
    "brain_outline",
    "brain_row",
    "brain_column",
    "brightness",
    "fine_detail",
    "spots",
    "specks",
    "distance",
)
"""Columns of `descriptors`, and the distance to the nearest held-out slice."""
LEAST_SD = (0.05, 0.01, 0.5, 0.5, 0.02, 0.5, 0.5, 0.5, 0.1)
"""Smallest spread of each descriptor: slices that are alike to a pixel or a grey level make no outliers."""
SD_OF_QUANTILE = 1.2816
"""Standard deviations between the median of a normal distribution and its 90 % quantile."""
EXPECTED = 2.0
"""Deviations up to this many standard deviations count as none."""
LIMIT = 3.5
"""Score beyond which a sample is an outlier (`scores`)."""
SPOT = 0.3
"""A pixel that is brighter than all its eight neighbours by more than this, or darker, is a spot."""
_NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
MIN_SLICES = 10
"""Fewest slices of a z-bin, real or synthetic, that give a spread."""
_BLOCK_PX = 2**21  # pixels in memory


def descriptors(images: np.ndarray | Rows) -> np.ndarray:
    """What a broken slice shows, without its distance to other slices.

    Brain area (logarithm of 1 + px, to base 2), the share of the ellipse in its bounding box that it fills, its
    centroid (px), its mean brightness, power of the upper half of the spatial frequencies (dB), the number of spots
    (SPOT) and of bright pixels outside the brain (logarithms of 1 + px, to base 2).

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, 8) float64, columns as in DESCRIPTORS; the place and brightness of no brain are those of the whole slice.

    Raises:
        TypeError, ValueError: as `store_precision`.
    """
    found = []
    for block in blocks_of(images, _BLOCK_PX):
        grey = store_precision(images[block])
        power = radial_spectra(grey)
        fine = power[:, power.shape[1] // 2 :].mean(axis=1)
        found += [_of_slice(one, detail) for one, detail in zip(grey, fine, strict=True)]
    return np.array(found).reshape(-1, len(DESCRIPTORS) - 1)


def _of_slice(image: np.ndarray, fine_detail: float) -> tuple[float, ...]:
    bright = image > BRAIN_THRESHOLD
    brain = bright_brain(bright)
    where = brain if brain.any() else np.ones_like(brain)
    rows, columns = np.nonzero(where)
    ellipse = np.pi / 4 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    highest, lowest = (
        around(image, footprint=_NEIGHBOURS) for around in (ndimage.maximum_filter, ndimage.minimum_filter)
    )
    spots = (image > highest + SPOT) | (image < lowest - SPOT)
    return (
        np.log2(1 + brain.sum()),
        len(rows) / ellipse,
        rows.mean(),
        columns.mean(),
        float(image[where].mean()),
        fine_detail,
        np.log2(1 + spots.sum()),
        np.log2(1 + (bright & ~brain).sum()),
    )


def deviations(
    drawn: np.ndarray, z_bin: np.ndarray, real: np.ndarray, real_z_bin: np.ndarray, others: bool = True
) -> np.ndarray:
    """How far each sample is from the real slices of its z-bin, and from the other samples of it: the smaller of both.

    In standard deviations below or above the median, each from the 10 % or 90 % quantile of that side, so that a tenth
    of broken slices changes neither. That of a z-bin is at least half of the median of all z-bins, and LEAST_SD.

    Args:
        drawn, real: (N, D) and (M, D) descriptors.
        z_bin, real_z_bin: (N,) and (M,).
        others: whether samples are compared with each other too.

    Returns:
        (N, D) float64; NaN where the z-bin has fewer than MIN_SLICES real slices or samples.
    """
    from_real = _distance(drawn, z_bin, real, real_z_bin)
    return np.minimum(from_real, _distance(drawn, z_bin, drawn, z_bin)) if others else from_real


def _distance(
    drawn: np.ndarray, z_bin: np.ndarray, reference: np.ndarray, reference_z_bin: np.ndarray
) -> np.ndarray:
    bins = [one for one in np.unique(z_bin) if (reference_z_bin == one).sum() >= MIN_SLICES]
    found = np.full(drawn.shape, np.nan)
    if not bins:
        return found
    # (bins, 3, D): the 10 %, 50 % and 90 % quantiles.
    quantiles = np.array(
        [np.nanquantile(reference[reference_z_bin == one], (0.1, 0.5, 0.9), axis=0) for one in bins]
    )
    below, above = np.diff(quantiles, axis=1).swapaxes(0, 1) / SD_OF_QUANTILE
    least = np.maximum(np.median(np.maximum(below, above), axis=0) / 2, LEAST_SD)
    for one, middle, *sides in zip(bins, quantiles[:, 1], below, above, strict=True):
        low, high = (np.maximum(side, least) for side in sides)
        difference = drawn[z_bin == one] - middle
        # Nearer to a held-out slice than others is not broken.
        nearer = np.where(np.array(DESCRIPTORS) == "distance", 0.0, -difference / low)
        found[z_bin == one] = np.where(difference < 0, nearer, difference / high)
    return found


def scores(deviation: np.ndarray) -> np.ndarray:
    """One number a sample: the root of the summed squares of what each deviation exceeds EXPECTED by.

    deviation: (N, D) of `deviations`. Returns (N,) float64; NaN where a z-bin has too few slices.
    """
    return np.sqrt((np.maximum(0.0, deviation - EXPECTED) ** 2).sum(axis=1))
