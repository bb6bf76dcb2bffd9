"""Record configuration, software, hardware and hashes; write provenance.json, methods.md and the RO-Crate."""

from pathlib import Path

from slimdiff.config import StudyPaths
from slimdiff.config.needs import EVERYTHING

FOLLOWS = "tables"
NEEDS = EVERYTHING


def outputs(paths: StudyPaths) -> list[Path]:
    names = ("provenance.html", "methods.html", "methods.md")
    return [paths.provenance, *(paths.tables / name for name in names), paths.crate]


def run(study, options) -> None:
    from slimdiff.export.ro_crate import write_crate
    from slimdiff.report.provenance import write_provenance

    facts = write_provenance(study, list(study.variants), study.folds.k)
    write_crate(study, facts)
