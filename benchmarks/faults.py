"""Kill the workflow at random moments of all stages, run it again, and compare all results with a run without kills.

    python benchmarks/faults.py --lgg even24.tsv --work WORK --kills 200

A round starts from nothing and kills the workflow once in every stage, as they come; each time it is run again with
the commands of docs/guide/running.md (`snakemake --unlock` where a lock is left, then `--rerun-incomplete`). At its
end every file of the results must have the bytes of the reference, a run that was never killed, and no temporary file
is left.
The stage, kind and moment of a kill follow from the round's number.

The results are a table with one row per kill, written at the end of each round. The same command continues it; a round
that was interrupted is repeated. Without --lgg the study is made of phantoms. docs/reliability.md shows the counts.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil  # a dependency of snakemake

from slimdiff.files import MISSING, read_table, sha256, write_table

ROOT = Path(__file__).resolve().parents[1]
STUDY = "faults"
COLUMNS = ("kill", "round", "cohort", "stage", "kind", "moment_s", "running", "outcome")
EQUAL = "bit-equal"
KINDS = ("all", "engine", "job", "terminate", "interrupt")
"""SIGKILL of all processes (loss of the machine), of the engine alone, of one job alone (lack of memory); SIGTERM of
the engine (end of a cluster job); SIGINT of all processes (Ctrl-C)."""
ORDER = (
    *("weights", "participants", "preprocess", "quality", "kfold", "cache", "segmenter", "priors", "train"),
    *("generate", "metrics", "utility", "compare", "figures", "tables", "provenance", "export", "report"),
)
"""Every stage; where several run, the first one here is killed. `report` is report.html."""
LATEST = 1.1
"""Latest moment of a kill after the start of its stage, as a multiple of the stage's duration in the reference."""
POLL_S = 0.1
END_S = 300.0
"""Time in which an engine must end after a signal, and every run without one must make progress."""
PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)*", re.ASCII)
"""Name of a temporary file of `slimdiff.files.replacing`."""
DIFFERENT = {
    "logs/*": "what the jobs print, with speeds",
    "benchmarks/*": "Snakemake's measurements: time and memory of each job",
    "provenance.json": "date, and the measurements",
    "ro-crate-metadata.json": "the same date, and the time of the jobs",
    "tables/provenance.html": "the same facts as a page",
    "tables/front.html": "time and memory of the jobs",
    "index.html": "the same",
    "report.html": "dates of the jobs, and the pages above",
    "figures/training.svg": "shows the speed of the training",
    "models/*/.history.tsv.sha256": "the hash of history.tsv, which has speeds",
    "models/*/state/last.pt": "has the rows of history.tsv, with speeds; its weights are those of model.safetensors",
}
"""Files that differ between two runs without a kill, and why; all others are compared."""
SPEEDS = ("images_per_s", "memory_mb")
"""Columns of history.tsv that differ between two runs; the others are compared."""


def values_of(table: Path | None) -> dict:
    """The study as a mapping: four real volumes of a table, or four phantoms; small, but with every stage."""
    of_data = {
        "data": {"source": "table", "table": str(table)},
        "preprocess": {"spacing_mm": 3.0, "grid": [64, 64, 12]},
        "slices": {"z_range": "auto", "n_bins": 2, "min_lesion_mm2": 72},
        "folds": {"k": 1, "use_split": True, "val_fraction": 0},
    }
    phantom = {
        "data": {"source": "phantom", "phantom": {"patients": 3, "controls": 1}},
        "preprocess": {"spacing_mm": 6.25, "grid": [32, 32, 32]},
        "slices": {"z_range": [10, 24], "n_bins": 2, "min_lesion_mm2": 0},
        "folds": {"k": 2},
    }
    training = {"steps": 6, "batch_size": 2, "save_every": 2, "log_every": 2, "preview_every": 3}
    return {
        "study": STUDY,
        "results_dir": "results",
        "device": "cpu",
        **(of_data if table else phantom),
        "model": {"channels": [16, 32], "attention": [False, True], "norm_groups": 8, "head_channels": 16},
        "training": training | {"tensorboard": False, "precision": "float32"},
        "generation": {"evaluations": 2, "per_bin_and_class": 2, "where": "everywhere"},
        "evaluation": {"bootstrap": 20, "min_component_mm2": 45, "ring_mm": 9},
        "utility": {"steps": 2, "shares": [1.0], "channels": [16, 16], "batch_size": 4},
        "export": {"formats": ["bids", "png"]},
    }


