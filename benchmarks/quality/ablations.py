"""Ablation of design choices on the demo's cohort: python benchmarks/quality/ablations.py [--cores 2] [--only x0 v]

Trains, samples and evaluates every variant of config/demo_ablations.yaml on fold 0 (90 minutes on two cores; existing
results are kept). Prints one row per variant and seed as TSV, then the means over seeds in Markdown.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from slimdiff.config import load_study

CONFIG = "config/demo_ablations.yaml"
METRICS = {
    "kid": ("kid", "alexnet"),
    "lpips": ("lpips", "lpips-alex"),
    "mmd_mf": ("mmd_mf", "n/a"),
    "mmd_pl": ("mmd_pl", "n/a"),
    "class1": ("lesion_share_class1", "n/a"),
    "class0": ("lesion_share_class0", "n/a"),
    "r_features": ("memorisation_ratio", "alexnet"),
    "r_pixels": ("memorisation_ratio", "pixels"),
}


def read(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def row_of(study, variant: str) -> dict[str, float]:
    """Metrics over all z-bins, and processor time of the training."""
    rows = read(study.paths.metrics(variant, 0) / "metrics.tsv")
    # n/a: the metric is not available (too few lesions).
    values = {
        (r["metric"], r["extractor"]): float("nan" if r["value"] == "n/a" else r["value"])
        for r in rows
        if r["z_bin"] == "all"
    }
    measured = read(study.paths.root / "benchmarks" / "train" / f"{variant}_fold-0.tsv")[0]
    return {
        **{name: values[key] for name, key in METRICS.items()},
        "train_cpu_s": float(measured["cpu_time"]),
    }


def main() -> None:
    """Compute missing results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", help="only these variants, without their seed")
    options = parser.parse_args()
    study = load_study(CONFIG)
    variants = [v for v in study.variants if not options.only or v.split(".")[0] in options.only]
    targets = [str(study.paths.metrics(variant, 0) / "metrics.tsv") for variant in variants]
    command = ["snakemake", "--cores", str(options.cores), *targets, "--configfile", CONFIG]
    # One thread per training: trainings run in parallel.
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    table = {variant: row_of(study, variant) for variant in variants}
    columns = [*METRICS, "train_cpu_s"]
    print("variant", *columns, sep="\t")
    for variant, row in table.items():
        print(variant, *(f"{row[name]:.4g}" for name in columns), sep="\t")
    together = defaultdict(list)
    for variant, row in table.items():
        together[variant.split(".")[0]].append(row)
    print("\n| |", " | ".join(columns), "|")
    print("|" + "---|" * (len(columns) + 1))
    for name, rows in together.items():
        cells = [" / ".join(f"{row[column]:.3g}" for row in rows) for column in columns]
        mean = {column: np.mean([row[column] for row in rows]) for column in columns}
        print(
            f"| {name} |",
            " | ".join(f"{c} ({mean[k]:.3g})" for c, k in zip(cells, columns, strict=True)),
            "|",
        )


if __name__ == "__main__":
    sys.exit(main())
