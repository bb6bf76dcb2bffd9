"""Brain extraction by deepbet's network (Fisch et al. 2024), or by a brain mask from the source."""

from functools import cache

import nibabel
import numpy as np

from slimdiff.config.preprocess import BrainConfig
from slimdiff.data.participants import DataError, Participant

THRESHOLD = 0.5
"""Probability above which a voxel is brain (deepbet's default)."""
PLAUSIBLE_ML = (300.0, 3000.0)
"""Plausible brain volume, children included."""


def brain_mask(
    values: np.ndarray,
    affine: np.ndarray,
    given: np.ndarray | None,
    participant: Participant,
    config: BrainConfig,
) -> np.ndarray | None:
    """The brain, bool (X, Y, Z), grown by `config.dilate_mm`; None for method `none`.

    Args:
        values: (X, Y, Z), the image with its skull, and `affine` (4, 4), mm.
        given: bool (X, Y, Z), the source's own brain mask.

    Raises DataError if the source has no mask, or deepbet finds no plausible brain.
    """
    if config.method == "none":
        return None
    who = participant.participant_id
    if config.method == "source":
        if given is None:
            raise DataError(
                f"{who}: {participant.image}: no brain mask, but preprocess.brain.method is source; add a mask "
                "(data.brain_suffix for bids, column brain_mask for table), set the method to deepbet, or exclude the "
                "participant (data.exclude)"
            )
        mask = given
    else:
        mask = _by_deepbet(values, affine, f"{who}: {participant.image}")
    return dilated(mask, config.dilate_mm, nibabel.affines.voxel_sizes(affine))


def dilated(mask: np.ndarray, by_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """A mask (X, Y, Z) grown by `by_mm` in every direction (below 0: shrunk); spacing_mm: (3,), voxel size."""
    if by_mm == 0 or not mask.any():
        return mask
    from scipy import ndimage  # imported here: a fifth of the stage's import time

    if by_mm < 0:
        return mask & (ndimage.distance_transform_edt(mask, sampling=spacing_mm) > -by_mm)
    margin = np.ceil(by_mm / np.asarray(spacing_mm)).astype(int) + 1
    box = tuple(
        slice(max(0, part.start - more), part.stop + more)
        for part, more in zip(ndimage.find_objects(mask.astype(np.uint8))[0], margin, strict=True)
    )
    grown = np.zeros_like(mask)
    grown[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm) <= by_mm
    return grown


def _by_deepbet(values: np.ndarray, affine: np.ndarray, where: str) -> np.ndarray:
    image = nibabel.Nifti1Image(values, affine)
    try:
        _, found, _ = _network().run(image, threshold=THRESHOLD)
    except (AssertionError, ValueError) as error:
        raise DataError(
            f"{where}: deepbet found no brain ({error}); inspect the image, exclude it (data.exclude), or add a brain "
            "mask (preprocess.brain.method: source)"
        ) from None
    mask = np.asarray(found.dataobj) > 0
    ml = float(mask.sum() * np.prod(nibabel.affines.voxel_sizes(affine)) / 1000)
    low, high = PLAUSIBLE_ML
    if not low <= ml <= high:
        raise DataError(
            f"{where}: deepbet's brain mask is {ml:.0f} ml, outside the plausible {low:.0f} to {high:.0f} ml; inspect "
            "the image, exclude it (data.exclude), or add a brain mask (preprocess.brain.method: source)"
        )
    return mask


@cache
def _network():
    import warnings

    from deepbet.bet import BrainExtraction

    with warnings.catch_warnings():
        # Its weights are TorchScript, for which torch issues a deprecation warning.
        warnings.simplefilter("ignore", FutureWarning)
        return BrainExtraction(no_gpu=True)
