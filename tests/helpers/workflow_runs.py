"""Run Snakemake in a separate folder and read its plan."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def snakemake(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
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
        [*command, *arguments], capture_output=True, text=True, env={**os.environ, "PATH": path}
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
        "generation": {"evaluations": 2, "per_bin_and_class": 2},
        "utility": {"steps": 2, "shares": [0.5, 1.0], "channels": [16, 16], "batch_size": 4},
    }
    for section, values in changes.items():
        study[section] = {**study.get(section, {}), **values}
    path = folder / "study.json"
    path.write_text(json.dumps(study))
    return path
