"""z-bins: bins of axial height, on which the network is conditioned."""

import numpy as np


def z_bin(z: np.ndarray, z_min: int, z_max: int, n_bins: int) -> np.ndarray:
    """Bin of slice index `z`: floor((z - z_min) / (z_max - z_min + 1) * n_bins), in 0 ... n_bins - 1."""
    z = np.asarray(z)
    return (z - z_min) * n_bins // (z_max - z_min + 1)


def bin_centres(z_min: int, z_max: int, n_bins: int) -> np.ndarray:
    """Centre of every bin as a slice index (float), shape (n_bins,)."""
    return z_min + (np.arange(n_bins) + 0.5) * (z_max - z_min + 1) / n_bins
