"""Optional steps after drawing: background outside the z-bin prior, binary masks. Recorded in the settings' file."""

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.data.priors import priors_hash
from slimdiff.model.checkpoint import ModelCard

BACKGROUND = -1.0


class Finishing:
    """Background outside the z-bin prior, and masks cut at tau.

    Args:
        config: section `generation`, keys `background`, `binary`, `tau`.
        priors: bool (n_bins, H, W) in the store's orientation, required where `background` is prior.
        card: of the checkpoint.

    Raises:
        ValueError: priors that are missing or do not fit.
    """

    def __init__(self, config: GenerationConfig, priors: np.ndarray | None, card: ModelCard):
        self.binary, self.tau = config.binary, config.tau
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
        if self.binary:
            cut = np.where(finished[:, 1] > self.tau, np.float16(1), np.float16(-1))
            finished = np.stack([finished[:, 0], cut], axis=1)
        if fixed is not None and finished is not drawn:
            finished = np.where(fixed[1], fixed[0].astype(np.float16), finished)
        return finished
