"""Lesions of training slices, pasted into other training slices at the same place.

After CarveMix (Zhang X. et al. 2021, MICCAI; 2023, NeuroImage 271:120041), in two dimensions, by its description: a
region of interest around the lesion of one slice replaces the same pixels, and their mask, of another. Its border is a
level of the signed distance to the lesion, drawn so that half of the regions are smaller than the lesion and half are
larger. Whole volumes have the same heights; here both slices are of one z-bin.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import distance_transform_edt


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the lesion (H, W), in px: above 0 outside, to the nearest pixel of the lesion; below 0
    inside, to the nearest pixel that is not of the lesion."""
    return distance_transform_edt(~mask) - distance_transform_edt(mask)


def draw_level(distance: np.ndarray, rng: np.random.Generator) -> float:
    """Border of the region: uniform in [-d / 2, 0] or, equally often, in [0, d], d the depth of the lesion in px."""
    depth = float(-distance.min())
    return float(rng.uniform(-depth / 2, 0) if rng.random() < 0.5 else rng.uniform(0, depth))


def pasted(
    source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of the target, in which the pixels with a distance of at most `level` are the source's.

    source, target: image (H, W) and bool mask (H, W); the source's mask is not empty.
    """
    region = signed_distance(source[1]) <= level
    return np.where(region, source[0], target[0]), np.where(region, source[1], target[1])


@dataclass(frozen=True)
class Paster:
    """Training slices between which lesions are pasted."""

    images: np.ndarray
    """(N, H, W) in [-1, 1]."""
    masks: np.ndarray
    """bool (N, H, W)."""
    z_bin: np.ndarray
    participant: np.ndarray

    @cached_property
    def _sources(self) -> dict[int, np.ndarray]:
        """z-bin: rows with a lesion."""
        lesion = self.masks.any(axis=(1, 2))
        return {int(z): np.flatnonzero(lesion & (self.z_bin == z)) for z in np.unique(self.z_bin[lesion])}

    def slice(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One slice with a pasted lesion: image and mask.

        The source is any slice with a lesion; the target any slice of another participant of its z-bin, or, if there is
        none, of the same participant.
        """
        rows = np.concatenate(list(self._sources.values()))
        source = rows[rng.integers(len(rows))]
        near = self.z_bin == self.z_bin[source]
        others = np.flatnonzero(near & (self.participant != self.participant[source]))
        targets = others if len(others) else np.flatnonzero(near)
        target = targets[rng.integers(len(targets))]
        level = draw_level(signed_distance(self.masks[source]), rng)
        return pasted(
            (self.images[source], self.masks[source]), (self.images[target], self.masks[target]), level
        )
