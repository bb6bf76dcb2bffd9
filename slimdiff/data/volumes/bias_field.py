"""Slow changes of intensity across the head that are the coil's, not the tissue's (N4, Tustison et al. 2010)."""

import numpy as np
import SimpleITK as sitk

from slimdiff.data.participants import DataError
from slimdiff.data.volumes.grid import as_image, one_thread

FEWEST_VOXELS = 32
SHRINK = 4
"""The field, which is smooth, is estimated on every 4th voxel along each axis."""
ITERATIONS = (50, 50, 30, 20)
"""Most iterations at each fitting level, coarsest first."""


def correct(
    values: np.ndarray, inside: np.ndarray, shrink: int = SHRINK, iterations: tuple[int, ...] = ITERATIONS
) -> tuple[np.ndarray, dict[str, float | list]]:
    """The image without its bias field, and what was used.

    The field multiplies the signal, so it is taken of intensities above `zero`, the value where there is no signal: the
    0.1 % percentile of the volume, which small negatives of an earlier interpolation do not move.

    Args:
        values: (X, Y, Z), in the scanner's units.
        inside: bool (X, Y, Z), where there is tissue; the field is estimated there, and geometric mean 1 there.
        shrink, iterations: see `SHRINK` and `ITERATIONS`.

    Raises DataError where too little is left to estimate it on.
    """
    zero = float(np.percentile(values, 0.1))
    signal = (values - zero).astype(np.float32)
    usable = inside & (signal > 0)
    shrink = shrink_factors(values.shape, shrink)
    image = as_image(signal)
    small, small_mask = (_shrunk(array, shrink) for array in (image, as_image(usable)))
    found = int(sitk.GetArrayViewFromImage(small_mask).sum())
    if found < FEWEST_VOXELS**2:
        raise DataError(
            f"bias field: expected at least {FEWEST_VOXELS**2} voxels of tissue after thinning by {shrink}, found "
            f"{found}; set preprocess.bias_field.n4: false"
        )
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(list(iterations))
    with one_thread():
        corrector.Execute(small, small_mask)
        field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T
    field = field - field[usable].mean()
    corrected = (signal / np.exp(field) + zero).astype(np.float32)
    return corrected, {"zero": zero, "shrink": list(shrink), "iterations": list(iterations)}


def shrink_factors(shape: tuple[int, ...], shrink: int) -> tuple[int, ...]:
    """By how much each axis is thinned: at most `shrink`, and no axis to fewer than 32 voxels."""
    return tuple(int(max(1, min(shrink, n // FEWEST_VOXELS))) for n in shape)


def _shrunk(image: sitk.Image, factors: tuple[int, ...]) -> sitk.Image:
    return sitk.Shrink(image, list(factors))
