"""KID and memorisation ratio of a training's own samples: what its rounds of watching are judged by.

Needs torch and numpy only, as the features do. Nothing of the held-out test subjects is looked at.
"""

from pathlib import Path

import numpy as np
import torch

from slimdiff import weights
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.features import FeatureCache, extract
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.memorisation import memorisation
from slimdiff.evaluation.metrics.neighbours import nearest

SUBSETS = 100
BLOCK = 512


class Monitor:
    """Judges samples by the validation subjects' slices, and by the training slices.

    Args:
        store: the slices.
        train, val: participants of the fold.
        extractor: whose features are compared.
        device: where it runs.
        cache: folder in which features of real slices are kept.
        seed: of the subsets.
        known_acquisitions: leave out validation slices of acquisitions that are not trained on: a network that is
            told the acquisition cannot draw such.

    Raises:
        WeightsUnavailable: the extractor's weights cannot be had.
    """

    def __init__(
        self,
        store: SliceStore,
        train: list[str],
        val: list[str],
        extractor: str,
        device: torch.device,
        cache: Path,
        seed: int,
        known_acquisitions: bool = False,
    ):
        # Before the first step, not at the first round.
        weights.load(extractor)
        self.extractor, self.device, self.seed = extractor, device, seed
        of_train, of_val = store.rows_of(train), store.rows_of(val)
        if known_acquisitions:
            of_val = of_val[np.isin(store.acquisition[of_val], store.acquisition[of_train])]
        settings = {"device": device, "progress": False}
        self.train, self.val = (
            FeatureCache(cache).extract(_grey(store, rows), extractor, **settings)
            for rows in (of_train, of_val)
        )
        self.train_bin, self.val_bin = store.z_bin[of_train], store.z_bin[of_val]
        subjects = store.participant[of_val]
        distance, _ = nearest(self.val, self.train, self.val_bin, self.train_bin, device=device)
        self._ratio = lambda of_samples: memorisation(of_samples, distance, subjects, seed).ratio

    def __call__(self, images: np.ndarray, z_bin: np.ndarray) -> dict[str, float]:
        """KID against the validation slices, and R: how far samples are from the training slices of their z-bin, as a
        multiple of how far the validation slices are.

        Args:
            images: (N, H, W) in [-1, 1].
            z_bin: (N,).
        """
        features = extract(to_uint8(images), self.extractor, device=self.device, progress=False)
        distance, _ = nearest(features, self.train, z_bin, self.train_bin, device=self.device)
        return {
            "kid": kid(self.val, features, self.seed, SUBSETS).value,
            "memorisation_ratio": self._ratio(distance),
        }


def _grey(store: SliceStore, rows: np.ndarray) -> np.ndarray:
    """The slices of these rows as uint8; block by block, because the way there takes many times their size."""
    blocks = [
        to_uint8(np.asarray(store.images[rows[start : start + BLOCK]]))
        for start in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, *store.size), np.uint8)
