"""Record configuration, software, hardware, and hashes (provenance.json and its page), and write the methods text."""

from pathlib import Path

from slimdiff.config import StudyPaths
from slimdiff.config.needs import EVERYTHING

FOLLOWS = "tables"
NEEDS = EVERYTHING


def outputs(paths: StudyPaths) -> list[Path]:
    names = ("provenance.html", "methods.html", "methods.md")
    return [paths.provenance, *(paths.tables / name for name in names)]


def run(study, options) -> None:
    from slimdiff.report.provenance import write_provenance

    write_provenance(study, list(study.variants), study.folds.k)
