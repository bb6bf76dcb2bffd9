"""Processes that are ended by a signal at a chosen moment, and what they leave."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

AT_A_MOMENT = """
# The process sends itself a signal before the n-th call of a method of paths: its temporary file is there.
import os, signal, sys
from pathlib import Path

def at(method, count, number):
    original, calls = getattr(Path, method), []
    def counted(self, *arguments, **options):
        calls.append(self)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **options)
    setattr(Path, method, counted)

at(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def run_until(
    moment: tuple[str, int], number: int, script: str, *arguments: str
) -> subprocess.CompletedProcess:
    """Run a script in a process that gets signal `number` at a moment: (method of Path, count of its calls)."""
    method, count = moment
    command = [sys.executable, "-c", AT_A_MOMENT + script, method, str(count), str(int(number)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def partials(folder: Path) -> list[str]:
    """Temporary files below a folder."""
    names = (path.name for path in folder.rglob(".*") if path.is_file())
    return sorted(name for name in names if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)*", name))


KILL, INTERRUPT, TERMINATE = signal.SIGKILL, signal.SIGINT, signal.SIGTERM