def write_study(work: Path, lgg: Path | None) -> Path:
    """study.json in the working folder, with the table of four patients of `lgg`, two of them held out."""
    table = None
    if lgg:
        rows = read_table(lgg, ("participant_id", "image", "mask", "site"))[:4]
        for number, row in enumerate(rows):
            row |= {key: str((lgg.parent / row[key]).resolve()) for key in ("image", "mask")}
            row["split"] = "train" if number < 2 else "test"
        table = work / "patients.tsv"
        write_table(table, rows, list(rows[0]), sealed=False)
    path = work / "study.json"
    path.write_text(json.dumps(values_of(table)))
    return path


class Engine:
    """One run of Snakemake on a study, in a process group of its own."""

    def __init__(self, folder: Path, config: Path, cores: int, *arguments: str):
        self.folder, self.log = folder, folder / "engine.log"
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += [
            "--directory",
            str(folder),
            "--cores",
            str(cores),
            *arguments,
            "--configfile",
            str(config),
        ]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        modules = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path, "PYTHONPATH": modules},
                start_new_session=True,
            )
        self.started = time.monotonic()

    def jobs(self) -> dict[int, str]:
        """{process: stage} of the jobs that run now."""
        found = {}
        for process in self._family():
            with suppress(psutil.Error):
                words = process.cmdline()
                name = Path(words[1]).name if len(words) > 1 else ""
                if name.startswith("slimdiff-"):
                    found[process.pid] = name.removeprefix("slimdiff-")
                elif "--report" in words:
                    found[process.pid] = "report"
        return found

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self.process.poll()

    def last_words(self) -> str:
        """The last lines of its output, in one line."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-6:])

    def kill(self, kind: str, stage: str) -> list[str]:
        """End it by a signal, or a job of it, if possible of this stage; returns the stages that ran at that moment."""
        jobs, family = self.jobs(), self._family()
        if kind == "job" and jobs:
            with suppress(ProcessLookupError):
                os.kill(min(jobs, key=lambda pid: (jobs[pid] != stage, pid)), signal.SIGKILL)
        elif kind == "terminate":
            self.process.terminate()
        elif kind == "interrupt":
            os.killpg(self.process.pid, signal.SIGINT)
        elif kind == "engine":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
            for process in family:
                with suppress(psutil.Error):
                    process.kill()
        return sorted(set(jobs.values()))

    def end(self) -> None:
        """Wait for its end; raises Failed where it does not come."""
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            raise Failed(f"no end within {END_S:g} s: {self.last_words()}") from None


class Failed(Exception):
    """A round did not come to its end, or to another one; the message says how."""


@dataclass
class Round:
    """One study from nothing to its end, killed on the way."""

    number: int
    folder: Path
    config: Path
    cores: int
    durations: dict[str, float]
    kills: list[dict] = field(default_factory=list)

    def run(self, most: int, seed: int) -> None:
        """Kill it at most `most` times, and let it finish. Raises Failed."""
        rng = np.random.default_rng([seed, self.number])
        kinds, shares = rng.choice(KINDS, len(ORDER)).tolist(), LATEST * rng.random(len(ORDER))
        pending = dict(zip(ORDER, zip(kinds, shares.tolist(), strict=True), strict=True))
        engine = None
        while pending and len(self.kills) < most:
            engine = engine or self._start()
            stage = self._reached(engine, pending)
            if stage is None:
                break
            kind, share = pending.pop(stage)
            moment = share * self.durations.get(stage, 0)
            time.sleep(moment)
            if engine.status is None:
                running = ",".join(engine.kill(kind, stage)) or MISSING
                engine.end()
                # An engine that had its last job behind it was not killed.
                if engine.status:
                    self.kills.append({"stage": stage, "kind": kind, "moment_s": moment, "running": running})
            else:
                self._check(engine)
            engine = None
        engine = engine or self._start()
        engine.end()
        self._check(engine)

    def _start(self) -> Engine:
        locks = self.folder / ".snakemake" / "locks"
        if locks.is_dir() and any(locks.iterdir()):
            unlocking = Engine(self.folder, self.config, self.cores, "--unlock")
            unlocking.end()
            self._check(unlocking)
        again = ("--rerun-incomplete",) * bool(self.kills)
        return Engine(self.folder, self.config, self.cores, *again, "all", "export")

    @staticmethod
    def _check(engine: Engine) -> None:
        if engine.status:
            raise Failed(f"exit status {engine.status}: {engine.last_words()}")

    @staticmethod
    def _reached(engine: Engine, pending: Collection[str]) -> str | None:
        """Wait for a job of one of these stages, and name it; None where the engine ends before."""
        while engine.status is None:
            if found := set(engine.jobs().values()) & set(pending):
                return min(found, key=ORDER.index)
            time.sleep(POLL_S)
        return None


def compared(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of the results that are compared: their names, and where they are."""
    results = folder / "results" / STUDY
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in DIFFERENT):
            yield name, path


