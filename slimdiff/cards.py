"""NVIDIA cards without importing torch: what the driver shows, whether torch's build can use it, a lock a card."""

import ctypes
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRANTED = "SLIMDIFF_GPUS"
"""Environment variable that the workflow sets for its jobs: the N of `--resources gpu=N`."""
ALLOCATIONS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES")
"""Environment variables in which a cluster or a user names the cards of a job."""
WHEELS = "https://download.pytorch.org/whl"
Version = tuple[int, int]


@dataclass(frozen=True)
class Build:
    """The installed build of torch."""

    version: str
    cuda: Version | None
    """CUDA that its wheel was built with; None: a build without."""
    archs: tuple[str, ...] | None = None
    """Architectures of its kernels (`sm_90`, `compute_90`); None: not known without importing torch."""


@dataclass(frozen=True)
class Card:
    """One card that the driver shows."""

    name: str
    capability: Version


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver."""

    cuda: Version
    """The newest CUDA that it supports."""
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Obstacle:
    """Why torch cannot use a card, and what to do."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}; {self.remedy}"


def torch_build() -> Build | None:
    """The installed torch by its file version.py; its architectures only if it is imported. None: not installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= '(\d+)\.(\d+)", text, re.MULTILINE)
    return Build(
        version[1] if version else "?", (int(cuda[1]), int(cuda[2])) if cuda else None, kernel_archs()
    )


def kernel_archs() -> tuple[str, ...] | None:
    """Architectures of torch's kernels; None where torch is not imported or has none."""
    flags = getattr(getattr(sys.modules.get("torch"), "_C", None), "_cuda_getArchFlags", None)
    return tuple((flags() or "").split()) or None if flags else None


