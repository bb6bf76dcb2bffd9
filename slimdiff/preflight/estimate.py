"""Jobs, hours, storage and memory of a whole study, estimated before it starts."""

import os
import shutil
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config import Study
from slimdiff.files import read_table
from slimdiff.preflight.network_cost import NetworkCost, network_cost, trunk_cost
from slimdiff.stages.weights import needed

CPU_FLOP_PER_S = 60e9
"""Of one core in training and sampling: 71e9 for the paper's network (docs/performance.md), less for small ones."""
GPU_FLOP_PER_S = 1e13
"""Of one GPU; an assumption, because slimdiff has not been measured on one."""
PASSES = 3
"""Cost of a training step in evaluations: forward, and twice as much backward."""
SECONDS = {"preprocess": 2.0, "metrics": 150.0, "job": 2.0}
"""One core: a volume with quality control (docs/performance.md), the metrics of a model, the start of a job."""
GB = 1e9


@dataclass(frozen=True)
class Estimate:
    """What a study costs from its beginning; rough, to within a factor of two."""

    jobs: dict[str, int]
    """Rule: number of jobs."""
    hours: float
    """Wall time with the given cores and GPUs."""
    measured: bool
    """Whether trainings of this study have shown their speed."""
    storage_gb: float
    """All results at the time when they take the most space."""
    memory_gb: float
    """Main memory of the largest training on a CPU."""
    training_flop: float
    """Of all trainings together."""


def jobs_of(study: Study, participants: int) -> dict[str, int]:
    """Jobs of each rule of a study that starts from its data; those of an export are not included."""
    runs, folds = len(study.runs()), study.folds.k
    first = "phantom" if study.data.source == "phantom" else "fetch" if study.data.fetch.dataset else None
    single = (
        "participants",
        "quality",
        "kfold",
        "cache",
        "compare",
        "figures",
        "tables",
        "provenance",
    )
    jobs = ({first: 1} if first else {}) | dict.fromkeys(single, 1)
    jobs |= {
        "weights": len(needed(study)),
        "preprocess": participants,
        "priors": folds,
        "train": runs,
        "metrics": runs,
    }
    jobs["generate"] = runs * study.slices.n_bins
    if study.utility.enabled:
        jobs |= {"segmenter": folds, "utility": runs}
    return jobs


def estimate(study: Study, participants: int, cores: int = 1, gpus: int = 0) -> Estimate:
    """The cost of a whole study.

    Args:
        study: the study.
        participants: number of included participants.
        cores: cores of the run.
        gpus: GPUs of the run; 0: training and sampling run on the cores.
    """
    width, height, depth = study.preprocess.grid
    pixels = width * height
    slices = slices_of_volume(study)
    jobs = jobs_of(study, participants)
    speed = gpus * GPU_FLOP_PER_S if gpus else cores * CPU_FLOP_PER_S
    networks = {name: network_cost(study.variant(name).model, pixels) for name in study.variants}

    training_flop = sampling_flop = known_seconds = storage = memory = state = 0.0
    for name, network in networks.items():
        own = study.variant(name)
        flop = PASSES * network.flop * own.training.steps * own.training.batch_size
        training_flop += flop * study.folds.k
        rate = _measured_rate(study, name)
        if rate:
            images = own.training.steps * own.training.batch_size * study.folds.k
            at_once = gpus or max(1, min(len(study.runs()), cores))
            known_seconds += images / rate / min(at_once, len(study.runs()))
            training_flop -= flop * study.folds.k
        samples = samples_of_model(own)
        guided = 2 if own.generation.guidance != 1 else 1
        sampling_flop += network.flop * own.generation.evaluations * guided * samples * study.folds.k
        averages = 1 + len(own.training.further_ema_decays)
        kept = averages + len(own.training.snapshots)
        storage += study.folds.k * (4 * network.parameters * kept + 4 * pixels * samples)
        # Weights, their averages, two moments of the optimiser at most; a running training keeps the state before, too.
        one_state = 4 * network.parameters * (3 + averages)
        storage += study.folds.k * one_state * own.training.keep_state
        state = max(state, (2 - own.training.keep_state) * one_state)
        memory = max(memory, step_memory(own, network))
    segmenters, segmenting_flop = _segmenters(study, pixels)
    storage += segmenters + min(len(study.runs()), gpus or cores) * state
    # Images as compressed int16 or float32, masks compressed to almost nothing; slices as float16 and uint8.
    storage += participants * pixels * (2.5 * depth + 3 * slices) + _download(study)

    every_job = sum(jobs.values()) * SECONDS["job"]
    seconds = participants * SECONDS["preprocess"] + len(study.runs()) * SECONDS["metrics"] + every_job
    seconds = seconds / cores + known_seconds + (training_flop + sampling_flop + segmenting_flop) / speed
    measured = known_seconds > 0 and training_flop == 0
    whole = sum(
        PASSES * networks[name].flop * own.training.steps * own.training.batch_size * study.folds.k
        for name, own in ((name, study.variant(name)) for name in study.variants)
    )
    return Estimate(jobs, seconds / 3600, measured, storage / GB, memory / GB, whole)


