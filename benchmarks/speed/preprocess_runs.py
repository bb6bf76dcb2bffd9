"""One run of each way from NIfTI files to training slices, for preprocess.py. Standard library only.

This keeps the process small: on Linux a child process inherits its parent's memory peak.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from turns import Side, SideFailed

BATCH = 16
"""Batch size of an epoch."""
# Variables that Snakemake sets for a rule with one thread.
ONE_THREAD = ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")


@dataclass(frozen=True)
class Volumes:
    """Input of both sides."""

    work: Path
    """Output folder."""
    data: dict
    """Section `data` of our study."""
    participants: list[dict]
    """name, image, mask (None: a control)."""
    facts: dict
    """Grid, spacing, z-range, z-bins, minimum lesion size and batch size, for the reference."""

    def study(self, name: str) -> str:
        """JSON of a study that writes to `work`/`name`."""
        least = self.facts["min_lesion_px"] * self.facts["spacing_mm"] ** 2
        study = {"study": name, "results_dir": str(self.work), "data": self.data}
        return json.dumps(study | {"slices": {"min_lesion_mm2": least}})

    def shares(self, workers: int) -> list[list[dict]]:
        """The participants of each worker, without empty parts."""
        return [part for worker in range(workers) if (part := self.participants[worker::workers])]


@dataclass
class Run:
    """Measurements of one run."""

    parts: dict[str, float] = field(default_factory=dict)
    """Seconds: found, quality, volumes, store."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Processor time of each part, in s."""
    memory_mb: list[float] = field(default_factory=list)
    """Peak memory of each parallel worker."""
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """Peak memory of the largest process of each part."""
    disk_mb: float = 0.0
    """Size of the files that training reads."""
    slices: int = 0
    lesion_slices: int = 0

    def seconds(self, quality: bool) -> float:
        return sum(value for part, value in self.parts.items() if quality or part != "quality")

    def cpu_seconds(self, quality: bool) -> float:
        return sum(value for part, value in self.cpu.items() if quality or part != "quality")

    def peak_mb(self, quality: bool) -> float:
        return max(value for part, value in self.peaks_mb.items() if quality or part != "quality")


def our_side(threads: int) -> Side:
    """A warm slimdiff process."""
    return Side(sys.executable, "preprocess_slimdiff.py", threads)


def closed(stack: ExitStack, side: Side) -> Side:
    """Register the side to be closed at the end, and return it."""
    stack.callback(side.close)
    return side


def together(sides: list[Side], questions: list[dict]) -> list[dict]:
    """Ask several sides in parallel; returns their answers."""
    with ThreadPoolExecutor(len(sides)) as pool:
        pairs = zip(sides, questions, strict=True)
        return list(pool.map(lambda pair: pair[0].ask(**pair[1]), pairs))


class Clock:
    """Records the seconds since the previous lap."""

    def __init__(self, parts: dict[str, float]):
        self.parts, self.last = parts, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.parts[name], self.last = now - self.last, now


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def functions(volumes: Volumes, name: str, sides: list[Side], looking: Side) -> Run:
    """slimdiff in warm processes. `looking` runs quality control with as many workers as there are sides."""
    run = Run()
    study = volumes.study(name)
    shares = volumes.shares(len(sides))
    clock = Clock(run.parts)
    looked = looking.ask(what="quality", study=study, workers=len(sides))
    clock.lap("quality")
    sides[0].ask(what="table", study=study)
    clock.lap("found")
    questions = [
        {"what": "volumes", "study": study, "names": [one["name"] for one in part]} for part in shares
    ]
    answers = together(sides[: len(shares)], questions)
    clock.lap("volumes")
    last = sides[0].ask(what="store", study=study)
    clock.lap("store")
    _measured(run, quality=[looked], volumes=answers, store=[last])
    return _weighed(run, volumes, name, looking)


def processes(volumes: Volumes, name: str, workers: int, looking: Side) -> Run:
    """slimdiff as in the workflow: one process for the table, one per volume, and one for the store."""
    run = Run()
    study = volumes.study(name)
    clock = Clock(run.parts)
    looked = _command("participants", "--config", study, f"--workers={workers}")
    clock.lap("quality")
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(
            lambda one: _command("preprocess", "--config", study, f"--participant={one['name']}"),
            volumes.participants,
        )
        each = sorted(done, key=lambda one: -one["memory_mb"])
    clock.lap("volumes")
    last = _command("cache", "--config", study)
    clock.lap("store")
    _measured(run, quality=[looked], volumes=each, store=[last])
    run.memory_mb = run.memory_mb[:workers]
    return _weighed(run, volumes, name, looking)


def _measured(run: Run, **answers: list[dict]) -> None:
    """Set memory and processor time of a run from the answers of each part."""
    run.memory_mb = [one["memory_mb"] for one in answers["volumes"]]
    run.peaks_mb = {part: max(one["memory_mb"] for one in found) for part, found in answers.items()}
    run.cpu = {part: sum(one["cpu_s"] for one in found) for part, found in answers.items()}


def _weighed(run: Run, volumes: Volumes, name: str, looking: Side) -> Run:
    facts = looking.ask(what="facts", study=volumes.study(name))
    run.slices, run.lesion_slices = facts["slices"], facts["lesion_slices"]
    run.disk_mb = size_mb(volumes.work / name / "slices")
    return run


def reference(volumes: Volumes, name: str, sides: list[Side]) -> Run:
    """The reference in warm processes, each with a part of the volumes; then its index."""
    run = Run()
    folder = volumes.work / name
    folder.mkdir()
    shares = volumes.shares(len(sides))
    clock = Clock(run.parts)
    questions = [{"what": "volumes", "folder": str(folder), "participants": part} for part in shares]
    answers = together(sides[: len(shares)], questions)
    clock.lap("volumes")
    rows = [row for one in answers for row in one["rows"]]
    last = sides[0].ask(what="index", folder=str(folder), rows=rows)
    clock.lap("store")
    _measured(run, volumes=answers, store=[last])
    run.slices, run.lesion_slices = len(rows), sum(row["has_lesion"] for row in rows)
    run.disk_mb = size_mb(folder)
    return run


def _command(*arguments: str) -> dict:
    """Run a slimdiff command; returns peak memory (its own or its largest child's) and total processor time.

    Raises SideFailed.
    """
    environment = {**os.environ, **{f"{name}_NUM_THREADS": "1" for name in ONE_THREAD}}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "slimdiff", *arguments],
            env=environment,
            stdout=said,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SideFailed(
                f"slimdiff {arguments[0]}: {said.read().decode(errors='replace').strip()[-400:]}"
            )
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_mb": usage.ru_maxrss * unit / 1e6, "cpu_s": usage.ru_utime + usage.ru_stime}


def forget(volumes: Volumes, name: str) -> None:
    """Remove what a run wrote."""
    shutil.rmtree(volumes.work / name, ignore_errors=True)
