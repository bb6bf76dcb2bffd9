"""Which device and precision a stage runs in."""

import resource
import sys
import time
from collections.abc import Callable

import torch


def pick_device(wanted: str) -> torch.device:
    """`auto`: CUDA, else MPS, else CPU. Raises RuntimeError where the wanted device is absent."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[wanted]:
        raise RuntimeError(f"device {wanted}: this machine has none; auto takes what there is")
    return torch.device(wanted)


def pick_precision(
    wanted: str, device: torch.device, step: Callable[[torch.dtype], None], repeats: int = 3
) -> torch.dtype:
    """The autocast type: as wanted, or for `auto` bfloat16 only where `step` is faster in it by a fifth: less than
    that is within the noise of a shared machine, and runs would differ.

    step(dtype) runs one unit of the stage's work without changing its state.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
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
    start = time.perf_counter()
    step(dtype)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
