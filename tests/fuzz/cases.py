"""One case: a damaged file and its reader, and what came of it."""

import contextlib
import io
import os
import re
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.targets import Target

HANG_S = 10
"""A reader that takes longer hangs. No limit of speed: the slowest good file takes a hundredth of it."""
REFUSALS = (OSError, ValueError, RuntimeError, ImportError)
"""What `slimdiff.cli.run_stage` turns into one message and exit status 2; anything else is a traceback."""
PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)*", re.ASCII)


class Hang(BaseException):
    """Not an Exception: no reader catches it."""


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Raise Hang in the block after HANG_S."""

    def stop(number, frame):
        raise Hang

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@dataclass
class Tally:
    """What came of all cases."""

    kinds: Counter = field(default_factory=Counter)
    """(kind of file, outcome): number of cases."""
    faults: dict[str, str] = field(default_factory=dict)
    """Of each kind of fault the first case: where it came from, and the damaged file's content."""

    def add(self, target: Target, outcome: str, where: str = "", content: bytes = b"") -> None:
        self.kinds[target.kind, outcome] += 1
        if outcome not in ("accepted", "refused"):
            self.faults.setdefault(f"{target.path}: {outcome}: {where}", repr(content[:3000]))

    @property
    def report(self) -> str:
        """One line per kind of fault, with the content that shows it."""
        return "\n".join(f"{fault}\n    {content}" for fault, content in self.faults.items())

    def table(self) -> str:
        """Tab-separated: kind of file, cases, accepted, refused, faults."""
        lines = ["kind\tcases\taccepted\trefused\tfaults"]
        for kind in dict.fromkeys(kind for kind, _ in self.kinds):
            of_kind = {outcome: number for (name, outcome), number in self.kinds.items() if name == kind}
            cases, good = sum(of_kind.values()), [of_kind.get(name, 0) for name in ("accepted", "refused")]
            lines.append("\t".join(map(str, (kind, cases, *good, cases - sum(good)))))
        return "\n".join(lines)


def tried(target: Target, folder: Path, damage: Callable[[Path], object], tally: Tally) -> None:
    """Damage the target's file, read it, note what came of it, and restore the file."""
    path = folder / target.path
    good, before = path.read_bytes(), files_in(folder)
    try:
        damage(path)
        content = path.read_bytes()
        outcome, where = outcome_of(target, folder)
        path.write_bytes(good)
        if (after := files_in(folder)) != before:
            outcome, where = "half-written", ", ".join(sorted(after ^ before))
        tally.add(target, outcome, where, content)
    finally:
        path.write_bytes(good)


def outcome_of(target: Target, folder: Path) -> tuple[str, str]:
    """accepted, refused, unclear, traceback or hang; and the place in the code, or the message."""
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with contextlib.chdir(folder), quiet[0], quiet[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with no_hang():
                target.read(Path(target.path))
        except Hang:
            return "hang", f"more than {HANG_S} s"
        except REFUSALS as error:
            if any(name in str(error) for name in target.said):
                return "refused", ""
            return "unclear", f"{place_of(error)}: {type(error).__name__}: {str(error)[:100]}"
        except Exception as error:
            return "traceback", f"{place_of(error)}: {type(error).__name__}: {str(error)[:100]}"
    return "accepted", ""


def place_of(error: BaseException) -> str:
    """The last line of the package in the traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/slimdiff/" in frame.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"


def files_in(folder: Path) -> frozenset[str]:
    """Names of all files below a folder."""
    return frozenset(f"{place}/{name}" for place, _, names in os.walk(folder) for name in names)
