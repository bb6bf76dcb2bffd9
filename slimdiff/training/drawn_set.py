"""A training set that is drawn while the network is trained: every slice is a new head (docs/pretraining.md)."""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import torch

from slimdiff.data.phantom.drawn import Drawn, SliceDrawer
from slimdiff.data.store import SliceStore
from slimdiff.files import MISSING
from slimdiff.model.conditioning import Condition
from slimdiff.training.data import Batch, TrainingSet

KNOWN = 2048
"""Slices of the Gaussian model and the calibration of masks, which need a fixed set."""
FIRST_KNOWN = 2**62
"""Their numbers begin here; those of training steps are smaller."""
BLOCK = 64


def drawn_store(drawer: SliceDrawer, n_bins: int, facts: dict) -> SliceStore:
    """KNOWN drawn slices, each of a participant of its own, in memory.

    Args:
        drawer: draws the slices.
        n_bins: z-bins of the relative height.
        facts: all that determines the slices, for the hash of the data.
    """
    height, width = drawer.size
    images = np.empty((KNOWN, height, width), np.float16)
    masks = np.empty((KNOWN, height, width), np.uint8)
    z_bin, label = np.empty(KNOWN, int), np.empty(KNOWN, int)
    for start in range(0, KNOWN, BLOCK):
        rows = slice(start, start + BLOCK)
        numbers = FIRST_KNOWN + np.arange(start, start + BLOCK)
        drawn = drawer.draw(numbers, numbers % 2 == 1)
        images[rows] = drawn.x0[:, 0].cpu().numpy()
        masks[rows] = drawn.x0[:, 1].cpu().numpy() > 0
        z_bin[rows], label[rows] = z_bins_of(drawn, n_bins).cpu().numpy(), drawn.label.cpu().numpy()
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    about = {
        "n_bins": n_bins,
        "spacing_mm": drawer.spacing_mm,
        "height": "relative",
        "z_range": [0.0, 1.0],
        "bin_centres": [(number + 0.5) / n_bins for number in range(n_bins)],
        "sha256": {"images": key[:16], "masks": key[16:32], "slices": key[32:48]},
    }
    names = np.array([f"drawn-{number}" for number in range(KNOWN)])
    nowhere = np.full(KNOWN, MISSING)
    return SliceStore("drawn", images, masks, names, np.zeros(KNOWN, int), z_bin, label, nowhere, about)


def z_bins_of(drawn: Drawn, n_bins: int) -> torch.Tensor:
    """z-bin of each slice, int64 (B,)."""
    return (drawn.height * n_bins).long().clamp_max(n_bins - 1)


class DrawnSet(TrainingSet):
    """Training slices that are drawn for their step; KNOWN fixed ones for all that needs a set.

    A row of a step is twice the number of a slice, plus one for a slice with a lesion.

    Args:
        drawer: draws the slices.
        store: from `drawn_store`.
        participants: of the store.
        device: device of the batches.
        lesion_share: share of lesion slices that batches will have.
        where: where the fixed slices are; see `TrainingSet`.
    """

    def __init__(
        self,
        drawer: SliceDrawer,
        store: SliceStore,
        participants: list[str],
        device: torch.device,
        lesion_share: float = 0.0,
        where: str = "device",
    ):
        super().__init__(store, participants, device, lesion_share, where)
        self.drawer, self.n_bins = drawer, store.n_bins

    def choose(self, size: int, lesion_share: float, rng: np.random.Generator) -> np.ndarray:
        """Rows of new slices (size,), `lesion_share` of them to have a lesion, in random order."""
        numbers = rng.integers(FIRST_KNOWN // 2, size=size)
        lesions = np.arange(size) < int(size * lesion_share + rng.random())
        return 2 * numbers + rng.permutation(lesions)

    def take(self, step: int, rows_at: Callable[[int], np.ndarray]) -> Batch:
        """The batch of a step; `rows_at` gives the rows of any step."""
        rows = rows_at(step)
        drawn = self.drawer.draw(rows // 2, rows % 2 == 1)
        acquisition = torch.zeros_like(drawn.label)
        return Batch(drawn.x0, Condition(z_bins_of(drawn, self.n_bins), drawn.label, acquisition))

    def names(self, rows: np.ndarray) -> list[str]:
        """Names of these rows: the slices' numbers."""
        return [f"drawn {row // 2}" for row in rows]
