"""Two programs measured in turns; questions and answers are lines of JSON. Standard library only.

Each side is a separate process with its own packages and its own memory peak. A side measures only when asked, so that
the two alternate and the machine's noise affects both.
"""

import csv
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent


class SideFailed(Exception):
    """A side ended without an answer, or reported an error."""


class Side:
    """A process that answers questions."""

    def __init__(self, python: str, script: str, threads: int, **options):
        self.name = script
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, **question) -> dict:
        """The answer; raises SideFailed."""
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideFailed(f"{self.name} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise SideFailed(answer["failed"])
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def options() -> dict:
    """In a side: the options with which it was started."""
    return json.loads(sys.argv[1])


class Wire:
    """In a side: reads questions, writes answers. All other output goes to standard error."""

    def __init__(self):
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def questions(self) -> Iterator[dict]:
        for line in sys.stdin:
            yield json.loads(line)

    def answer(self, **found) -> None:
        print(json.dumps(found), file=self._answers, flush=True)


def peak_memory_mb(torch, device: str) -> float:
    """Peak memory so far: of the GPU on CUDA, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device_name(torch, device: str) -> str:
    """Name of the GPU or processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    features = next((line.split() for line in lines if line.startswith("flags")), [])
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in features]
    return " ".join([names[0] if names else platform.processor(), *known])


def today() -> str:
    return datetime.date.today().isoformat()


def compare_all(compare: Callable, reference: str | None, columns: list[str], options) -> int:
    """Write the table of every precision and batch size; returns 1 if one could not be measured (see its note).

    compare(reference, common options of both sides, options) returns the rows of one precision and batch size.
    """
    rows, failed = [], 0
    for precision in options.precision:
        for batch in options.batch or ([4] if options.device == "cpu" else [32, 64, 128]):
            facts = {"precision": precision, "batch": batch}
            try:
                rows += compare(reference, {"device": options.device, "size": options.size, **facts}, options)
            except SideFailed as failure:
                print(f"{precision}, batch {batch}: {failure}", file=sys.stderr)
                rows.append({"side": "slimdiff", **facts, "note": str(failure)})
                failed = 1
    write_table(rows, columns, options.out)
    return failed


def write_table(rows: list[dict], columns: list[str], path: Path | None) -> None:
    """Write TSV to standard output and, if given, to `path`; missing values are n/a."""
    targets = [sys.stdout]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        targets.append(path.open("w", newline="", encoding="utf-8"))
    for target in targets:
        table = csv.DictWriter(target, columns, "n/a", delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows({key: _short(value) for key, value in row.items()} for row in rows)
        target.flush()


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
