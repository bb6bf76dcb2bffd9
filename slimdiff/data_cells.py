"""What the commands before the training do: fetch, look at, bring onto the grid, divide and cut."""

import sys
from pathlib import Path

from tqdm import tqdm

from slimdiff.config import Study, StudyPaths, stage_config
from slimdiff.data.participants import (
    NOT_PREPROCESSED,
    DataError,
    Participant,
    not_preprocessed,
    read_included,
    read_participants,
)
from slimdiff.data.quality.verdicts import enforce_policy, left_out_for_flags


def run_participants(study: Study, workers: int) -> None:
    """Find the participants, look at every volume, and write participants.tsv and quality.tsv.

    Raises DataError naming everybody that is flagged, as `quality.policy` wants it; then neither table is written.
    """
    from slimdiff.data.participants import write_participants
    from slimdiff.data.quality.gate import run_quality_control, write_quality
    from slimdiff.data.volumes.input_fingerprint import SETTINGS, short_hash
    from slimdiff.files import write_text

    paths = study.paths
    rows, verdicts = run_quality_control(
        study.data, study.quality, paths.phantom, paths.quality_state, workers
    )
    write_text(paths.quality_state / SETTINGS, short_hash(stage_config(study, "participants")))
    write_quality(paths.quality, verdicts)
    write_participants(paths.participants, rows)
    out = [row for row in rows if not row.included]
    for row in out:
        print(f"{row.participant_id}: left out: {row.excluded}", file=sys.stderr)
    print(f"{len(rows) - len(out)} participants take part, {len(out)} are left out", file=sys.stderr)


def run_preprocess(study: Study, participant: str | None) -> None:
    """Put one participant's volumes, or everybody's, on the study's grid."""
    from slimdiff.data.volumes.preprocess import preprocess

    paths = study.paths
    known = read_participants(paths.participants)
    rows = [_named(known, participant, paths)] if participant else [row for row in known if row.included]
    for row in tqdm(rows, desc="preprocess", unit="subject", disable=len(rows) == 1):
        name = row.participant_id
        preprocess(
            row,
            study.data,
            study.preprocess,
            paths.volume(name, "FLAIR"),
            paths.volume(name, "mask"),
            paths.volume_json(name),
            study.quality,
            stage_config(study, "preprocess"),
        )


def run_back(study: Study, participant: str | None, path: Path, out: Path | None) -> None:
    """Bring a volume on the study's grid (a mask that somebody drew there) back to the participant's own image."""
    import nibabel
    import numpy as np

    from slimdiff.data.volumes.grid import back_to_source
    from slimdiff.data.volumes.read import largest_offset_mm, read_volume
    from slimdiff.files import read_object, replacing

    if not participant or not out:
        raise ValueError(
            "--back wants --participant, whose image it belongs to, and --out, the file to write"
        )
    record_path = study.paths.volume_json(participant)
    record = read_object(record_path)
    if "affine" not in record:
        reason = record.get("excluded", record.get(NOT_PREPROCESSED))
        raise DataError(f"{participant}: excluded ({reason}); it has no volume on the grid")
    volume, affine = read_volume(path, participant), np.array(record["affine"])
    wanted = nibabel.load(study.paths.volume(participant, "FLAIR")).shape
    if volume.values.shape != wanted or largest_offset_mm(volume.affine, affine, wanted) > 0.1:
        raise DataError(
            f"{path}: shape {volume.values.shape}, which is not on {participant}'s grid of {wanted} with the affine of "
            f"{study.paths.volume(participant, 'FLAIR')}"
        )
    whole = volume.stored.dtype.kind in "iub"
    image = back_to_source(volume.values, record, 0 if whole else 1)
    result = nibabel.Nifti1Image(
        np.asarray(image.dataobj).astype(volume.stored.dtype if whole else np.float32), image.affine
    )
    with replacing(out, suffix=".nii.gz" if out.name.endswith(".gz") else ".nii") as temporary:
        nibabel.save(result, temporary)


def run_fetch(study: Study) -> None:
    """Fetch the study's dataset, keeping what is there and right."""
    from slimdiff.data.fetch.dataset import fetch

    if not study.data.fetch.dataset:
        raise ValueError("data.fetch.dataset: nothing is named; the study's files are its own")
    fetch(study.data.fetch, Path(study.data.root), study.paths.fetched)


def run_kfold(study: Study) -> None:
    """Divide the participants that take part into folds."""
    from slimdiff.data.folds import lesion_volumes, make_folds, write_folds

    table, record_of = study.paths.participants, study.paths.volume_json
    failed = not_preprocessed(read_participants(table), record_of)
    enforce_policy(failed, left_out_for_flags(study.paths.quality), study.quality)
    rows = [row for row in read_included(table, record_of) if row.included]
    volumes = lesion_volumes(
        {row.participant_id: study.paths.volume_json(row.participant_id) for row in rows}
    )
    write_folds(study.paths.folds, make_folds(rows, volumes, study.folds))


def run_cache(study: Study) -> None:
    """Cut the volumes of the participants that take part into the slice store."""
    from slimdiff.data.folds import training_participants
    from slimdiff.data.slices import build_store

    automatic = study.slices.z_range == "auto"
    training = training_participants(study.paths.folds) if automatic else []
    rows = read_included(study.paths.participants, study.paths.volume_json)
    included = [row for row in rows if row.included]
    facts = build_store(included, study.paths.volume, study.slices, study.paths.store, training)
    for name in facts["patients_without_lesion_slice"]:
        outside, small = facts["lesion_outside_z_range"].get(name, 0), facts["dropped_small_lesion"][name]
        print(
            f"{name}: no lesion slice is kept: {outside} lie outside slices.z_range {facts['z_range']}, {small} have "
            "less than slices.min_lesion_mm2; its other slices train as lesion-free ones",
            file=sys.stderr,
        )


def run_priors(study: Study, fold: int | None) -> None:
    """Write the z-bin priors of one fold, or of all, from its training subjects."""
    import numpy as np

    from slimdiff.data.folds import read_folds
    from slimdiff.data.priors import write_priors, z_bin_priors
    from slimdiff.data.store import SliceStore

    store = SliceStore.open(study.paths.store)
    for number in range(study.folds.k) if fold is None else [fold]:
        rows = store.rows_of(read_folds(study.paths.folds, number)["train"])
        images = np.asarray(store.images[rows])
        priors = z_bin_priors(images, store.z_bin[rows], store.n_bins, study.priors, store.spacing_mm)
        write_priors(study.paths.prior(number), priors)


def _named(known: list[Participant], participant: str, paths: StudyPaths) -> Participant:
    found = [row for row in known if row.participant_id == participant]
    if not found:
        raise ValueError(f"{paths.participants}: no participant {participant!r}")
    return found[0]
