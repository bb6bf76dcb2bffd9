"""Draw the contact sheet of all participants: three planes of each volume, before and after preprocessing."""

import sys
from pathlib import Path

from slimdiff.config import StudyPaths
from slimdiff.config.data import MODALITY

FOLLOWS = "preprocess"
NEEDS = (*MODALITY, "report.title", "report.notice")


def outputs(paths: StudyPaths) -> list[Path]:
    return [paths.tables / "quality.html"]


def run(study, options) -> None:
    from slimdiff.report.quality import write_sheet

    write_sheet(study)
    print(f"look at it: {study.paths.tables / 'quality.html'}", file=sys.stderr)
