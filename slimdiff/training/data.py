"""Training slices: all on the device, or in the slice store and read ahead of the steps."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slimdiff.data.store import SliceStore
from slimdiff.files import MISSING
from slimdiff.model.conditioning import Condition

READ_AHEAD = 3
"""Number of steps whose slices are read ahead."""
SHARE_OF_FREE_MEMORY = 0.5
BLOCK = 512
"""Slices copied to the device at a time."""


class OnDevice:
    """All slices in the store's types: 3 bytes per pixel instead of the 8 of a float32 batch."""

    def __init__(self, store: SliceStore, rows: np.ndarray, device: torch.device):
        self.device = device
        shape = (len(rows), *store.size)
        self.images = torch.empty(shape, dtype=torch.float16, device=device)
        self.masks = torch.empty(shape, dtype=torch.uint8, device=device)
        # Block by block, so that the host never holds the whole store.
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            self.images[block] = torch.from_numpy(np.ascontiguousarray(store.images[rows[block]])).to(device)
            self.masks[block] = torch.from_numpy(np.ascontiguousarray(store.masks[rows[block]])).to(device)

    def at(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (float16) and masks (uint8) of these rows of the set, (B, H, W) each."""
        index = to_device(rows, self.device)
        return self.images[index], self.masks[index]

    def read(self, step: int, rows_at: Callable[[int], np.ndarray]) -> tuple[Tensor, Tensor]:
        """The same for the rows of a step."""
        return self.at(rows_at(step))


class OnDisk:
    """Slices of a memory-mapped store; a thread reads the slices of the next steps into pinned memory.

    Args:
        store: the slice store.
        rows: the store rows of the set.
        device: device of the batches.
    """

    def __init__(self, store: SliceStore, rows: np.ndarray, device: torch.device):
        self.store, self.rows, self.device = store, rows, device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="slices")
        self.coming: dict[int, Future] = {}

    def at(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (float16) and masks (uint8) of these rows of the set, (B, H, W) each."""
        return self._on_device(self._load(rows))

    def read(self, step: int, rows_at: Callable[[int], np.ndarray]) -> tuple[Tensor, Tensor]:
        """The same for the rows of a step; also starts reading the next steps. All calls need the same `rows_at`."""
        wanted = range(step, step + READ_AHEAD + 1)
        for one in wanted:
            if one not in self.coming:
                self.coming[one] = self.thread.submit(self._load, rows_at(one))
        # Drop reads that a run which skipped steps no longer needs.
        self.coming = {one: future for one, future in self.coming.items() if one in wanted}
        return self._on_device(self.coming.pop(step).result())

    def _on_device(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        images, masks = (part.to(self.device, non_blocking=True) for part in parts)
        return images, masks

    def _load(self, rows: np.ndarray) -> list[Tensor]:
        chosen = self.rows[rows]
        return [
            pinned(np.ascontiguousarray(part[chosen]), self.device)
            for part in (self.store.images, self.store.masks)
        ]


def slice_loader(store: SliceStore, rows: np.ndarray, device: torch.device, where: str) -> OnDevice | OnDisk:
    """Place the slices as the study says: `auto`, `device` or `disk`."""
    if where == "auto":
        height, width = store.size
        bytes_wanted = 3 * len(rows) * height * width
        where = "device" if bytes_wanted <= SHARE_OF_FREE_MEMORY * free_memory(device) else "disk"
    return (OnDevice if where == "device" else OnDisk)(store, rows, device)


def free_memory(device: torch.device) -> float:
    """Free bytes: of the GPU on CUDA, else of the machine (infinite where the system does not report them)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return float("inf")


def pinned(values: np.ndarray, device: torch.device) -> Tensor:
    """A host tensor that a CUDA device can copy asynchronously."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """The values on the device; the host does not wait for the copy."""
    return pinned(values, device).to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """A batch of clean pairs."""

    x0: Tensor
    """(B, 2, H, W): image and mask in [-1, 1]."""
    condition: Condition

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.x0[rows], self.condition[rows])


class TrainingSet:
    """All slices of some participants, with a chosen share of lesion slices per batch.

    The slices of a step are chosen on the host and depend only on the seed and the step. Every device, every process
    and a resumed run choose the same slices, and slices can be read before their step.

    Args:
        store: the slice store.
        participants: participants of the set.
        device: device of the batches.
        lesion_share: share of lesion slices that batches will have.
        where: `auto`, `device` or `disk`; `auto` is the device if the slices fit into half of its free memory.
    """

    def __init__(
        self,
        store: SliceStore,
        participants: list[str],
        device: torch.device,
        lesion_share: float = 0.0,
        where: str = "device",
    ):
        rows = store.rows_of(participants)
        if not len(rows):
            raise ValueError(
                f"{store.folder}: found no slice of the {len(participants)} training participants"
            )
        if lesion_share > 0 and not store.label[rows].any():
            raise ValueError(
                f"{store.folder}: training.lesion_share is {lesion_share}, but no slice of the {len(participants)} "
                "training participants has a lesion; check slices.min_lesion_mm2 and folds"
            )
        self.device = device
        self.slices = slice_loader(store, rows, device, where)
        self._names = [
            f"{name} z={z}" for name, z in zip(store.participant[rows], store.z[rows], strict=True)
        ]
        self.z_bin = store.z_bin[rows].astype(np.int64)
        self.label = store.label[rows].astype(np.int64)
        self.acquisitions, acquisition = np.unique(store.acquisition[rows], return_inverse=True)
        self.acquisition = acquisition.astype(np.int64)
        self.with_lesion, self.without = np.flatnonzero(self.label == 1), np.flatnonzero(self.label == 0)
        self._facts = torch.from_numpy(np.stack([self.z_bin, self.label, self.acquisition])).to(device)

    def __len__(self) -> int:
        return len(self.label)

    def choose(self, size: int, lesion_share: float, rng: np.random.Generator) -> np.ndarray:
        """Rows (size,) with replacement, `lesion_share` of them with lesion, in random order.

        If the share is not a whole number of slices, the last one is drawn at random.
        """
        lesions = int(size * lesion_share + rng.random())
        if not len(self.with_lesion):
            lesions = 0
        elif not len(self.without):
            lesions = size
        parts = [
            rows[rng.integers(len(rows), size=count)]
            for rows, count in ((self.with_lesion, lesions), (self.without, size - lesions))
            if count
        ]
        return rng.permutation(np.concatenate(parts))

    def take(self, step: int, rows_at: Callable[[int], np.ndarray]) -> Batch:
        """The batch of a step; `rows_at` gives the rows of any step."""
        return self._batch(rows_at(step), *self.slices.read(step, rows_at))

    def at(self, rows: np.ndarray) -> Batch:
        """The batch of these rows."""
        return self._batch(rows, *self.slices.at(rows))

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All slices, in blocks: x0 (B, 2, H, W), z_bin (B,), label (B,)."""
        for start in range(0, len(self), BLOCK):
            batch = self.at(np.arange(start, min(start + BLOCK, len(self))))
            yield batch.x0, batch.condition.z_bin, batch.condition.label

    def _batch(self, rows: np.ndarray, images: Tensor, masks: Tensor) -> Batch:
        z_bin, label, acquisition = self._facts[:, to_device(rows, self.device)]
        # Filled in place: stacking two float copies takes twice the time.
        x0 = torch.empty((len(images), 2, *images.shape[1:]), device=images.device)
        x0[:, 0], x0[:, 1] = images, masks
        x0[:, 1].mul_(2).sub_(1)
        return Batch(x0, Condition(z_bin, label, acquisition))

    def names(self, rows: np.ndarray) -> list[str]:
        """Names of these rows: participant and slice index."""
        return [self._names[row] for row in rows]

    def check_acquisitions(self) -> None:
        """Raise ValueError unless every slice has an acquisition and there are at least two different ones."""
        names = self.acquisitions.tolist()
        if len(names) < 2 or MISSING in names:
            raise ValueError(
                "model.acquisition: expected an acquisition for every training slice and at least two different "
                f"ones, found {', '.join(names)}; complete the acquisitions or set model.acquisition: false"
            )

    def acquisition_counts(self) -> list[list[int]]:
        """Number of slices of every class (outer) and acquisition (inner)."""
        counts = np.zeros((2, len(self.acquisitions)), dtype=np.int64)
        np.add.at(counts, (self.label, self.acquisition), 1)
        return counts.tolist()


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Random stream of a training step on the host."""
    return np.random.default_rng([seed, step, 1])


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Random stream of a training step on the device."""
    entropy = np.random.SeedSequence([seed, step]).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    return generator.manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)
