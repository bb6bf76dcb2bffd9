"""Divide the participants into folds, each with train, val and test."""

from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "preprocess"
NEEDS = ("folds", "quality.policy", "quality.max_excluded")


def outputs(paths: StudyPaths) -> list[Path]:
    return [paths.folds]


def run(study, options) -> None:
    from slimdiff.data.folds import lesion_volumes, make_folds, write_folds
    from slimdiff.data.participants import not_preprocessed, read_included, read_participants
    from slimdiff.data.quality.exclusion import enforce_policy, left_out_for_flags

    table, record_of = study.paths.participants, study.paths.volume_json
    failed = not_preprocessed(read_participants(table), record_of)
    enforce_policy(failed, left_out_for_flags(study.paths.quality), study.quality)
    rows = [row for row in read_included(table, record_of) if row.included]
    volumes = lesion_volumes({row.participant_id: record_of(row.participant_id) for row in rows})
    write_folds(study.paths.folds, make_folds(rows, volumes, study.folds))
