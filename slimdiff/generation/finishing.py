"""What may be done to samples after they are drawn; off by default, and recorded in the manifest."""

import hashlib
from pathlib import Path

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import MISSING
from slimdiff.model.checkpoint import ModelCard

BACKGROUND = -1.0


def read_priors(path: Path) -> np.ndarray:
    """z-bin priors of a fold, bool (n_bins, H, W), as the stage `priors` writes them.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such priors; the stage priors makes them (slimdiff-priors)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["priors"]
    except Exception as error:
        # A plain array, half a zip file, a pickle: NumPy has an error of its own for each.
        raise ValueError(f"{path}: not a file of z-bin priors: {error}") from None


def priors_hash(priors: np.ndarray) -> str:
    """What tells these priors from others."""
    return hashlib.sha256(np.ascontiguousarray(priors).tobytes()).hexdigest()


class Finishing:
    """Background outside the z-bin prior, and masks cut at tau.

    Args:
        config: section `generation`, keys `background`, `binary`, `tau`.
        priors: bool (n_bins, H, W) in the store's orientation, wanted where `background` is prior.
        card: of the checkpoint.

    Raises:
        ValueError: priors that are missing or do not fit.
    """

    def __init__(self, config: GenerationConfig, priors: np.ndarray | None, card: ModelCard):
        self.binary, self.tau = config.binary, config.tau
        self.priors = priors if config.background == "prior" else None
        self.sha256 = MISSING
        if config.background == "prior":
            wanted = (card.n_bins, *card.store_size)
            if priors is None:
                raise ValueError("generation.background is prior, but no z-bin priors are given")
            if priors.dtype != bool or priors.shape != wanted:
                raise ValueError(
                    f"z-bin priors are {priors.dtype} {priors.shape}; the checkpoint wants bool {wanted}"
                )
            self.sha256 = priors_hash(priors)

    def __call__(
        self, drawn: np.ndarray, z_bin: np.ndarray, known: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """Finish pairs float16 (N, 2, H, W) of these z-bins (N,); what is `known` (values, where) stays as it is."""
        finished = drawn
        if self.priors is not None:
            finished = np.where(self.priors[z_bin][:, None], finished, np.float16(BACKGROUND))
        if self.binary:
            cut = np.where(finished[:, 1] > self.tau, np.float16(1), np.float16(-1))
            finished = np.stack([finished[:, 0], cut], axis=1)
        if known is not None and finished is not drawn:
            finished = np.where(known[1], known[0].astype(np.float16), finished)
        return finished
