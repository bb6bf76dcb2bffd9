"""Record configuration, software, hardware, and the hashes of inputs and weights: provenance.json and its page."""

from pathlib import Path

from slimdiff.config import StudyPaths
from slimdiff.config.needs import EVERYTHING

FOLLOWS = "tables"
NEEDS = EVERYTHING


def outputs(paths: StudyPaths) -> list[Path]:
    return [paths.provenance, paths.tables / "provenance.html"]


def run(study, options) -> None:
    from slimdiff.report.provenance import write_provenance

    write_provenance(study, list(study.variants), study.folds.k)
