"""Time, memory and accuracy of the parts of a computation, compared with a plain implementation."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from turns import peak_memory_mb

COLUMNS = ["part", "ours_s", "plain_s", "ratio", "ours_cpu_s", "plain_cpu_s", "difference", "peak_mb", "note"]


def timed(work: Callable, scale: float = 1.0) -> tuple:
    """Result of `work`, and its (wall-clock, processor) seconds multiplied by `scale`."""
    start = np.array([time.perf_counter(), time.process_time()])
    answer = work()
    return answer, (np.array([time.perf_counter(), time.process_time()]) - start) * scale


class Clock:
    """Times parts and keeps their rows."""

    def __init__(self, inputs_mb: float):
        self.rows, self.inputs_mb = [], inputs_mb
        self.most_mb = 0.0

    def part(self, name: str, ours: Callable, other: Callable | None = None, same=None, note=""):
        """Time a part and, if given, its plain implementation; returns the result of `ours`.

        other: returns a result and seconds, as `timed`. same: maps both results to the two values to compare.
        """
        # Resets the memory peak on Linux; elsewhere the peak is that of all parts so far.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        before = peak_memory_mb(torch, "cpu")
        answer, seconds = timed(ours)
        most = peak_memory_mb(torch, "cpu")
        self.most_mb = max(self.most_mb, most)
        row = {"part": name, "peak_mb": most - before, "note": note}
        row["ours_s"], row["ours_cpu_s"] = seconds.tolist()
        if other is not None:
            found, plain_seconds = other()
            row["plain_s"], row["plain_cpu_s"] = plain_seconds.tolist()
            row["ratio"] = row["plain_s"] / row["ours_s"]
            a, b = (np.asarray(values, np.float64) for values in same(answer, found))
            row["difference"] = float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
        self.rows.append(row)
        print(f"{name}: {row['ours_s']:.2f} s", file=sys.stderr, flush=True)
        return answer

    def total(self) -> None:
        """Add the row for all parts."""
        compared = [row for row in self.rows if "plain_s" in row]
        row = {"part": "all"}
        row |= {key: sum(part[key] for part in self.rows) for key in ("ours_s", "ours_cpu_s")}
        row |= {key: sum(part[key] for part in compared) for key in ("plain_s", "plain_cpu_s")}
        row["ratio"] = row["plain_s"] / sum(part["ours_s"] for part in compared)
        row["peak_mb"] = self.most_mb - self.inputs_mb
        row["note"] = (
            f"{self.most_mb:.0f} MB in total, including {self.inputs_mb:.0f} MB of slices and features"
        )
        self.rows.append(row)
