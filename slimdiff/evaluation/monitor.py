"""KID and memorisation ratio of samples during training, computed on validation and training slices.

Needs only torch and numpy. The held-out test subjects are not used.
"""

from pathlib import Path

import numpy as np
import torch

from slimdiff import weights
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.features import FeatureCache, extract
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.memorisation import bin_scales, memorisation
from slimdiff.evaluation.metrics.neighbours import nearest

BLOCK = 512


class Monitor:
    """Compares samples with the slices of the validation subjects and of the training subjects.

    Args:
        store: the slices.
        train, val: participants of the fold.
        extractor: network that computes the features.
        device: device of the extractor and of the distances.
        cache: folder that caches the features of real slices.
        seed: seed of the KID subsets.
        known_acquisitions: leave out validation slices whose acquisition is not in the training set. A network
            conditioned on the acquisition cannot generate them.

    Raises:
        WeightsUnavailable: the weights of the extractor are not available.
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
        # Missing weights must stop a training before its first step, not at the first validation.
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
        subjects = store.person[of_val]
        distance, _ = nearest(self.val, self.train, self.val_bin, self.train_bin, device=device)
        self.scales = bin_scales(distance, self.val_bin, store.n_bins)
        self._ratio = lambda of_samples, z_bin: (
            memorisation(
                of_samples, distance, subjects, seed, self.scales[z_bin], self.scales[self.val_bin]
            ).ratio
        )

    def __call__(self, images: np.ndarray, z_bin: np.ndarray) -> dict[str, float]:
        """KID against the validation slices, and the memorisation ratio R.

        R is the median distance of samples to the nearest training slice of their z-bin, relative to the median of
        validation slices in that z-bin.

        Args:
            images: (N, H, W) in [-1, 1].
            z_bin: (N,) z-bin of each sample.
        """
        features = extract(to_uint8(images), self.extractor, device=self.device, progress=False)
        distance, _ = nearest(features, self.train, z_bin, self.train_bin, device=self.device)
        return {
            "kid": kid(self.val, features, self.seed).value,
            "memorisation_ratio": self._ratio(distance, z_bin),
        }


def _grey(store: SliceStore, rows: np.ndarray) -> np.ndarray:
    """The slices of these rows as uint8, converted in blocks to limit memory."""
    blocks = [
        to_uint8(np.asarray(store.images[rows[start : start + BLOCK]]))
        for start in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty((0, *store.size), np.uint8)
