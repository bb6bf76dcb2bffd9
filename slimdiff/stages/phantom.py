"""Write the phantom cohort of the demo as a BIDS dataset."""

from collections.abc import Iterable
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = None
NEEDS = ("data.phantom",)


def outputs(paths: StudyPaths, participants: Iterable) -> list[Path]:
    """The dataset's own files, and the image and mask of each participant."""
    volumes = [Path(path) for row in participants for path in (row.image, row.mask) if path]
    return [paths.phantom / "dataset_description.json", paths.phantom / "participants.tsv", *volumes]


def run(study, options) -> None:
    from slimdiff.data.phantom.cohort import write_cohort

    phantom = study.data.phantom
    write_cohort(study.paths.phantom, phantom.patients, phantom.controls, phantom.seed)
