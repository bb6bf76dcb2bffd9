"""A tracked table of runs: a run is added as soon as it is there, and a run that is there is not run again.

A run has several rows: the columns that name the run, then, unless the table has other columns, a metric, its
extractor, value and floor.
"""

import argparse
import csv
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slimdiff.files import write_table

METRIC = ("metric", "extractor", "value", "floor")


@dataclass(frozen=True)
class RunsTable:
    """The table in a file; several processes may add runs at the same time."""

    path: Path
    key: dict[str, type]
    """Columns that name a run, with the type of their values."""
    columns: tuple[str, ...] = METRIC
    """The other columns."""

    def key_of(self, row: dict) -> tuple:
        return tuple(kind(row[name]) for name, kind in self.key.items())

    def rows(self) -> list[dict]:
        """The rows so far."""
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))

    def done(self) -> set[tuple]:
        """The runs that are in the table."""
        return {self.key_of(row) for row in self.rows()}

    def add(self, run: tuple, metrics: list[dict], place: Callable[[tuple], object]) -> None:
        """Add the metrics of a run; runs are sorted by their place."""
        about = dict(zip(self.key, run, strict=True))
        with self._locked():
            together = [*self.rows(), *({**about, **row} for row in metrics)]
            together.sort(key=lambda row: place(self.key_of(row)))
            write_table(self.path, together, (*self.key, *self.columns), sealed=False)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of all benchmarks that fill such a table from the patients with lower-grade glioma."""
    project = Path(__file__).resolve().parents[3]
    parser.add_argument("--work", type=Path, default=Path("results/race"), help="slices, models and samples")
    parser.add_argument("--lgg", type=Path, default=project / "shared/data/lgg/even24.tsv")
    parser.add_argument(
        "--list", action="store_true", help="print the runs, and whether they are in the table"
    )


def carry_out(
    table: RunsTable, runs: Iterable[tuple], options: argparse.Namespace, run: Callable[[tuple], object]
) -> int:
    """Do the runs that the options choose and the table lacks, on one thread, or list them; returns the exit status.

    options: those of `add_arguments`, and one for each column of the table's key; None: any value.
    """
    asked = [getattr(options, name) for name in table.key]
    chosen = [
        key for key in runs if all(wanted in (None, own) for wanted, own in zip(asked, key, strict=True))
    ]
    if not chosen:
        raise SystemExit("no such run; --list prints them all")
    if options.list:
        there = table.done()
        for key in chosen:
            print(*key, "done" if key in there else "missing", sep="\t")
        return 0
    # The number of threads must be set before torch is imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    for key in chosen:
        if key not in table.done():
            print(*key, file=sys.stderr, flush=True)
            run(key)
    return 0
