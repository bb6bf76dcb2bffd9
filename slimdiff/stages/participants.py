"""Discover the participants, check their volumes, and write participants.tsv and quality.tsv."""

import argparse
import sys
from pathlib import Path

from slimdiff.config import Study, StudyPaths
from slimdiff.stages import at_least_one

FOLLOWS = "fetch"
NEEDS = (
    "data.source",
    "data.root",
    "data.table",
    "data.slices",
    "data.image_suffix",
    "data.modality",
    "data.mask_suffix",
    "data.entities",
    "data.entities_may_drop",
    "data.mask_root",
    "data.brain_suffix",
    "data.channel",
    "data.lesion_labels",
    "data.mask_threshold",
    "data.empty_mask",
    "data.several_masks",
    "data.patients_without_mask",
    "data.mask_grid",
    "data.groups",
    "data.two_dimensional",
    "data.exclude",
    "data.phantom.patients",
    "data.phantom.controls",
    "data.phantom.seed",
    # The server of the files makes no difference to the participants; the dataset does.
    "data.fetch.dataset",
    "quality",
    # Which axes are resampled, and whether the z-range fits to the heads.
    "preprocess.spacing_mm",
    "preprocess.registration.transform",
    "slices.height",
    "preprocess.grid",
    "slices.z_range",
    "slices.n_bins",
)

AFTER_A_STOP = "finished measurements are kept; run it again for the others"


def needs(study: Study) -> tuple[str, ...]:
    """NEEDS, less the z-range and its grid where heads are registered or heights are not slice numbers."""
    if study.preprocess.registration.transform == "none" and study.slices.height == "slice":
        return NEEDS
    return NEEDS[:-3]


def outputs(paths: StudyPaths) -> list[Path]:
    return [paths.participants, paths.quality]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=at_least_one,
        default=1,
        metavar="N",
        help="volumes checked in parallel (default: %(default)s)",
    )


def run(study, options) -> None:
    from slimdiff.data.composition import composition
    from slimdiff.data.participants import write_participants
    from slimdiff.data.quality.field_of_view import Slicing
    from slimdiff.data.quality.gate import run_quality_control, write_quality
    from slimdiff.data.volumes.input_fingerprint import SETTINGS, short_hash
    from slimdiff.files import write_text

    paths = study.paths
    rows, verdicts = run_quality_control(
        study.data,
        study.quality,
        paths.phantom,
        paths.quality_state,
        options.workers,
        Slicing.of(study),
    )
    write_text(paths.quality_state / SETTINGS, short_hash(study.as_json()))
    write_quality(paths.quality, verdicts)
    write_participants(paths.participants, rows)
    print("\n".join(composition(rows)), file=sys.stderr)
