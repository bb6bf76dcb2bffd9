"""Run Snakemake in a separate folder and read its plan."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


RECORDER = """
import os, sys

def record(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
        name = os.path.abspath(os.fsdecode(arguments[0]))
        os.write(log, f"{'write' if writes else 'read'} {name}\\0".encode())

with open("/proc/self/cmdline") as file:
    words = file.read().split("\\0")[1:-1]  # after the interpreter
if words and os.path.basename(words[0]).startswith("slimdiff-"):
    log = os.open(os.environ["RECORDED"] + f"/{os.getpid()}", os.O_CREAT | os.O_WRONLY)
    os.write(log, ("\\n".join(words) + "\\0").encode())
    sys.addaudithook(record)
"""
"""Text of a sitecustomize.py: each slimdiff command writes its words, and the files that it opens, into $RECORDED."""


def snakemake(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
    ]
    # The commands are in the folder of the interpreter, even if its environment is not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **environment},
    )


def job_counts(output: str) -> dict[str, int]:
    """{rule: number of jobs}, from the job statistics of a dry run."""
    table = output.split("Job stats:")[1].split("total")[0]
    return {match[1]: int(match[2]) for match in re.finditer(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


def write_study(folder: Path, **changes) -> Path:
    """A study of a few phantoms, with `changes` as section={key: value}."""
    study = {
        "study": "tiny",
        "data": {"source": "phantom", "phantom": {"patients": 3, "controls": 1}},
        "preprocess": {"spacing_mm": 6.25, "grid": [32, 32, 32]},
        "slices": {"z_range": [10, 24], "n_bins": 3, "min_lesion_mm2": 0},
        "folds": {"k": 2},
        "model": {"channels": [16, 32], "attention": [False, True], "norm_groups": 8, "head_channels": 16},
        "training": {"steps": 2, "batch_size": 2},
        # By default three patients in two folds are too few for samples with lesions.
        "generation": {"evaluations": 2, "per_bin_and_class": 2, "where": "everywhere"},
        "utility": {"steps": 2, "shares": [0.5, 1.0], "channels": [16, 16], "batch_size": 4},
    }
    for section, values in changes.items():
        study[section] = {**study.get(section, {}), **values}
    path = folder / "study.json"
    path.write_text(json.dumps(study))
    return path
