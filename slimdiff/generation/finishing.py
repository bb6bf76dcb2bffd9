"""Optional steps after drawing: background outside the brain, binary masks. Recorded in the settings' file."""

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.data.priors import priors_hash
from slimdiff.model.checkpoint import ModelCard

BACKGROUND = -1.0
DARK = -0.8
"""Grey level below which a pixel can be background; docs/learning.md compares values."""
SMOOTHING = np.array([1, 4, 6, 4, 1]) / 16
"""Weights along each axis, about a Gaussian of 1 px, that smooth the border of the dark region."""


class Finishing:
    """Background outside the z-bin prior or outside the brain, and masks cut at tau.

    Args:
        config: section `generation`, keys `background`, `binary`, `tau`.
        priors: bool (n_bins, H, W) in the store's orientation, required where `background` is prior.
        card: of the checkpoint.

    Raises:
        ValueError: priors that are missing or do not fit.
    """

    def __init__(self, config: GenerationConfig, priors: np.ndarray | None, card: ModelCard):
        self.binary, self.tau, self.outside = config.binary, config.tau, config.background == "outside"
        self.priors = priors if config.background == "prior" else None
        self.sha256: str | None = None
        if config.background == "prior":
            expected = (card.n_bins, *card.store_size)
            if priors is None:
                raise ValueError("generation.background is prior, but no z-bin priors are given (--priors)")
            if priors.dtype != bool or priors.shape != expected:
                raise ValueError(
                    f"z-bin priors: expected bool {expected} (those of the checkpoint), found {priors.dtype} "
                    f"{priors.shape}"
                )
            self.sha256 = priors_hash(priors)

    def __call__(
        self, drawn: np.ndarray, z_bin: np.ndarray, fixed: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """Finish pairs float16 (N, 2, H, W) of these z-bins (N,); the `fixed` part (values, where) stays as it is."""
        finished = drawn
        if self.priors is not None:
            finished = np.where(self.priors[z_bin][:, None], finished, np.float16(BACKGROUND))
        if self.outside:
            outside = outside_of_brain(finished[:, 0])
            image = np.where(outside, np.float16(BACKGROUND), finished[:, 0])
            finished = np.stack([image, finished[:, 1]], axis=1)
        if self.binary:
            cut = np.where(finished[:, 1] > self.tau, np.float16(1), np.float16(-1))
            finished = np.stack([finished[:, 0], cut], axis=1)
        if fixed is not None and finished is not drawn:
            finished = np.where(fixed[1], fixed[0].astype(np.float16), finished)
        return finished


def outside_of_brain(images: np.ndarray) -> np.ndarray:
    """Where slices (N, H, W) are dark and connected to their border by dark pixels (4-connected), bool (N, H, W).

    A pixel is dark if most pixels around it are, so that single ones do not fray the outline. Dark structures within
    the brain, such as ventricles, are not connected to the border.
    """
    dark = _smoothed((images <= DARK).astype(np.float32)) > 0.5
    reached = np.zeros_like(dark)
    reached[:, [0, -1]] = dark[:, [0, -1]]
    reached[:, :, [0, -1]] |= dark[:, :, [0, -1]]
    while True:
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= dark
        if (grown == reached).all():
            return reached
        reached = grown


def _smoothed(images: np.ndarray) -> np.ndarray:
    reach = len(SMOOTHING) // 2
    for axis in (1, 2):
        width = [(0, 0)] * 3
        width[axis] = (reach, reach)
        padded = np.pad(images, width, mode="edge")
        n = images.shape[axis]
        parts = (np.take(padded, range(start, start + n), axis) for start in range(len(SMOOTHING)))
        images = sum(weight * part for weight, part in zip(SMOOTHING, parts, strict=True))
    return images
