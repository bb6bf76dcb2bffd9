"""One run of each way from NIfTI files to what training reads, for preprocess.py. Standard library only.

That keeps this process small: on Linux a program that is started here inherits its peak of memory.
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
"""Slices of an epoch's batches."""
# What Snakemake sets for a rule of one thread.
ONE_THREAD = ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")


@dataclass(frozen=True)
class Volumes:
    """What both sides work on."""

    work: Path
    """Folder for everything that is written."""
    data: dict
    """Section `data` of our study."""
    participants: list[dict]
    """name, image, mask (None: a control)."""
    facts: dict
    """Grid, spacing, z-range, z-bins, least lesion and batch, for the reference."""

    def study(self, name: str) -> str:
        """JSON of the study that writes below `work`/`name`."""
        least = self.facts["min_lesion_px"] * self.facts["spacing_mm"] ** 2
        study = {"study": name, "results_dir": str(self.work), "data": self.data}
        return json.dumps(study | {"slices": {"min_lesion_mm2": least}})

    def shares(self, workers: int) -> list[list[dict]]:
        """Each worker's part; empty ones are left out."""
        return [part for worker in range(workers) if (part := self.participants[worker::workers])]


@dataclass
class Run:
    """One run of one way."""

    parts: dict[str, float] = field(default_factory=dict)
    """Seconds: found, quality, volumes, store."""
    cpu: dict[str, float] = field(default_factory=dict)
    """The same, of all processors."""
    memory_mb: list[float] = field(default_factory=list)
    """The peak of each worker that ran beside the others."""
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """The peak of the largest process of each part."""
    disk_mb: float = 0.0
    """What training reads."""
    slices: int = 0
    lesion_slices: int = 0

    def seconds(self, quality: bool) -> float:
        return sum(value for part, value in self.parts.items() if quality or part != "quality")

    def cpu_seconds(self, quality: bool) -> float:
        return sum(value for part, value in self.cpu.items() if quality or part != "quality")

    def peak_mb(self, quality: bool) -> float:
        return max(value for part, value in self.peaks_mb.items() if quality or part != "quality")


def our_side(threads: int) -> Side:
    """Ours, warm."""
    return Side(sys.executable, "preprocess_slimdiff.py", threads)


def closed(stack: ExitStack, side: Side) -> Side:
    """The same, closed at the end."""
    stack.callback(side.close)
    return side


def together(sides: list[Side], questions: list[dict]) -> list[dict]:
    """The answers of sides that work at the same time."""
    with ThreadPoolExecutor(len(sides)) as pool:
        pairs = zip(sides, questions, strict=True)
        return list(pool.map(lambda pair: pair[0].ask(**pair[1]), pairs))


class Clock:
    """Writes the seconds since it was last looked at."""

    def __init__(self, parts: dict[str, float]):
        self.parts, self.last = parts, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.parts[name], self.last = now - self.last, now


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def functions(volumes: Volumes, name: str, sides: list[Side], looking: Side) -> Run:
    """Ours, in warm processes. `looking` measures quality, in as many processes as there are sides."""
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
    """Ours, as the workflow's rules run it: a process for the table, one a volume, and one for the store."""
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
    """Memory and processor time of a run, from the answers of each part."""
    run.memory_mb = [one["memory_mb"] for one in answers["volumes"]]
    run.peaks_mb = {part: max(one["memory_mb"] for one in found) for part, found in answers.items()}
    run.cpu = {part: sum(one["cpu_s"] for one in found) for part, found in answers.items()}


def _weighed(run: Run, volumes: Volumes, name: str, looking: Side) -> Run:
    facts = looking.ask(what="facts", study=volumes.study(name))
    run.slices, run.lesion_slices = facts["slices"], facts["lesion_slices"]
    run.disk_mb = size_mb(volumes.work / name / "slices")
    return run


def reference(volumes: Volumes, name: str, sides: list[Side]) -> Run:
    """The reference's, in warm processes, each with its part of the volumes; then its one index."""
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
    """Run one of our commands: its peak of memory (or its largest child's), and its and their processor time.

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
