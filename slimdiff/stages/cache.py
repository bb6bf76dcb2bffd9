"""Cut the preprocessed volumes into axial slices: the slice store."""

import sys
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "kfold"
NEEDS = ("slices",)


def outputs(paths: StudyPaths) -> list[Path]:
    """The slice store."""
    return [paths.store / name for name in ("store.json", "images.npy", "masks.npy", "slices.tsv")]


def run(study, options) -> None:
    from slimdiff.data.folds import training_participants
    from slimdiff.data.participants import read_included
    from slimdiff.data.slices import build_store

    paths = study.paths
    training = training_participants(paths.folds) if study.slices.z_range == "auto" else []
    included = [row for row in read_included(paths.participants, paths.volume_json) if row.included]
    facts = build_store(included, paths.volume, study.slices, paths.store, training)
    for name in facts["patients_without_lesion_slice"]:
        outside, small = facts["lesion_outside_z_range"].get(name, 0), facts["dropped_small_lesion"][name]
        print(
            f"{name}: no lesion slice kept: {outside} outside slices.z_range {facts['z_range']}, {small} with less "
            "lesion than slices.min_lesion_mm2; the other slices are used as lesion-free ones",
            file=sys.stderr,
        )
