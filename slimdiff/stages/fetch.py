"""Fetch the study's public dataset (data.fetch); files that are complete and correct are kept."""

from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "phantom"
NEEDS = ("data.source", "data.root", "data.image_suffix", "data.fetch")
AFTER_A_STOP = "downloaded files are kept; run it again for the others"


def outputs(paths: StudyPaths) -> list[Path]:
    """The record alone: Snakemake deletes the outputs of a failed job, and fetched files are worth keeping."""
    return [paths.fetched]


def run(study, options) -> None:
    from slimdiff.data.fetch.dataset import fetch

    if not study.data.fetch.dataset:
        raise ValueError("data.fetch.dataset: null; name a dataset to fetch, or use the study's own files")
    fetch(study.data.fetch, Path(study.data.root), study.paths.fetched, study.data.image_suffix)
