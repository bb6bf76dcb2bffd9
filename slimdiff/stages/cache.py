"""Cut the preprocessed volumes into axial slices: the slice store."""

import sys
from pathlib import Path

from slimdiff.config import Study, StudyPaths
from slimdiff.config.data import MODALITY

FOLLOWS = "kfold"
NEEDS = (*MODALITY, "slices", "preprocess.harmonise", "folds.use_split")


def needs(study: Study) -> tuple[str, ...]:
    """NEEDS, less the split where no landmarks are learned from its training subjects."""
    return NEEDS if study.preprocess.harmonise == "histogram" else NEEDS[:-1]


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
    landmarks = None
    if study.preprocess.harmonise == "histogram":
        from slimdiff.data.volumes.harmonise import learn, training_rows

        rows, learned_from = training_rows(included, study.folds.use_split)
        names = [row.participant_id for row in rows]
        landmarks = learn([paths.volume(name, "image") for name in names], names, learned_from)
        print(f"histogram landmarks: learned from {len(names)} {learned_from}", file=sys.stderr)
    facts = build_store(included, paths.volume, study.slices, paths.store, training, landmarks)
    for name in facts["patients_without_lesion_slice"]:
        outside, small = facts["lesion_outside_z_range"].get(name, 0), facts["dropped_small_lesion"][name]
        print(
            f"{name}: no lesion slice kept: {outside} outside slices.z_range {facts['z_range']}, {small} with less "
            "lesion than slices.min_lesion_mm2; the other slices are used as lesion-free ones",
            file=sys.stderr,
        )
