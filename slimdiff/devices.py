"""Which device and precision a stage runs in."""

import ctypes
import os
import resource
import sys

import torch


class NoDevice(RuntimeError):
    """The requested device does not exist on this machine."""


def pick_device(name: str) -> torch.device:
    """`auto`: CUDA, else MPS, else CPU; under torchrun each process has its own GPU. Raises NoDevice if there is
    none."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in present if present[kind])
    if not present[name]:
        found = ", ".join(kind for kind in present if present[kind])
        raise NoDevice(f"device {name}: not found on this machine, which has {found}; set device: auto")
    if name == "cpu":
        keep_freed_memory()
    if name != "cuda":
        return torch.device(name)
    index, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= count:
        raise NoDevice(f"process {index + 1} has no GPU: this machine has {count}; start {count} processes")
    torch.cuda.set_device(index)
    return torch.device(name, index)


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees. glibc returns every large block to the system, which clears its
    pages again at the next tensor: a fifth of a training step (docs/performance.md). No effect with other C
    libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(option, value)


# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast type of a precision. `auto`: bfloat16 on a CUDA device that has it, else float32. A processor's
    speed is not measured: on a busy machine the choice, and with it the weights, would depend on chance."""
    if name != "auto":
        return getattr(torch, name)
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far, in MB: of the GPU on CUDA, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: CUDA has an exception for it, the CPU and MPS only a message."""
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def autocast(device: torch.device, dtype: torch.dtype):
    """Autocast context; without effect for float32."""
    # Without the cast cache: casts cached in a pass without gradients would cut the gradients of the next pass.
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False)
