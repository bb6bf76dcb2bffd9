"""Two programs measured in turns: one line of JSON is a question, one line the answer. Standard library only.

Each side is a process of its own, so that peaks of memory are apart and each has its own packages; it measures only
when asked, so that the two take turns on the machine and its noise meets both.
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
    """A side ended without an answer, or answered that it could not."""


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
        """No more questions."""
        self.process.stdin.close()
        self.process.wait()


def options() -> dict:
    """In a side: what it was started with."""
    return json.loads(sys.argv[1])


class Wire:
    """In a side: questions in, answers out. Whatever else is printed goes to standard error."""

    def __init__(self):
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def questions(self) -> Iterator[dict]:
        for line in sys.stdin:
            yield json.loads(line)

    def answer(self, **found) -> None:
        print(json.dumps(found), file=self._answers, flush=True)


def peak_memory_mb(torch, device: str) -> float:
    """Most memory taken so far: of the card on CUDA, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device_name(torch, device: str) -> str:
    """The card, or the processor."""
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
    """The table of every precision and batch size; 1 where one of them could not be measured, which stands as a note.

    compare(reference, what both sides are started with, options) gives the rows of one of them.
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
    """As TSV to standard output, and to `path` where one is given; n/a where a row says nothing."""
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
