"""Bias-field correction: removes slow intensity changes caused by the coil (N4, Tustison et al. 2010)."""

import numpy as np
import SimpleITK as sitk

from slimdiff.data.participants import DataError
from slimdiff.data.volumes.grid import as_image, one_thread

FEWEST_VOXELS = 32
SHRINK = 4
"""The field is smooth and is estimated on every 4th voxel along each axis."""
ITERATIONS = (50, 50, 30, 20)
"""Maximum number of iterations at each fitting level, coarsest first."""


def correct(
    values: np.ndarray, inside: np.ndarray, shrink: int = SHRINK, iterations: tuple[int, ...] = ITERATIONS
) -> tuple[np.ndarray, dict[str, float | list]]:
    """Return the image without its bias field, and the parameters used.

    The field multiplies the signal, so it is estimated on intensities minus `zero`, the value without signal. `zero` is
    the 0.1 % percentile of the volume, because an earlier interpolation may have left a few small negative values.

    Args:
        values: (X, Y, Z), in the scanner's units.
        inside: bool (X, Y, Z), tissue; the field is estimated there and has a geometric mean of 1 there.
        shrink, iterations: see `SHRINK` and `ITERATIONS`.

    Raises DataError if too few voxels of tissue are left after shrinking.
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
            f"bias field: expected at least {FEWEST_VOXELS**2} voxels of tissue after shrinking by {shrink}, found "
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
    """Shrink factor of each axis: at most `shrink`, and small enough to keep 32 voxels."""
    return tuple(int(max(1, min(shrink, n // FEWEST_VOXELS))) for n in shape)


def _shrunk(image: sitk.Image, factors: tuple[int, ...]) -> sitk.Image:
    return sitk.Shrink(image, list(factors))