def nvidia_driver(library: str = "libcuda.so.1") -> Driver | None:
    """What the driver shows to this process; None where its library is not found or does not start."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return None
    number, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    if cuda.cuDriverGetVersion(ctypes.byref(number)):
        return None
    version = (number.value // 1000, number.value % 1000 // 10)
    cards = []
    # cuInit fails where there is a driver, but no card for this process.
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(number)) == 0:
        for index in range(number.value):
            capability = []
            for attribute in _CAPABILITY:
                cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, index)
                capability.append(number.value)
            cuda.cuDeviceGetName(name, len(name), index)
            cards.append(Card(name.value.decode(errors="replace"), (capability[0], capability[1])))
    return Driver(version, tuple(cards))


# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_CAPABILITY = (75, 76)


def cards_on_the_bus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """Number of NVIDIA graphics cards in the machine, with or without driver; in a container those of its host, too."""
    count = 0
    for device in devices.glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def allocation(environment: Mapping[str, str] = os.environ) -> str | None:
    """Where this process was given a card, in words; None if it was given none."""
    granted = environment.get(GRANTED, "")
    if granted.isdecimal() and int(granted):
        return f"--resources gpu={granted}"
    for name in ALLOCATIONS:
        value = environment.get(name, "").strip()
        if value and value not in ("-1", "NoDevFiles", "void"):
            return f"{name}={value}"
    return None


def has_kernels(archs: Sequence[str], capability: Version) -> bool:
    """Whether kernels of these architectures run on a card of this compute capability.

    `sm_86` runs on the same major version from this minor version on, `sm_90a` on this one alone, and `compute_90` is
    compiled by the driver for every later card.
    """
    for arch in archs:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", arch)
        if not found:
            continue
        own = (int(found[2]), int(found[3]))
        if found[4] == "a":
            fits = own == capability
        elif found[1] == "compute":
            fits = own <= capability
        else:
            fits = own[0] == capability[0] and own[1] <= capability[1]
        if fits:
            return True
    return False


def fitting_wheel(driver: Version, capability: Version) -> str:
    """What to install, or to update first, for a card behind a driver of this CUDA version.

    Wheels for CUDA 12.6 exist up to torch 2.14 and reach back to Maxwell; those for CUDA 12.8 up to 2.10; those for
    CUDA 13 need driver 580 and a card of Turing or later (pytorch/pytorch, RELEASE.md).
    """
    if capability < (5, 0):
        return (
            "no wheel of slimdiff's torch (2.8 or newer) supports this card; use another card, or device: cpu"
        )
    first = (
        "" if driver[0] >= 12 else "update the driver to 580 or newer (525 for cards before Turing), then: "
    )
    if capability < (7, 5) or (driver[0] < 13 and capability < (9, 0) and not first):
        requirement, index = "torch<2.15", "cu126"
    elif driver[0] < 13 and not first:
        requirement, index = "torch<2.11", "cu128"
    else:
        requirement, index = "torch", "cu130"
    return f'{first}pip install --upgrade --force-reinstall "{requirement}" torchvision --index-url {WHEELS}/{index}'


def obstacle_of(
    build: Build | None, driver: Driver | None, index: int = 0, available: bool = False
) -> Obstacle | None:
    """Why this build of torch cannot use card `index` of this driver; None where no reason is known.

    available: torch has started CUDA, so that only the kernels can be missing.
    """
    if build is None:
        return Obstacle("torch is not installed", "install slimdiff with its dependencies: pip install -e .")
    if driver is None:
        return Obstacle(
            "no NVIDIA driver found (libcuda.so.1)",
            "install the driver; start a container with --gpus all (Docker) or --nv (Apptainer)",
        )
    card = driver.cards[index] if index < len(driver.cards) else None
    if card is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        setting = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        return Obstacle(
            f"the NVIDIA driver shows {len(driver.cards)} cards to this process{setting}",
            "compare with nvidia-smi, and check what the job was given",
        )
    shown = f"{card.name}, compute capability {card.capability[0]}.{card.capability[1]}"
    remedy = fitting_wheel(driver.cuda, card.capability)
    if build.cuda is None:
        return Obstacle(f"torch {build.version} is a build without CUDA, the card is {shown}", remedy)
    wheel, supported = (".".join(map(str, version)) for version in (build.cuda, driver.cuda))
    if driver.cuda[0] < build.cuda[0] and not available:
        return Obstacle(
            f"torch {build.version} needs a driver for CUDA {wheel}, the driver supports up to {supported}",
            f"update the driver, or for {shown}: {remedy}",
        )
    if build.archs and not has_kernels(build.archs, card.capability):
        return Obstacle(
            f"torch {build.version} has no kernels for {shown} (only {', '.join(build.archs)})", remedy
        )
    return None


# A lock a card -----------------------------------------------------------------------------------------------------

_held: list[int] = []
"""Open files of the locks of this process: they end with it."""
_claimed: dict[int, list[int]] = {}


def claim(number: int, count: int) -> list[int]:
    """Indices of `number` of the `count` visible cards that other jobs of this user do not use.

    A job keeps its cards until its process ends. Where there are more jobs than cards, cards are shared evenly and a
    line says so. The same process always gets the same cards.
    """
    if number in _claimed:
        return _claimed[number]
    folder = Path(tempfile.gettempdir()) / f"slimdiff-cards-{os.getuid() if hasattr(os, 'getuid') else 0}"
    names = visible_cards(count)
    try:
        import fcntl

        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / "choosing").open("w") as choosing:
            # One job chooses at a time: otherwise two jobs of two cards each could both hold one.
            fcntl.flock(choosing, fcntl.LOCK_EX)
            shares = [_lowest_free_share(folder, name) for name in names]
            order = sorted(range(count), key=lambda index: shares[index][0])
            for index, (_, handle) in enumerate(shares):
                if index in order[:number]:
                    _held.append(handle)
                else:
                    os.close(handle)
    except (ImportError, OSError) as error:
        print(f"no lock for a card ({error}); taking the first of {count}", file=sys.stderr)
        _claimed[number] = list(range(number))
        return _claimed[number]
    chosen = sorted(order[:number])
    for index in chosen:
        if shares[index][0]:
            print(
                f"card {names[index]} is shared with {shares[index][0]} other jobs: more jobs than cards; set "
                f"--resources gpu={count}",
                file=sys.stderr,
            )
    _claimed[number] = chosen
    return chosen


def visible_cards(count: int) -> list[str]:
    """Names of the visible cards, as CUDA_VISIBLE_DEVICES has them."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(index) for index in range(count)]


def _lowest_free_share(folder: Path, name: str) -> tuple[int, int]:
    """The lowest number of a card's locks that no job holds, and the open file that now holds it."""
    import fcntl

    share = 0
    while True:
        path = folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.{share}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return share, handle
        except BlockingIOError:
            os.close(handle)
            share += 1
