"""The training set on the device, and the batches drawn from it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slimdiff.data.store import SliceStore
from slimdiff.files import MISSING
from slimdiff.model.conditioning import Condition


@dataclass(frozen=True)
class Batch:
    """A batch of clean pairs."""

    x0: Tensor
    """(B, 2, H, W): image and mask in [-1, 1]."""
    condition: Condition

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.x0[rows], self.condition[rows])


class TrainingSet:
    """All slices of some participants on the device; batches are drawn there, half of them with lesion.

    What is drawn at a step depends on the seed and the step alone, so a resumed run draws the same.
    """

    def __init__(
        self, store: SliceStore, participants: list[str], device: torch.device, lesion_share: float = 0.0
    ):
        rows = store.rows_of(participants)
        if not len(rows):
            raise ValueError(f"{store.folder}: no slice of the {len(participants)} training participants")
        if lesion_share > 0 and not store.label[rows].any():
            raise ValueError(
                f"{store.folder}: no slice of the {len(participants)} training participants has a lesion, but "
                f"training.lesion_share is {lesion_share}; see slices.min_lesion_mm2 and folds"
            )
        self.device = device
        # As the store has them: 3 bytes a pixel instead of the 8 that a batch takes.
        self.images = torch.from_numpy(np.ascontiguousarray(store.images[rows])).to(device)
        self.masks = torch.from_numpy(np.ascontiguousarray(store.masks[rows])).to(device)
        self._names = [
            f"{name} z={z}" for name, z in zip(store.participant[rows], store.z[rows], strict=True)
        ]
        self.z_bin = torch.from_numpy(store.z_bin[rows]).to(device)
        self.label = torch.from_numpy(store.label[rows]).to(device)
        self.acquisitions, acquisition = np.unique(store.acquisition[rows], return_inverse=True)
        self.acquisition = torch.from_numpy(acquisition.astype(np.int64)).to(device)
        self.with_lesion = torch.from_numpy(np.flatnonzero(store.label[rows] == 1)).to(device)
        self.without = torch.from_numpy(np.flatnonzero(store.label[rows] == 0)).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, size: int, lesion_share: float, generator: torch.Generator) -> Batch:
        """A batch of `size` slices with replacement, `lesion_share` of them with lesion, in random order.

        Where the share is no whole number of slices, chance decides the last one.
        """
        return self.take(self.choose(size, lesion_share, generator))

    def choose(self, size: int, lesion_share: float, generator: torch.Generator) -> Tensor:
        """The rows (size,) of such a batch."""
        exact = size * lesion_share
        lesions = int(exact)
        if exact != lesions:
            lesions += int(torch.rand((), generator=generator, device=self.device) < exact - lesions)
        if not len(self.with_lesion):
            lesions = 0
        elif not len(self.without):
            lesions = size
        parts = [
            self._pick(self.with_lesion, lesions, generator),
            self._pick(self.without, size - lesions, generator),
        ]
        chosen = torch.cat(parts)
        return chosen[torch.randperm(size, generator=generator, device=self.device)]

    def take(self, rows: Tensor) -> Batch:
        """The batch of these rows."""
        condition = Condition(self.z_bin[rows], self.label[rows], self.acquisition[rows])
        x0 = torch.stack([self.images[rows].float(), self.masks[rows].float() * 2 - 1], dim=1)
        return Batch(x0, condition)

    def names(self, rows: Tensor) -> list[str]:
        """Participant and slice of these rows, as the slice store names them."""
        return [self._names[row] for row in rows.tolist()]

    def check_acquisitions(self) -> None:
        """Raise ValueError unless every slice's acquisition is known, and there are two at least to tell apart."""
        names = self.acquisitions.tolist()
        if len(names) < 2 or MISSING in names:
            raise ValueError(
                f"model.acquisition: the training slices have {', '.join(names)}; every slice's acquisition has to be "
                "known, and two at least are wanted"
            )

    def acquisition_counts(self) -> list[list[int]]:
        """Slices of every class (outer) and acquisition (inner)."""
        counts = torch.zeros((2, len(self.acquisitions)), dtype=torch.int64)
        for label, acquisition in zip(self.label.tolist(), self.acquisition.tolist(), strict=True):
            counts[label, acquisition] += 1
        return counts.tolist()

    def _pick(self, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        if count == 0:
            return rows[:0]
        return rows[torch.randint(len(rows), (count,), generator=generator, device=self.device)]


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The random stream of one training step."""
    entropy = np.random.SeedSequence([seed, step]).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    return generator.manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
