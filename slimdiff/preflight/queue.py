"""Jobs of an earlier run that Slurm still has, and whether squeue remembers jobs for long enough.

Snakemake that is killed leaves its jobs in the queue. Beside those of the next run they would write the same files, and
the first of two that fails would remove the outputs of both.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

LOGS = Path(".snakemake/slurm_logs")
"""Where the Slurm plugin of Snakemake writes the output of its jobs; no other jobs write there."""
REMEMBERED_S = 200
"""Time for which squeue must know a job after its end: the plugin asks at least every 180 s."""
_ANSWER_S = 30
_COLUMNS = ((0, 20), (20, 40), (40, 240), (240, None))


@dataclass(frozen=True)
class QueuedJob:
    """One job in Slurm's queue."""

    number: str
    state: str
    work: str
    """Rule and wildcards, as the plugin writes them into the job's comment."""

    def __str__(self) -> str:
        return f"{self.number} ({self.work}, {self.state})"


def left_behind(folder: Path) -> list[QueuedJob]:
    """Jobs in Slurm's queue that a run of Snakemake in this folder submitted; without Slurm none.

    While Snakemake holds its lock on the folder, they are jobs of a run that was killed.
    """
    logs = f"{(folder / LOGS).resolve()}/"
    found = []
    # Paths may have spaces, so they come last.
    answer = _answer("squeue", "--noheader", "--Format=JobID:20,State:20,Comment:200,STDOUT:4000")
    for line in (answer or "").splitlines():
        number, state, comment, output = (line[begin:end].strip() for begin, end in _COLUMNS)
        if output.startswith(logs):
            work = comment.removeprefix("rule_").replace("_wildcards_", " ")
            found.append(QueuedJob(number, state, work))
    return found


def remembered_s() -> int | None:
    """Seconds for which squeue knows a job after its end (MinJobAge); None where Slurm does not say."""
    found = re.search(r"^MinJobAge\s*=\s*(\d+)", _answer("scontrol", "show", "config") or "", re.MULTILINE)
    return int(found[1]) if found else None


def _answer(*command: str) -> str | None:
    """What a command of Slurm prints; None if it is not installed, fails or does not answer."""
    if not shutil.which(command[0]):
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
