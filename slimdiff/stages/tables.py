"""Write the pages of the study: front page, samples, metrics, comparison of the variants, participants."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "figures"
NEEDS = (
    "report",
    "variants",
    "folds.k",
    "folds.use_split",
    "evaluation.tau",
    "evaluation.min_component_mm2",
    "utility.enabled",
)


def outputs(paths: StudyPaths, variants: Sequence[str]) -> dict[str, list[Path]]:
    """Name of a table: its files, one for the study or one per variant."""
    names = (
        "metrics.tsv",
        "metrics.tex",
        "metrics.md",
        "metrics.html",
        "comparison.tsv",
        "comparison.html",
        "participants.html",
        "usefulness.html",
        "front.html",
    )
    shared = {name: [paths.tables / name] for name in names}
    kind = "samples_{}.html"
    return shared | {kind: [paths.tables / kind.format(variant) for variant in variants]}


def run(study, options) -> None:
    from slimdiff.report.tables import write_all

    write_all(study, list(study.variants), study.folds.k)
