"""The spaces in which copies are searched beside features and pixels, and the joint one over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from slimdiff.evaluation.copies.contrastive import Embedding, embedded, reduced
from slimdiff.evaluation.copies.distinct import distinct
from slimdiff.evaluation.copies.mixtures import closest_mixture
from slimdiff.evaluation.copies.pasted_lesions import HALVES_PX, closest_lesion, lesion_patches
from slimdiff.stored_rows import Rows

JOINT, LEARNT, MEANS, LESIONS = "joint", "learnt", "means", "lesions"
JOINT_QUANTILE = 0.05
"""Quantile of the held-out slices' distances that is the unit of a space in the joint one."""


@dataclass(frozen=True)
class Slices:
    """Slices that are searched, or searched for: images and masks (N, H, W) in [-1, 1], z-bins (N,)."""

    images: np.ndarray | Rows
    masks: np.ndarray | Rows
    z_bin: np.ndarray


class Search:
    """Closest training slices in the spaces `learnt`, `means` and `lesions`."""

    def __init__(
        self,
        train: Slices,
        persons: np.ndarray,
        network: Embedding,
        small: np.ndarray,
        tau: float,
        min_px: int,
        device: torch.device,
    ):
        """
        Args:
            train: the training slices.
            persons: (M,) person of each training slice.
            network: from `contrastive.trained_embedding`.
            small: (M, H, W) the training images, from `contrastive.reduced`.
            tau: threshold of masks.
            min_px: smallest lesion, px.
            device: device of the network.
        """
        self._train, self._network, self._small, self._device = train, network, small, device
        self._rule, self._persons = (tau, min_px), persons
        self._known = embedded(network, small, device)
        self._lesions = lesion_patches(train.images, train.masks, *self._rule, moves=HALVES_PX)[:2]

    def closest(self, slices: Slices) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Space to distance (N,) and training slice (N,) of each slice; NaN and -1 where there is none."""
        small = reduced(slices.images)
        views = [embedded(self._network, view, self._device) for view in (small, small[:, :, ::-1].copy())]
        z_bin, numbers = np.tile(slices.z_bin, 2), np.tile(np.arange(len(small)), 2)
        owners = self._persons[self._lesions[1]]
        return {
            LEARNT: distinct(
                np.concatenate(views), self._known, z_bin, self._train.z_bin, self._persons, numbers
            ),
            MEANS: closest_mixture(small, self._small, slices.z_bin, self._train.z_bin, self._persons),
            LESIONS: closest_lesion(slices.images, slices.masks, *self._lesions, owners, *self._rule),
        }


def units(of_test: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Space to the 5 % quantile of the held-out slices' relative distances; NaN where none has one."""
    return {
        space: float(np.nanquantile(distance, JOINT_QUANTILE))
        if np.isfinite(distance).any()
        else float("nan")
        for space, distance in of_test.items()
    }


def joint(
    distances: Mapping[str, tuple[np.ndarray, np.ndarray]], of_units: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest of a slice's distances over the spaces, each in units of its space, and its training slice.

    Args:
        distances: space to relative distance (N,) and training slice (N,).
        of_units: from `units`.
    """
    usable = [space for space, unit in of_units.items() if np.isfinite(unit) and unit > 0]
    scaled = np.stack([distances[space][0] / of_units[space] for space in usable])
    index = np.stack([distances[space][1] for space in usable])
    filled = np.where(np.isfinite(scaled), scaled, np.inf)
    best = filled.argmin(axis=0)[None]
    smallest = np.take_along_axis(filled, best, axis=0)[0]
    return np.where(np.isfinite(smallest), smallest, np.nan), np.take_along_axis(index, best, axis=0)[0]
