"""z-bin priors: the brain's pixels in each z-bin, from the training subjects of a fold."""

import hashlib
from pathlib import Path

import numpy as np

from slimdiff.files import replacing, require_file

THRESHOLD = 0.2
"""A pixel belongs to the prior if it is brain in at least this share of the training slices."""
DILATE_MM = 1.25
"""Dilation of the thresholded prior, in mm (1 px of the paper's grid)."""
LOW_BINS = 5
"""Number of lowest z-bins in which up to three components are kept (temporal poles, cerebellum)."""


def z_bin_priors(images: np.ndarray, bins: np.ndarray, n_bins: int, spacing_mm: float) -> np.ndarray:
    """The brain's pixels in each z-bin, from the slices of the fold's training subjects only.

    images: (N, H, W) in [-1, 1]; bins: (N,). Returns bool (n_bins, H, W); a z-bin without slices gets the prior of
    the nearest z-bin that has slices.
    """
    # Imported here, because sampling reads priors without SciPy and the packages for foreground masks.
    from scipy import ndimage

    from slimdiff.data.volumes.foreground import brain_of

    priors = np.zeros((n_bins, *images.shape[1:]), bool)
    steps = round(DILATE_MM / spacing_mm)
    filled = np.unique(bins)
    for b in filled:
        occupancy = np.mean(
            [brain_of(image, spacing_mm, b < LOW_BINS) for image in images[bins == b]], axis=0
        )
        priors[b] = occupancy >= THRESHOLD
        if steps:
            priors[b] = ndimage.binary_dilation(priors[b], iterations=steps)
    for b in set(range(n_bins)) - set(filled.tolist()):
        priors[b] = priors[filled[np.abs(filled - b).argmin()]]
    return priors


def write_priors(path: Path, priors: np.ndarray) -> None:
    """Write `priors/fold-{k}.npz`: key `priors`, bool (n_bins, H, W), readable without pickle."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, priors=priors)


def read_priors(path: Path) -> np.ndarray:
    """z-bin priors of a fold, bool (n_bins, H, W), as `write_priors` wrote them.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
    """
    require_file(path, "not found; run the stage priors (slimdiff-priors) first")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["priors"]
    except Exception as error:
        # A plain array, half a zip file, a pickle: NumPy raises a different error for each.
        raise ValueError(
            f"{path}: expected a file of z-bin priors ({error}); delete it and run the stage priors again"
        ) from None


def priors_hash(priors: np.ndarray) -> str:
    """sha256 of the priors' values."""
    return hashlib.sha256(np.ascontiguousarray(priors).tobytes()).hexdigest()
