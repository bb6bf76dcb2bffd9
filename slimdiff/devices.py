"""Which device and precision a stage runs in."""

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable

import torch


class NoDevice(RuntimeError):
    """A device was asked for that is not there."""


def pick_device(wanted: str) -> torch.device:
    """`auto`: CUDA, else MPS, else CPU; under torchrun every process has a card of its own. Raises RuntimeError where
    there is none such."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(name for name in present if present[name]) if wanted == "auto" else wanted
    if not present[name]:
        raise NoDevice(f"device {wanted}: this machine has none; auto takes what there is")
    if name == "cpu":
        keep_freed_memory()
    if name != "cuda":
        return torch.device(name)
    index, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= count:
        raise NoDevice(f"process {index + 1} has no card: this machine has {count}; start {count} processes")
    torch.cuda.set_device(index)
    return torch.device(name, index)


def keep_freed_memory() -> None:
    """Let the process keep what it frees: glibc gives every large block back, and the system clears its pages anew at
    the next tensor, which is a fifth of a training step (docs/performance.md). Does nothing with other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(option, value)


# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def pick_precision(
    wanted: str, device: torch.device, step: Callable[[torch.dtype], None], repeats: int = 3
) -> torch.dtype:
    """The autocast type: as wanted, or for `auto` bfloat16 on a card that has it, elsewhere only where `step` is faster
    in it by a fifth: less than that is within the noise of a shared machine, and runs would differ.

    step(dtype) runs one unit of the stage's work without changing its state.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        try:
            step(dtype)
            seconds[dtype] = min(_timed(step, dtype, device) for _ in range(repeats))
        except RuntimeError:
            # A device without bfloat16 kernels says so here.
            seconds[dtype] = float("inf")
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else torch.float32


def _timed(step: Callable[[torch.dtype], None], dtype: torch.dtype, device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    step(dtype)
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_mb(device: torch.device) -> float:
    """Most memory taken so far, in MB: of the GPU on CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: CUDA has a class for it, the CPU and MPS only a text."""
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def autocast(device: torch.device, dtype: torch.dtype):
    """Autocast context; nothing for float32."""
    # Without the cast cache: what a pass without gradients cached would cut the gradients of the next.
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False)
