"""Write the tables of the study: metrics, comparison of the variants, participants."""

from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "figures"
NEEDS = ("report", "variants", "folds.k", "folds.use_split", "utility.enabled")


def outputs(paths: StudyPaths) -> dict[str, Path]:
    """Name of a table: its file."""
    names = (
        "metrics.tsv",
        "metrics.tex",
        "metrics.html",
        "comparison.tsv",
        "comparison.html",
        "participants.html",
    )
    return {name: paths.tables / name for name in names}


def run(study, options) -> None:
    from slimdiff.report.tables import write_all

    write_all(study, list(study.variants), study.folds.k)
