"""Some damaged files by the commands themselves, each in a process of its own: exit status, message, files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz.cases import PARTIAL, Tally
from fuzz.mutations import damaged
from fuzz.targets import RESULTS, Target
from fuzz.test_readers import CASES, SEED, finish

EACH = -(-CASES // 50 // 10)
"""Cases of each of the ten commands below."""
PROCESS_S = 120
"""A process that takes longer hangs; its start takes seconds on a busy machine."""
STATE = f"{RESULTS}/quality/"
"""Measurements of the volumes that were read before one was refused: they are kept on purpose."""
OF_STUDY = ("--config", "study.json")
COMMANDS = [
    ("configuration", "study.json", ("participants", *OF_STUDY)),
    ("configuration", "written.yaml", ("kfold", "--config", "written.yaml")),
    ("specification", "detailed.json", ("generate-spec", "--dry-run", "--spec", "detailed.json")),
    ("table", "bids/participants.tsv", ("participants", *OF_STUDY)),
    ("table", f"{RESULTS}/participants.tsv", ("preprocess", *OF_STUDY, "--participant", "sub-01")),
    ("table", f"{RESULTS}/folds.tsv", ("priors", *OF_STUDY, "--fold", "0")),
    ("sidecar", "bids/sub-01/anat/sub-01_FLAIR.json", ("participants", *OF_STUDY)),
    ("sidecar", f"{RESULTS}/volumes/sub-01.json", ("kfold", *OF_STUDY)),
    ("header", "bids/sub-01/anat/sub-01_FLAIR.nii.gz", ("preprocess", *OF_STUDY, "--participant", "sub-01")),
    ("header", f"{RESULTS}/volumes/sub-01_mask.nii.gz", ("cache", *OF_STUDY)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "path", "command"), COMMANDS, ids=lambda part: str(part))
def test_a_command_ends_well_or_with_one_message(kind, path, command, place, tmp_path, tally):
    own, target = Tally(), Target(f"{kind}, command", path, lambda _: None)
    for number in range(EACH):
        rng = np.random.default_rng([SEED, 1000 + [row[1] for row in COMMANDS].index(path), number])
        folder = shutil.copytree(place, tmp_path / str(number))
        file = folder / path
        file.write_bytes(damaged(file.read_bytes(), rng))
        own.add(target, *outcome_of(command, folder), file.read_bytes())
        shutil.rmtree(folder)
    finish(own, tally)


def outcome_of(command: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """accepted, refused, traceback, hang, half-written or changed; and the message."""
    before = contents(folder)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "slimdiff", *command],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "SLIMDIFF_DEBUG"},
            capture_output=True,
            text=True,
            timeout=PROCESS_S,
        )
    except subprocess.TimeoutExpired:
        return "hang", f"{command[0]}: more than {PROCESS_S} s"
    said, after = done.stderr[-300:], contents(folder)
    if partial := [name for name in after if PARTIAL.fullmatch(name.rpartition("/")[2])]:
        return "half-written", f"{command[0]}: {', '.join(partial)}"
    if done.returncode == 0:
        return "accepted", ""
    if done.returncode != 2 or "Traceback" in done.stderr:
        return "traceback", f"{command[0]}: exit status {done.returncode}: {said}"
    if after != before:
        different = sorted(name for name in before | after if before.get(name) != after.get(name))
        return "changed", f"{command[0]}: {', '.join(different)}: {said}"
    return ("refused", "") if re.search(r": error: .", done.stderr) else ("unclear", said)


def contents(folder: Path) -> dict[str, bytes]:
    """{name: content} of all files but the measurements."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path.relative_to(folder).as_posix(), path) for path in files)
    return {name: path.read_bytes() for name, path in names if not name.startswith(STATE)}
