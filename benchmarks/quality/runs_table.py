"""A tracked table of runs: a run is added as soon as it is there, and a run that is there is not run again.

Each row is one metric of a run: the columns that name the run, then metric, extractor, value and floor.
"""

import csv
import fcntl
from collections.abc import Callable, Iterator
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
            write_table(self.path, together, (*self.key, *METRIC), sealed=False)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