def slices_of_volume(study: Study) -> int:
    """Slices of one volume in the z-range; of an automatic one as many as the grid has."""
    if study.slices.z_range == "auto":
        return study.preprocess.grid[2]
    first, last = study.slices.z_range
    if study.slices.height == "relative":
        return round(study.preprocess.grid[2] * (last - first)) + 1
    # Each volume's own slices are thicker than their pixels.
    thickness = study.preprocess.slice_mm or study.preprocess.pixel_mm
    return round((last - first) / (thickness if study.slices.height == "mm" else 1)) + 1


def step_memory(own: Study, network: NetworkCost) -> float:
    """Bytes of main memory of a training step on a CPU.

    own: the study of one variant.
    """
    part = own.training.batch_size / own.training.accumulate
    return 0.7e9 + 20 * network.parameters + 12 * network.activations * part


def samples_of_model(study: Study) -> int:
    """Samples of one model."""
    number = 2 * study.generation.per_bin_and_class * study.slices.n_bins
    if study.generation.counts:
        from slimdiff.generation.requests import counts_of

        # A table that the study itself makes is not there before the first run.
        with suppress(OSError, ValueError):
            number = sum(counts_of(study.generation, study.slices.n_bins).values())
    return number * study.generation.replicas


def _segmenters(study: Study, pixels: int) -> tuple[float, float]:
    """Bytes, and operations, of the segmenters of a study."""
    config = study.utility
    if not config.enabled:
        return 0.0, 0.0
    attention = (False,) * len(config.channels)
    side = config.patch**2
    one: NetworkCost = trunk_cost(config.channels, 1, attention, side, side, pixels / side)
    folds, shares = study.folds.k, len(config.shares)
    trainings = folds * shares + len(study.runs()) * (shares + 1)
    return (
        4 * one.parameters * folds * shares,
        PASSES * one.flop * config.steps * config.batch_size * trainings,
    )


def _download(study: Study) -> int:
    """Bytes of the dataset that the study fetches."""
    if not study.data.fetch.dataset:
        return 0
    from slimdiff.data.fetch.download import read_file_manifest

    return sum(
        file.size for file in read_file_manifest(study.data.fetch.dataset).files_for(study.data.image_suffix)
    )


def _measured_rate(study: Study, variant: str) -> float | None:
    """Images per second of this study's trainings of a variant so far; None before the first."""
    rates: list[float] = []
    for fold in range(study.folds.k):
        with suppress(OSError, ValueError, KeyError):
            rows = read_table(study.paths.model(variant, fold) / "history.tsv")
            rates += [float(row["images_per_s"]) for row in rows if row["images_per_s"] != "n/a"]
    return statistics.median(rates) if rates else None


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def free_disk_gb(path: Path) -> float:
    """Free space where a folder is, or will be, in GB."""
    return shutil.disk_usage(existing(path)).free / GB


def used_gb(folder: Path) -> float:
    """Size of the files below a folder, in GB."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
    return total / GB


def main_memory_gb(limits: tuple[Path, ...] = (Path("/sys/fs/cgroup/memory.max"),)) -> float | None:
    """Main memory that this process may use, in GB: the machine's, or less in a container; None if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    for path in limits:
        with suppress(OSError, ValueError):
            total = min(total, int(path.read_text()))
    return total / GB
