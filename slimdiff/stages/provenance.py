"""Record configuration, software, hardware and hashes; write provenance.json, methods.md, cards and the RO-Crate."""

from pathlib import Path

from slimdiff.config import Study, StudyPaths
from slimdiff.config.needs import EVERYTHING

FOLLOWS = "tables"
NEEDS = EVERYTHING


def outputs(paths: StudyPaths, study: Study) -> list[Path]:
    names = ("provenance.html", "methods.html", "methods.md")
    cards = [paths.model(*run) / "MODEL_CARD.md" for run in study.runs()]
    return [paths.provenance, *(paths.tables / name for name in names), paths.crate, *cards]


def run(study, options) -> None:
    from slimdiff.export.ro_crate import write_crate
    from slimdiff.report.model_card import write_model_cards
    from slimdiff.report.provenance import write_provenance

    facts = write_provenance(study, list(study.variants), study.folds.k)
    write_model_cards(study, list(study.variants), study.folds.k)
    write_crate(study, facts)
