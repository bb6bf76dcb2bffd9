"""Draw the figures of the study: slices, training curves, metrics, lesions, nearest training slices."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "compare"
NEEDS = ("report", "variants", "folds.k", "folds.use_split", "evaluation.tau", "utility.enabled")


def outputs(paths: StudyPaths, variants: Sequence[str]) -> dict[str, list[Path]]:
    """Name of a figure: its files, one for the study or one per variant."""
    shared = {name: [paths.figures / name] for name in ("data.png", "training.svg", "metrics_by_variant.svg")}
    kinds = (
        "samples_{}.png",
        "metrics_by_zbin_{}.svg",
        "lesions_{}.svg",
        "nearest_{}.png",
        "outliers_{}.png",
    )
    return shared | {kind: [paths.figures / kind.format(variant) for variant in variants] for kind in kinds}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", metavar="NAME", help="with --lesions-only: one variant (default: all)")
    parser.add_argument("--fold", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lesions-only", action="store_true", help="only the figures of the lesions")


def run(study, options) -> None:
    from slimdiff.report.figures import draw_all, draw_lesions

    variants = list(study.variants)
    if options.lesions_only:
        draw_lesions(study, [options.variant] if options.variant else variants, study.folds.k)
    else:
        draw_all(study, variants, study.folds.k)
