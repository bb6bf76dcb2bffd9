"""Snakemake with the profile of the cluster, and trainings that a test can hold at a chosen step."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.workflow_runs import ROOT

END_S = 1800
"""Longest run of one Snakemake; only there so that a test that hangs ends."""
CHECKOUT = ("Snakefile", "workflow", "profiles", "envs", "config")
ON_CPUS = {section: {"device": "cpu"} for section in ("training", "generation", "evaluation", "utility")}
"""Sections of a study that asks for no card: those of these tests cannot compute."""
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")


class Engine:
    """`snakemake --profile slurm` in a folder, as README.md has it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str):
        self.folder, self.log = folder, folder / "engine.log"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        modules = os.pathsep.join(filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("ab") as log:
            self.begin = log.tell()
            self.process = subprocess.Popen(
                ["snakemake", "--profile", "slurm", "--configfile", "study.json", *arguments],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path, "PYTHONPATH": modules, **environment},
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_bytes()[self.begin :].decode(errors="replace")

    def end(self) -> int:
        """Exit status, once it has ended."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(END_S)
        pytest.fail(f"Snakemake does not end: {self.output()[-5000:]}")

    def until(self, condition: Callable[[], object], what: str, runs: bool = True):
        """Wait for a condition, and return its value; where it `runs`, an end of Snakemake before is a failure."""
        end = time.monotonic() + END_S
        while not (found := condition()):
            if (runs and self.process.poll() is not None) or time.monotonic() > end:
                pytest.fail(f"{what}: not seen, Snakemake {self.process.poll()}: {self.output()[-5000:]}")
            time.sleep(0.2)
        return found

    def submitted(self) -> list[str]:
        """Numbers of the jobs that it submitted."""
        return re.findall(r"submitted with SLURM jobid (\d+)", self.output())

    def started(self) -> list[str]:
        """Messages of the jobs that it started, in order: the rule, then what the job is about."""
        return re.findall(r"^ *Job \d+: (.*)$", self.output(), re.MULTILINE)


def checkout(folder: Path) -> Path:
    """What Snakemake needs of the repository, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CHECKOUT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "slurm").symlink_to("profiles/slurm")
    return folder


# Trainings that a test can hold ---------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path

with open("/proc/self/cmdline") as file:
    words = file.read().split("\\0")[1:-1]
if words and os.path.basename(words[0]) == "slimdiff-train" and "SLURM_SUBMIT_DIR" in os.environ:
    from slimdiff.training.trainer import Trainer

    advance, here = Trainer.advance, Path(os.environ["SLURM_SUBMIT_DIR"])
    cell = words[words.index("--variant") + 1] + "-" + words[words.index("--fold") + 1]
    hold, reached, megabytes = (here / f"{cell}.{kind}" for kind in ("hold", "reached", "megabytes"))

    def held(self):
        if self.step == 4:
            first = not reached.exists()
            with open(reached, "a") as lines:
                job, cards = os.environ["SLURM_JOB_ID"], os.environ.get("CUDA_VISIBLE_DEVICES")
                lines.write(f"{job} {os.getpid()} {cards}\\n")
            while first and hold.exists() and not megabytes.exists() and not self._stop:
                time.sleep(0.1)
            if megabytes.exists():
                self.eaten = b"1" * (int(megabytes.read_text()) * 10**6)
                time.sleep(5)
        return advance(self)

    Trainer.advance = held
"""
"""Text of a sitecustomize.py, which every Python of the jobs reads: the first attempt of a training waits before step 4
while CELL.hold exists, and every attempt takes the memory that CELL.megabytes says. A state is saved after step 3."""


class Training:
    """One training of the tiny study in a folder, by variant and fold, and what is known of its attempts."""

    def __init__(self, folder: Path, variant: str, fold: int = 0):
        self.folder, self.variant, self.fold = folder, variant, fold
        self.cell = f"{variant}-{fold}"
        self.target = f"results/tiny/models/{variant}/fold-{fold}/model.safetensors"
        self.model = folder / self.target

    def hold(self) -> "Training":
        (self.folder / f"{self.cell}.hold").touch()
        return self

    def release(self) -> None:
        (self.folder / f"{self.cell}.hold").unlink()

    def take(self, megabytes: int) -> None:
        """Let it take this memory before step 4."""
        partial = self.folder / f"{self.cell}.partial"
        partial.write_text(str(megabytes))
        partial.rename(self.folder / f"{self.cell}.megabytes")

    def reached(self) -> list[tuple[str, int, str]]:
        """Slurm's job, process and CUDA_VISIBLE_DEVICES of each attempt that came to step 4."""
        path = self.folder / f"{self.cell}.reached"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(job, int(process), cards) for job, process, cards in map(str.split, lines)]

    def log(self) -> str:
        """The log of its last attempt."""
        return (
            self.folder / "results" / "tiny" / "logs" / "train" / f"{self.variant}_fold-{self.fold}.log"
        ).read_text()

    def jobs(self, cluster) -> list[dict[str, str]]:
        """Its jobs in Slurm, the first one first."""
        own = f"_{self.variant}_{self.fold}"
        found = [job for job in cluster.jobs() if job["folder"] == str(self.folder)]
        return sorted((job for job in found if job["comment"] == f"rule_train_wildcards{own}"), key=_number)


def _number(job: dict[str, str]) -> int:
    return int(job["id"])
