"""z-bins: bins of axial height, on which the network is conditioned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimdiff.config.slices import Height

ROUNDING = 1e-9
"""Relative heights are quotients, so that 3/9 of 3 z-bins may be just below 1."""
POSITIONS = {"slice": 1, "mm": 1, "relative": 100}
"""Factor from a height to the position that a network takes, a whole number: slice, mm, or per cent of the brain."""


def z_bin(z: np.ndarray, z_min: int, z_max: int, n_bins: int) -> np.ndarray:
    """Bin of slice index `z`: floor((z - z_min) / (z_max - z_min + 1) * n_bins), in 0 ... n_bins - 1."""
    z = np.asarray(z)
    return (z - z_min) * n_bins // (z_max - z_min + 1)


def bin_centres(z_min: int, z_max: int, n_bins: int) -> np.ndarray:
    """Centre of every bin as a slice index (float), shape (n_bins,)."""
    return z_min + (np.arange(n_bins) + 0.5) * (z_max - z_min + 1) / n_bins


def bin_positions(facts: dict) -> list[float]:
    """Centre of each z-bin as a network takes it: slice number, mm, or per cent of the brain's height.

    facts: store.json of any version.
    """
    centres, factor = facts["bin_centres"], POSITIONS[facts.get("height", "slice")]
    return centres if factor == 1 else [centre * factor for centre in centres]


@dataclass(frozen=True)
class ZBins:
    """Equal bins of the z-range. Slices count as [z, z + 1), heights in mm and relative ones as points."""

    height: Height
    """Unit of the z-range and of `heights`: slice, mm, or relative."""
    z_range: tuple[float, float]
    """Lowest and highest, both included."""
    n_bins: int

    def inside(self, heights: np.ndarray) -> np.ndarray:
        """Which heights (Z,) are in the z-range, bool."""
        first, last = self.z_range
        return (heights >= first - ROUNDING) & (heights <= last + ROUNDING)

    def of(self, heights: np.ndarray) -> np.ndarray:
        """z-bin of heights (Z,) in the z-range, int; the highest one belongs to the last bin."""
        first, last = self.z_range
        if self.height == "slice":
            return z_bin(heights, first, last, self.n_bins)
        bins = np.floor((heights - first) / (last - first) * self.n_bins + ROUNDING).astype(int)
        return np.clip(bins, 0, self.n_bins - 1)

    @property
    def centres(self) -> np.ndarray:
        """Centre of every bin, (n_bins,), in the unit of `height`."""
        first, last = self.z_range
        if self.height == "slice":
            return bin_centres(first, last, self.n_bins)
        return first + (np.arange(self.n_bins) + 0.5) * (last - first) / self.n_bins


def heights_of(height: Height, count: int, brain: Sequence[int], slice_mm: float) -> np.ndarray:
    """Height of each of a volume's `count` slices, (count,).

    Args:
        height: `slice`: the slice's number; `mm`: mm above the lowest slice with brain; `relative`: 0 is the lowest and
            1 the highest slice with brain.
        brain: numbers of the lowest and the highest slice with brain; not used for `slice`.
        slice_mm: distance between slices.
    """
    z = np.arange(count)
    if height == "slice":
        return z
    lowest, highest = brain
    return (z - lowest) * slice_mm if height == "mm" else (z - lowest) / (highest - lowest)
