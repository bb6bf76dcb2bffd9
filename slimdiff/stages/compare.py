"""Summarise the metrics over folds, and compare the variants with each other."""

from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "utility"
NEEDS = ("variants", "folds.k", "folds.use_split", "utility.enabled")


def outputs(paths: StudyPaths) -> list[Path]:
    return [paths.summary, paths.comparison]


def run(study, options) -> None:
    from slimdiff.evaluation.compare import compare, summarise

    variants, folds, with_utility = list(study.variants), study.folds.k, study.utility.enabled
    summarise(study.paths, variants, folds, with_utility)
    compare(study.paths, variants, folds, study.folds.use_split, with_utility)
