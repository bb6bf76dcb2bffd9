"""Bring one participant's volumes (or all participants') onto the study's grid, or a volume back from it."""

import argparse
from pathlib import Path

from slimdiff.config import Study, StudyPaths
from slimdiff.config.data import MODALITY

FOLLOWS = "participants"
NEEDS = (
    *MODALITY,
    # What the values and the grid of a mask mean; the source has a default of its own for it.
    "data.lesion_labels",
    "data.mask_threshold",
    "data.empty_mask",
    "data.mask_grid",
    *(
        f"preprocess.{key}"
        for key in (
            "spacing_mm",
            "grid",
            "bias_field",
            "brain",
            "registration",
            "percentiles",
            "percentiles_over",
        )
    ),
    "quality.policy",
    "quality.max_lesion_outside",
    "quality.accept.lesion_outside_brain",
)


def needs(study: Study) -> tuple[str, ...]:
    """NEEDS, less what is judged against an extracted brain where none is extracted."""
    if study.preprocess.brain.method != "none":
        return NEEDS
    return tuple(key for key in NEEDS if not key.endswith(("max_lesion_outside", "lesion_outside_brain")))


def outputs(paths: StudyPaths, participant: str = "{participant}") -> list[Path]:
    """Image, mask and record of one participant."""
    return [
        paths.volume(participant, "image"),
        paths.volume(participant, "mask"),
        paths.volume_json(participant),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--participant", metavar="ID", nargs="+", help="these participants (default: all)")
    parser.add_argument(
        "--back", metavar="FILE", help="a volume on the grid, to bring back to its source image"
    )
    parser.add_argument("--out", metavar="FILE", help="with --back: the file to write")


def run(study, options) -> None:
    from tqdm import tqdm

    from slimdiff.data.participants import participants_named
    from slimdiff.data.volumes.preprocess import preprocess, volume_to_source

    paths, named = study.paths, options.participant or []
    if options.back:
        if len(named) != 1 or not options.out:
            raise ValueError(
                "--back: give --participant (whose image it belongs to) and --out (the file to write)"
            )
        volume_to_source(paths, named[0], Path(options.back), Path(options.out))
        return
    rows = participants_named(paths.participants, named)
    for row in tqdm(rows, desc="preprocess", unit="subject", disable=len(rows) == 1):
        name = row.participant_id
        preprocess(row, study.data, study.preprocess, *outputs(paths, name), study.quality, study.as_json())
