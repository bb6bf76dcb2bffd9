"""Acceptance criteria of the demo's samples: python benchmarks/quality/demo.py [--out FILE]

Reads results/demo (created by `snakemake --cores all`) and samples the same networks before training. Prints one line
per criterion and fold as TSV. Exit status 1 if a criterion fails in any fold.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from slimdiff.config import load_study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.features import FeatureCache, to_uint8
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.files import read_table, write_table
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import requests_of_bin
from slimdiff.model.checkpoint import build_network, load_model, save_model

COLUMNS = ("criterion", "fold", "value", "wanted", "met")


def untrained_kid(study, variant: str, fold: int, extractor: str) -> float:
    """KID, against held-out slices, of samples from the fold's network before the first training step."""
    trained, card = load_model(study.paths.model(variant, fold) / "model.safetensors", torch.device("cpu"))
    torch.manual_seed(card.training["seed"])
    network = build_network(card.model, card.data)
    if network.gaussian is not None:
        # It is computed before the first step.
        network.gaussian.load_state_dict(trained.gaussian.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "untrained.safetensors"
        save_model(checkpoint, network.state_dict(), replace(card, step=0))
        generator = Generator(checkpoint, study.variant(variant).generation)
        requests = [
            request
            for z_bin in range(card.n_bins)
            for request in requests_of_bin(generator.config, fold, variant, z_bin)
            if request.index < 8
        ]
        images, _ = generator.draw(requests, "untrained")
    store = SliceStore.open(study.paths.store)
    test = np.asarray(store.images[store.rows_of(read_folds(study.paths.folds, fold)["test"])])
    cache = FeatureCache(study.paths.root / "metrics" / "features")
    features = [cache.extract(to_uint8(part), extractor, progress=False) for part in (test, images)]
    return kid(*features, study.evaluation.seed).value


def criteria(study, variant: str, fold: int) -> list[dict]:
    """One row per criterion of a fold."""
    table = read_table(study.paths.metrics(variant, fold) / "metrics.tsv")
    extractor = study.evaluation.extractors[0]

    def number(metric: str, column: str = "value", space: str | None = None) -> float:
        rows = [
            r
            for r in table
            if r["metric"] == metric and r["z_bin"] == "all" and space in (None, r["extractor"])
        ]
        return float(rows[0][column])

    own, soft = number("kid", space=extractor), number("kid_blurred", space=extractor)
    before = untrained_kid(study, variant, fold, extractor)
    delta, real = number("delta_median"), number("delta_median", "floor")
    shuffled = number("delta_median_shuffled")
    values = {
        "KID": own,
        "KID before training / KID": before / own,
        "KID of held-out slices blurred by 2 px / KID": soft / own,
        "share of samples with a brain outline in the real range": number("outline_share"),
        "share of class-1 samples with a lesion": number("lesion_share_class1"),
        "share of class-0 samples with a lesion": number("lesion_share_class0"),
        "memorisation ratio R, features": number("memorisation_ratio", space=extractor),
        "memorisation ratio R, pixels": number("memorisation_ratio", space="pixels"),
        "median delta / held-out slices' own": delta / real,
        "median delta after shuffling masks / held-out slices' own": abs(shuffled / real),
    }
    return [judged(name, fold, float(value)) for name, value in values.items()]


# Criterion: minimum and maximum of its value in every fold.
WANTED = {
    "KID": (None, 0.05),
    "KID before training / KID": (5, None),
    "KID of held-out slices blurred by 2 px / KID": (1, None),
    "share of samples with a brain outline in the real range": (0.7, None),
    "share of class-1 samples with a lesion": (0.9, None),
    "share of class-0 samples with a lesion": (None, 0.1),
    "memorisation ratio R, features": (0.9, None),
    "memorisation ratio R, pixels": (0.9, None),
    "median delta / held-out slices' own": (0.5, None),
    "median delta after shuffling masks / held-out slices' own": (None, 0.25),
}


def judged(criterion: str, fold: int, value: float) -> dict:
    """One row of the table: value, requirement, and whether it is met."""
    low, high = WANTED[criterion]
    wanted = f">= {low}" if low is not None else f"<= {high}"
    met = value >= low if low is not None else value <= high
    return {"criterion": criterion, "fold": fold, "value": value, "wanted": wanted, "met": int(met)}


def main() -> int:
    """Print the table; returns 1 if a criterion fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="config/demo.yaml")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study = load_study(options.config)
    rows = [row for v in study.variants for fold in range(study.folds.k) for row in criteria(study, v, fold)]
    for row in rows:
        cells = [row[column] for column in COLUMNS]
        print("\t".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    if options.out:
        write_table(options.out, rows, COLUMNS, sealed=False)
    missed = [row["criterion"] for row in rows if not row["met"]]
    print(json.dumps({"criteria": len(rows), "missed": missed}), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
