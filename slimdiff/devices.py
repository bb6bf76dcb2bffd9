"""Which device and precision a stage runs in."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from slimdiff import cards
from slimdiff.compilation import compile_obstacle


class NoDevice(RuntimeError):
    """The requested device does not exist on this machine."""


def pick_device(name: str, among: tuple[str, ...] = ("cuda", "mps", "cpu")) -> torch.device:
    """`auto`: CUDA, else MPS, else CPU; under torchrun each process has its own GPU.

    `auto` prints what it took, and why, once per process. Where a GPU was allocated (`--resources gpu=N`, a cluster's
    job), `auto` never takes the CPU.

    Args:
        name: `auto`, or a kind of device.
        among: what `auto` may take, in this order.

    Raises NoDevice if the device does not exist or torch cannot use it.
    """
    obstacle = None
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in ("auto", "cuda"):
        obstacle = _card_obstacle(present["cuda"])
        present["cuda"] = present["cuda"] and obstacle is None
    asked = name
    if name == "auto":
        name = next(kind for kind in among if present[kind])
        allocated = cards.allocation()
        if name == "cpu" and allocated:
            raise NoDevice(
                f"device auto: {allocated} asks for a GPU, but torch cannot use one: {obstacle or _UNKNOWN}. To use "
                "the CPU on purpose, set device: cpu"
            )
    if not present[name]:
        found = ", ".join(kind for kind in present if present[kind])
        reason = f". Of the GPU: {obstacle}" if name == "cuda" and obstacle else ""
        raise NoDevice(
            f"device {name}: not found on this machine, which has {found}; set device: auto{reason}"
        )
    if name == "cpu":
        keep_freed_memory()
    device = _own_card() if name == "cuda" else torch.device(name)
    if asked == "auto":
        _tell_choice(device, obstacle)
    return device


_UNKNOWN = "torch.cuda.is_available() is false for a reason that torch does not name"


def _card_obstacle(available: bool) -> cards.Obstacle | None:
    """Why torch cannot use the first card that this process sees; None if it can, or if no reason is known."""
    if torch.version.hip:
        return None
    driver = cards.nvidia_driver()
    if available and driver is None:
        return None
    return cards.obstacle_of(cards.torch_build(), driver, available=available)


def _own_card() -> torch.device:
    """The card of this process: under torchrun by its rank, in a job of the workflow one that no other job uses."""
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", 0))
    if index >= count:
        raise NoDevice(f"process {index + 1} has no GPU: this machine has {count}; start {count} processes")
    if "LOCAL_RANK" not in os.environ and os.environ.get(cards.GRANTED, "0") != "0":
        index = cards.claim(1, count)[0]
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def own_cards(processes: int) -> dict[str, str]:
    """Environment of a job's processes under torchrun: CUDA_VISIBLE_DEVICES with cards that no other job uses.

    Empty outside the workflow, and where there are not enough cards; each process then reports its own missing card.
    """
    count = torch.cuda.device_count() if os.environ.get(cards.GRANTED, "0") != "0" else 0
    if count < processes:
        return {}
    names = cards.visible_cards(count)
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[index] for index in cards.claim(processes, count))}


def hardware(device: torch.device) -> str:
    """Model name of the GPU or processor that computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def processor() -> str:
    """The processor's model name, if the system reports one."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return platform.processor() or platform.machine()


_told: set[str] = set()


def _tell_choice(device: torch.device, obstacle: cards.Obstacle | None) -> None:
    if device.type in _told or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    _told.add(device.type)
    if device.type == "cuda":
        try:
            reason = f"{torch.cuda.get_device_name(device)}, {torch.cuda.device_count()} found"
        except (RuntimeError, AssertionError):
            reason = "torch found it"
    elif device.type == "mps":
        reason = "Apple's GPU"
    else:
        reason = f"no GPU that torch can use: {obstacle.found if obstacle else _UNKNOWN}"
        if cards.cards_on_the_bus():
            reason += f". THE MACHINE HAS A GPU: {obstacle.remedy if obstacle else 'see nvidia-smi'}"
    print(f"device auto: took {device} ({reason})", file=sys.stderr, flush=True)


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees. glibc returns every large block to the system, which clears its
    pages again at the next tensor: a fifth of a training step (docs/performance.md). No effect with other C
    libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Threads with parts of a batch would wait for each other at a single arena.
        threads = torch.get_num_threads()
        arenas = threads + 1 if threads > 1 else 1
        for option, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, arenas)):
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


class Compiled:
    """A function under torch.compile, and the plain function where this machine cannot compile.

    A missing compiler or an unusable cache is found before the first call; what else stops the compiler, at the first
    call. Either way one line says so, and the work goes ahead without it.

    Args:
        function: a network's forward pass.
        device: where it runs.
    """

    def __init__(self, function: Callable, device: torch.device):
        self.function = function
        self.checked = False
        """Whether a first call has shown that the compiler works."""
        obstacle = compile_obstacle(device.type)
        # Only few shapes occur, each of which gets its own code.
        self.fast: Callable | None = None if obstacle else torch.compile(function, dynamic=False)
        if obstacle:
            self._tell(obstacle)

    @property
    def active(self) -> bool:
        """Whether calls run compiled code."""
        return self.fast is not None

    def __call__(self, *arguments, **options):
        if self.fast is None:
            return self.function(*arguments, **options)
        if self.checked:
            return self.fast(*arguments, **options)
        try:
            result = self.fast(*arguments, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            if is_out_of_memory(error):
                raise
            self.fast = None
            self._tell(str(error).strip().partition("\n")[0])
            return self.function(*arguments, **options)
        self.checked = True
        return result

    def _tell(self, reason: str) -> None:
        print(f"without torch.compile, so slower: {reason}", file=sys.stderr, flush=True)
