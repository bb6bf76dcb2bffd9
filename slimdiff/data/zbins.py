"""z-bins: where an axial slice lies, and where the brain is in each of them."""

from pathlib import Path

import numpy as np

from slimdiff.config.priors import PriorConfig
from slimdiff.files import replacing


def z_bin(z: np.ndarray, z_min: int, z_max: int, n_bins: int) -> np.ndarray:
    """Bin of slice index `z`: floor((z - z_min) / (z_max - z_min + 1) * n_bins), in 0 ... n_bins - 1."""
    z = np.asarray(z)
    return (z - z_min) * n_bins // (z_max - z_min + 1)


def bin_centres(z_min: int, z_max: int, n_bins: int) -> np.ndarray:
    """Centre of every bin as a slice index (float), shape (n_bins,)."""
    return z_min + (np.arange(n_bins) + 0.5) * (z_max - z_min + 1) / n_bins


def brain_of(image: np.ndarray, config: PriorConfig, spacing_mm: float, low_bin: bool) -> np.ndarray:
    """Brain pixels of one slice: rescale p1-p99, smooth, Otsu, components, fill holes. bool (H, W)."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    low, high = np.percentile(image, (1, 99))
    if not high > low:
        return np.zeros(image.shape, bool)
    scaled = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    smooth = ndimage.gaussian_filter(scaled, config.sigma_mm / spacing_mm)
    labels, count = ndimage.label(smooth > threshold_otsu(smooth))
    if count == 0:
        return np.zeros(image.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    order = np.argsort(sizes)[::-1]
    if sizes[order[0]] * spacing_mm**2 < config.min_component_mm2:
        return np.zeros(image.shape, bool)
    kept = [
        label for label in order[: 3 if low_bin else 1] if sizes[label] >= config.min_share * sizes[order[0]]
    ]
    return ndimage.binary_fill_holes(np.isin(labels, np.asarray(kept) + 1))


def z_bin_priors(
    images: np.ndarray, bins: np.ndarray, n_bins: int, config: PriorConfig, spacing_mm: float
) -> np.ndarray:
    """Where the brain is in each z-bin, from the slices of the fold's training subjects only.

    images: (N, H, W) in [-1, 1]; bins: (N,). Returns bool (n_bins, H, W); a bin without slices takes its nearest
    neighbour's.
    """
    from scipy import ndimage

    priors = np.zeros((n_bins, *images.shape[1:]), bool)
    steps = round(config.dilate_mm / spacing_mm)
    filled = np.unique(bins)
    for b in filled:
        occupancy = np.mean(
            [brain_of(image, config, spacing_mm, b < config.low_bins) for image in images[bins == b]], axis=0
        )
        priors[b] = occupancy >= config.threshold
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
    """Read what `write_priors` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["priors"]
