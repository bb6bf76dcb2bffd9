"""Cost of every stage in two versions of slimdiff, measured in turns.

    python benchmarks/speed/versions.py --other ../slimdiff-0.1.0 [--out versions.tsv]

`--other` is a checkout of another version from 0.1.0 on. It needs the same packages as this one, but no installation. A
small demo (26 phantoms, one variant, two folds, short trainings) runs in both checkouts, one stage after the other:
this version, the other, this version, and so on, so that a noisy machine slows both. The smallest value of the repeats
counts.

Columns: stage; wall-clock seconds, processor seconds and peak memory in MB of this version and of the other; the ratio
this / other of the processor seconds and of the memory (below 1: this version needs less). The last lines say how many
numbers of metrics.tsv are equal in both versions.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml

HERE = Path(__file__).resolve().parents[2]
# Stage: its commands in version 0.1.0 with their words; results of an earlier run to delete first.
STAGES = {
    "phantom": ([["phantom"]], ["phantom"]),
    "participants": ([["participants"]], ["quality"]),
    "preprocess": ([["preprocess"]], ["volumes"]),
    "kfold": ([["kfold"]], []),
    "cache": ([["cache"]], ["slices"]),
    "priors": ([["priors"]], []),
    "train": ([["train"]], ["models"]),
    "generate": ([["generate"]], ["samples"]),
    "metrics": ([["metrics", "all"]], ["metrics"]),
    "segmenter": ([["metrics", "segmenter"]], ["metrics/real"]),
    "utility": ([["metrics", "utility"]], []),
    "compare": ([["metrics", "summary"], ["metrics", "compare"]], []),
    "quality": ([["figures", "quality"]], []),
    "figures": ([["figures", "pictures"]], []),
    "tables": ([["figures", "tables"]], []),
}
CHANGES = {
    "training": {
        **{"steps": 150, "warmup_steps": 20, "snapshots": [], "save_every": 100},
        "validation": {"every": 75, "samples": 20, "evaluations": 5},
    },
    "utility": {"steps": 40},
    "generation": {"evaluations": 10, "per_bin_and_class": 8},
}
SIDES = ("this", "other")
COSTS = ("wall_s", "cpu_s", "peak_mb")
COLUMNS = ("stage", *(f"{cost}_{side}" for cost in COSTS for side in SIDES), "cpu_ratio", "memory_ratio")


def small_study(tree: Path, folder: Path) -> Path:
    """The demo of a version with shorter trainings and fewer samples; results are below `folder`."""
    folder.mkdir(parents=True)
    values = yaml.safe_load((tree / "config" / "demo.yaml").read_text()) | {"results_dir": str(folder)}
    for section, changes in CHANGES.items():
        values[section] = {**values.get(section, {}), **changes}
    path = folder / "study.json"
    path.write_text(json.dumps(values))
    return path


def cost(tree: Path, words: list[str], study: Path) -> tuple[float, float, float]:
    """Wall-clock seconds, processor seconds and peak memory in MB of one command of a version."""
    command, *options = words
    code = f"import sys; from slimdiff import cli; sys.exit(cli.{command}(sys.argv[1:]))"
    log = study.with_name("log.txt")
    start = time.perf_counter()
    with log.open("w") as stream:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *options, "--config", str(study)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            # Not the repository: Python would import its package from there.
            cwd=study.parent,
            env={**os.environ, "PYTHONPATH": str(tree)},
        )
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{tree}: slimdiff-{' '.join(words)} failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def stage_cost(tree: Path, stage: str, study: Path) -> tuple[float, float, float]:
    """Cost of one stage, done again from the start."""
    commands, outputs = STAGES[stage]
    for name in outputs:
        shutil.rmtree(study.parent / "demo" / name, ignore_errors=True)
    if (tree / "slimdiff" / "stages").is_dir():
        commands = [[stage]]
    costs = [cost(tree, words, study) for words in commands]
    return sum(one[0] for one in costs), sum(one[1] for one in costs), max(one[2] for one in costs)


def equal_numbers(one: Path, other: Path) -> str:
    """How many values, limits and floors of the two versions' metrics.tsv are equal to six digits."""
    keys, numbers = ["fold", "z_bin", "metric", "extractor"], ["value", "ci_low", "ci_high", "floor"]
    tables = [
        pd.concat(
            pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False, dtype=str)
            for path in sorted((folder / "demo" / "metrics" / "base").glob("fold-*/metrics.tsv"))
        )
        for folder in (one, other)
    ]
    both = tables[0].merge(tables[1], on=keys, suffixes=("", "_other"), validate="1:1")
    lines = [f"metrics.tsv: {len(tables[0])} and {len(tables[1])} rows, {len(both)} in both"]
    for number in numbers:
        a, b = (pd.to_numeric(both[name], errors="coerce") for name in (number, f"{number}_other"))
        equal = ((a - b).abs() <= 1e-6 * b.abs()) | (a.isna() & b.isna())
        different = ", ".join(sorted(set(both.loc[~equal, "metric"])))
        lines.append(
            f"  {number}: {equal.sum()} of {len(both)} equal{'; not: ' * bool(different)}{different}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", type=Path, required=True, help="checkout of another version")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="report only these")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the results here (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="a TSV file")
    options = parser.parse_args()
    trees = dict(zip(SIDES, (HERE, options.other.resolve()), strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        root = (options.folder or Path(scratch)).resolve()
        studies = {side: small_study(tree, root / side) for side, tree in trees.items()}
        rows = []
        for stage in STAGES:
            found = {side: [] for side in SIDES}
            for _ in range(options.repeats if stage in options.stages else 1):
                for side in SIDES:
                    found[side].append(stage_cost(trees[side], stage, studies[side]))
            if stage not in options.stages:
                continue
            least = {
                side: [min(values) for values in zip(*costs, strict=True)] for side, costs in found.items()
            }
            row = {"stage": stage}
            for place, name in enumerate(COSTS):
                row |= {f"{name}_{side}": round(least[side][place], 3) for side in SIDES}
            row["cpu_ratio"] = round(least["this"][1] / least["other"][1], 3)
            row["memory_ratio"] = round(least["this"][2] / least["other"][2], 3)
            rows.append(row)
            print("\t".join(str(row[name]) for name in COLUMNS), flush=True)
        if (root / "this" / "demo" / "metrics").is_dir():
            print(equal_numbers(root / "this", root / "other"))
    if options.out:
        with options.out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
