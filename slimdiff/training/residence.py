"""Where the training slices lie: all on the device, or in the slice store and read ahead of the steps."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from slimdiff.data.store import SliceStore

READ_AHEAD = 3
"""Steps whose slices are being read while one is computed."""
SHARE_OF_FREE_MEMORY = 0.5
BLOCK = 512
"""Slices copied to the device at a time."""


class OnDevice:
    """All slices as the store has them: 3 bytes a pixel instead of the 8 that a batch takes."""

    def __init__(self, store: SliceStore, rows: np.ndarray, device: torch.device):
        self.device = device
        shape = (len(rows), *store.size)
        self.images = torch.empty(shape, dtype=torch.float16, device=device)
        self.masks = torch.empty(shape, dtype=torch.uint8, device=device)
        # Block by block, so that the host never holds all of a store that the device does.
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            self.images[block] = torch.from_numpy(np.ascontiguousarray(store.images[rows[block]])).to(device)
            self.masks[block] = torch.from_numpy(np.ascontiguousarray(store.masks[rows[block]])).to(device)

    def at(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images float16 and masks uint8, (B, H, W) each, of these rows of the set."""
        index = to_device(rows, self.device)
        return self.images[index], self.masks[index]

    def read(self, step: int, rows_at: Callable[[int], np.ndarray]) -> tuple[Tensor, Tensor]:
        """The same of a step's rows."""
        return self.at(rows_at(step))


class OnDisk:
    """Slices of a memory-mapped store; a thread reads those of the next steps into pinned memory.

    Args:
        store: where they are.
        rows: the store's rows that the set consists of.
        device: where batches go.
    """

    def __init__(self, store: SliceStore, rows: np.ndarray, device: torch.device):
        self.store, self.rows, self.device = store, rows, device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="slices")
        self.coming: dict[int, Future] = {}

    def at(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images float16 and masks uint8, (B, H, W) each, of these rows of the set."""
        return self._on_device(self._load(rows))

    def read(self, step: int, rows_at: Callable[[int], np.ndarray]) -> tuple[Tensor, Tensor]:
        """The same of a step's rows; those of the steps after it are asked for. One `rows_at` for all steps."""
        wanted = range(step, step + READ_AHEAD + 1)
        for one in wanted:
            if one not in self.coming:
                self.coming[one] = self.thread.submit(self._load, rows_at(one))
        # What a run that jumped no longer needs.
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


def place(store: SliceStore, rows: np.ndarray, device: torch.device, where: str) -> OnDevice | OnDisk:
    """The slices where the study wants them: `auto`, `device` or `disk`."""
    if where == "auto":
        height, width = store.size
        bytes_wanted = 3 * len(rows) * height * width
        where = "device" if bytes_wanted <= SHARE_OF_FREE_MEMORY * free_memory(device) else "disk"
    return (OnDevice if where == "device" else OnDisk)(store, rows, device)


def free_memory(device: torch.device) -> float:
    """Bytes that are free: of the card on CUDA, else of the machine (no limit where the system does not tell)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return float("inf")


def pinned(values: np.ndarray, device: torch.device) -> Tensor:
    """A host tensor that a CUDA device can copy while the host goes on."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """The same on the device, without the host waiting for it."""
    return pinned(values, device).to(device, non_blocking=True)