def hashes_of(folder: Path) -> dict[str, str]:
    """{file: sha256} of the results that are compared, temporary files included."""
    return {
        name: _without_speeds(path) if path.name == "history.tsv" else sha256(path)
        for name, path in compared(folder)
    }


def _without_speeds(history: Path) -> str:
    rows = [{key: value for key, value in row.items() if key not in SPEEDS} for row in read_table(history)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    """What differs from the reference, in words; `EQUAL` where nothing does."""
    parts = {
        "temporary files": [name for name in found if PARTIAL.fullmatch(name.rpartition("/")[2])],
        "missing": sorted(wanted.keys() - found.keys()),
        "too many": sorted(found.keys() - wanted.keys()),
        "different": [name for name in wanted.keys() & found.keys() if found[name] != wanted[name]],
    }
    return "; ".join(f"{what}: {', '.join(names[:3])}" for what, names in parts.items() if names) or EQUAL


def reference(work: Path, config: Path, cores: int) -> dict:
    """Hashes, and the duration of each stage's longest job, of a run without kills; it is made once."""
    path = work / "reference.json"
    if not path.is_file():
        folder = work / "reference"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        engine, spans = Engine(folder, config, cores, "all", "export"), {}
        while engine.status is None:
            now = time.monotonic()
            for pid, stage in engine.jobs().items():
                spans.setdefault((stage, pid), [now, now])[1] = now
            time.sleep(POLL_S)
        if engine.status:
            raise SystemExit(f"the run without kills failed: {engine.last_words()}")
        durations = {}
        for (stage, _), (first, last) in spans.items():
            durations[stage] = max(durations.get(stage, 0), last - first)
        path.write_text(json.dumps({"hashes": hashes_of(folder), "durations": durations}, indent=1))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lgg", type=Path, help="table of real volumes; without it phantoms")
    parser.add_argument("--work", type=Path, required=True, help="working folder")
    parser.add_argument("--kills", type=int, default=200, help="rows of the table after which to stop")
    parser.add_argument("--minutes", type=float, default=np.inf, help="start no round after this time")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "tables" / "faults.tsv", help="table to continue"
    )
    options = parser.parse_args()
    # A shell lets its background jobs ignore Ctrl-C, and so would the engines.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    config = write_study(work, options.lgg)
    known = reference(work, config, options.cores)
    rows = read_table(options.out) if options.out.is_file() else []
    while len(rows) < options.kills and time.monotonic() - started < 60 * options.minutes:
        number = 1 + max((int(row["round"]) for row in rows), default=0)
        folder = work / f"round-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        own = Round(number, folder, config, options.cores, known["durations"])
        try:
            own.run(options.kills - len(rows), options.seed)
            outcome = difference(hashes_of(folder), known["hashes"])
        except Failed as error:
            outcome = " ".join(str(error).split())
        cohort = "lgg" if options.lgg else "phantom"
        shared = {"round": number, "cohort": cohort, "outcome": outcome}
        rows += [{"kill": len(rows) + place, **shared, **kill} for place, kill in enumerate(own.kills, 1)]
        write_table(options.out, rows, COLUMNS, sealed=False)
        print(f"round {number}: {len(own.kills)} kills, {outcome}", flush=True)
        # A round that failed can be looked at.
        if outcome == EQUAL:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
