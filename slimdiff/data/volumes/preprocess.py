"""One participant's image and mask onto the study's grid, with the record of what was done to them.

Brain, bias field, template, one resampling, intensities: `slimdiff.data.{brain, bias_field, registration, grid,
intensity}` each do one. The brain comes before the field, so that fat and muscle have no say in the field that the
brain is corrected for.

Writes `volumes/{participant}_{FLAIR,mask}.nii.gz` (float32 in [-1, 1]; uint8 {0, 1}; RAS, true affine) and
`volumes/{participant}.json` (the QC row and the history). A participant that is left out because its files cannot be
used gets empty files, so that nobody takes them for data, and a record that says why.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from slimdiff.config import StudyPaths
from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import NOT_PREPROCESSED, DataError, Participant
from slimdiff.data.volumes import bias_field, registration
from slimdiff.data.volumes.brain import brain_mask
from slimdiff.data.volumes.foreground import _in_memory_order, foreground
from slimdiff.data.volumes.grid import (
    Grid,
    back_to_source,
    canonical,
    centred_grid,
    native_grid,
    resample,
    resample_mask,
    to_grid_mm,
)
from slimdiff.data.volumes.input_fingerprint import MADE_OF, made_of
from slimdiff.data.volumes.nifti import write_nifti
from slimdiff.data.volumes.read import Pair, largest_offset_mm, load_pair, read_volume
from slimdiff.files import read_object, replacing, sha256, write_text

LEAST_FOREGROUND = 0.01
"""Of the grid. A brain takes 4 % (an infant's in a wide field) or more; less is what a few bright voxels leave."""


@dataclass
class OnGrid:
    """One participant on the study's grid."""

    image: np.ndarray
    """float32 (X, Y, Z), in the scanner's units until `normalise`."""
    lesion: np.ndarray
    """bool (X, Y, Z)."""
    affine: np.ndarray
    """(4, 4), voxel to world, mm: the template's world where there was a registration, else the scanner's."""
    brain: np.ndarray | None = None
    """bool (X, Y, Z), where there was a brain extraction."""
    history: list[dict[str, Any]] = field(default_factory=list)


def preprocess(
    participant: Participant,
    data: DataConfig,
    config: PreprocessConfig,
    image_path: Path,
    mask_path: Path,
    json_path: Path,
    quality: QualityConfig | None = None,
    settings: str = "",
) -> None:
    """Put one participant on the grid and write image, mask and record, the record last.

    data: what the mask's values mean, and whether it may lie on another grid. quality: with policy `exclude` a
    participant that cannot be preprocessed gets empty files and a record that says why (`slimdiff.data.taking_part`).
    settings: the stage's part of the study, for `slimdiff.data.made_of`.
    Raises DataError: what `load_pair` raises; no brain where one is wanted; too much of the lesion outside of it; a
    failed registration; nothing, or next to nothing, but background on the grid; no lesion left there.
    """
    quality = quality or QualityConfig()
    try:
        scaled, moved, record = _on_grid(participant, data, config, quality)
    except DataError as error:
        if participant.included and quality.policy == "error":
            raise
        for path in (image_path, mask_path):
            with replacing(path):
                pass
        record = {"participant": participant.participant_id, NOT_PREPROCESSED: str(error)}
        if not participant.included:
            record["excluded"] = participant.excluded
    else:
        write_nifti(image_path, scaled, moved.affine)
        write_nifti(mask_path, moved.lesion.astype(np.uint8), moved.affine)
    record[MADE_OF] = made_of(participant, settings)
    write_text(json_path, json.dumps(record, indent=1))


def _on_grid(
    participant: Participant, data: DataConfig, config: PreprocessConfig, quality: QualityConfig
) -> tuple[np.ndarray, OnGrid, dict[str, Any]]:
    """The image in [-1, 1], what it was made of, and the record."""
    pair = load_pair(participant, data.labels, data.mask_grid)
    who = f"{participant.participant_id}: {participant.image}"
    moved = to_grid(pair, participant, config, quality)
    try:
        scaled, inside, (low, high) = normalise(moved.image, config, moved.brain)
        _refuse_no_head(inside, config)
    except DataError as error:
        raise DataError(f"{who}: {error}") from None
    moved.history.append(
        {
            "step": "scale",
            "scale_to_unit_range": [low, high],
            "percentiles": list(config.percentiles),
            "over": config.percentiles_over,
        }
    )
    record = {
        "participant": participant.participant_id,
        **({} if participant.included else {"excluded": participant.excluded}),
        "qc": _quality(pair, moved, inside, participant, config),
        "history": moved.history,
        "source_affine": pair.image.affine.tolist(),
        "affine": moved.affine.tolist(),
        "source_sha256": {
            "image": pair.image.sha256,
            "mask": sha256(participant.mask) if participant.mask else None,
        },
    }
    return scaled, moved, record


def to_grid(pair: Pair, participant: Participant, config: PreprocessConfig, quality: QualityConfig) -> OnGrid:
    """Brain extraction, bias field, registration and the one resampling: image linear, masks nearest voxel.

    Raises DataError as `preprocess` does.
    """
    # From here on every step sees the same axes, however the file has them.
    values, affine = canonical(pair.image.values, pair.image.affine)
    lesion, _ = canonical(pair.lesion, pair.image.affine)
    given = None if pair.brain is None else canonical(pair.brain, pair.image.affine)[0]
    history: list[dict[str, Any]] = [{"step": "reorient", "axes": "RAS"}]
    background = float(values.min())
    who = f"{participant.participant_id}: {participant.image}"

    brain = brain_mask(values, affine, given, participant, config.brain)
    if brain is not None:
        _refuse_lesion_outside(lesion, brain, participant, config, quality)
        values = np.where(brain, values, np.float32(background))
        history.append(
            {"step": "extract_brain", **config.brain.model_dump(mode="json"), "background": background}
        )

    inside = brain
    if inside is None and (config.bias_field.n4 or config.registration.transform != "none"):
        inside = foreground(values)
    try:
        if config.bias_field.n4:
            values, used = bias_field.correct(values, inside)
            history.append({"step": "correct_bias_field", "method": "N4", **used})
        if config.registration.transform == "none":
            to_source, grid = None, native_grid(Grid(values.shape, affine), config.spacing_mm, config.grid)
        else:
            found = registration.register(values, affine, inside, config.registration)
            to_source = np.linalg.inv(found.to_template_mm)
            grid = centred_grid(registration.template_centre_mm(), config.spacing_mm, config.grid)
            history.append(
                {
                    "step": "register",
                    "template": "ICBM152 2009a T1",
                    "transform": config.registration.transform,
                    "sampling": registration.SAMPLING,
                    "seed": registration.SEED,
                    "mutual_information": list(found.information),
                    "source_to_grid_mm": found.to_template_mm.tolist(),
                }
            )
    except DataError as error:
        raise DataError(f"{who}: {error}") from None

    history.append(
        {
            "step": "resample",
            "spacing_mm": config.spacing_mm,
            "grid": list(config.grid),
            "image": "linear",
            "mask": "nearest",
            "outside": background,
        }
    )
    return OnGrid(
        resample(values, affine, grid, to_source, outside=background),
        resample_mask(lesion, affine, grid, to_source),
        grid.affine,
        None if brain is None else resample_mask(brain, affine, grid, to_source),
        history,
    )


def _refuse_lesion_outside(
    lesion: np.ndarray,
    brain: np.ndarray,
    participant: Participant,
    config: PreprocessConfig,
    quality: QualityConfig,
) -> None:
    # Quality control saw the head, because the brain was not there yet.
    name, most = participant.participant_id, quality.max_lesion_outside
    voxels, outside = int(lesion.sum()), int((lesion & ~brain).sum())
    if outside > most * voxels and not quality.accepts("lesion_outside_brain", name):
        raise DataError(
            f"{name}: {participant.image}: {outside} of the lesion's {voxels} voxels lie outside the brain that "
            f"{config.brain.method} gave, at most {100 * most:.3g} % may (quality.max_lesion_outside); look at both, "
            "grow the brain (preprocess.brain.dilate_mm), accept it (quality.accept: lesion_outside_brain), or exclude "
            "the participant (data.exclude)"
        )


def _refuse_no_head(inside: np.ndarray, config: PreprocessConfig) -> None:
    share = np.count_nonzero(inside) / inside.size
    if share < LEAST_FOREGROUND:
        raise DataError(
            f"brain or head take {100 * share:.2g} % of the grid {list(config.grid)} at {config.spacing_mm} mm, at "
            f"least {100 * LEAST_FOREGROUND:g} % are wanted: a few voxels may be far brighter than the rest, or the "
            "volume is not a head's; look at it, mend it, or exclude the participant (data.exclude)"
        )


def _quality(
    pair: Pair, moved: OnGrid, inside: np.ndarray, participant: Participant, config: PreprocessConfig
) -> dict[str, Any]:
    """What the report and the folds want to know. Raises DataError where no lesion is left."""
    affine, shape = pair.image.affine, pair.image.values.shape
    voxel_ml = config.spacing_mm**3 / 1000
    source, grid = np.count_nonzero(pair.lesion), np.count_nonzero(moved.lesion)
    outside = np.count_nonzero(moved.lesion & ~inside) if grid else 0
    source_ml = float(source * abs(np.linalg.det(affine[:3, :3])) / 1000)
    if participant.is_patient and source and not grid:
        raise DataError(
            f"{participant.participant_id}: {participant.mask}: the lesion ({source_ml:.3g} ml) is gone after "
            f"resampling to {config.spacing_mm} mm and cropping to {list(config.grid)}"
        )
    return {
        "lesion_ml_source": source_ml,
        "lesion_ml_grid": float(grid * voxel_ml),
        "lesion_outside_foreground_share": float(outside / max(grid, 1)),
        # An affine registration makes brains as large as the template; what is lost is measured apart from that.
        "registration_volume_ratio": float(np.linalg.det(to_grid_mm({"history": moved.history})[:3, :3])),
        "foreground_ml": float(np.count_nonzero(inside) * voxel_ml),
        "source_spacing_mm": [float(v) for v in nibabel.affines.voxel_sizes(affine)],
        "source_shape": list(shape),
        "source_orientation": "".join(nibabel.aff2axcodes(affine)),
    }


def normalise(
    volume: np.ndarray, config: PreprocessConfig, brain: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Map the percentiles to -1 and 1 and clip; outside the foreground is -1.

    Args:
        volume: (X, Y, Z), in the scanner's units.
        brain: bool (X, Y, Z), which is then the foreground; nothing: it is found by Otsu's threshold.

    Returns float32 in [-1, 1], the foreground, and the two intensities that became -1 and 1.
    Raises DataError where there is nothing to scale.
    """
    inside = brain
    if volume.min() == volume.max() or (brain is not None and not brain.any()):
        raise DataError(
            f"nothing but background is left at {config.spacing_mm} mm on the grid {list(config.grid)}"
        )
    if inside is None:
        inside = foreground(volume)
    everywhere = config.percentiles_over == "volume"
    turned, _ = _in_memory_order(volume)
    chosen = inside if turned is volume else inside.T
    over = turned if everywhere else turned[chosen]
    low, high = (float(value) for value in np.percentile(over, config.percentiles))
    if not high > low:
        raise DataError(
            f"percentiles {config.percentiles} of the image are equal ({low:g}): nothing to scale"
        )
    scaled = (turned - low) * (2 / (high - low)) - 1
    scaled = np.clip(scaled, -1, 1, out=scaled).astype(np.float32, copy=False)
    if not everywhere:
        np.copyto(scaled, np.float32(-1), where=~chosen)
    return (scaled if turned is volume else scaled.T), inside, (low, high)


def volume_to_source(paths: StudyPaths, participant: str, path: Path, out: Path) -> None:
    """Bring a volume on the study's grid (a mask that was drawn there, for example) back to the participant's image.

    Integers are resampled by the nearest voxel, other values linearly.
    Raises DataError where the participant has no volume on the grid, or `path` is on another grid.
    """
    record = read_object(paths.volume_json(participant))
    if "affine" not in record:
        reason = record.get("excluded", record.get(NOT_PREPROCESSED))
        raise DataError(f"{participant}: excluded ({reason}); it has no volume on the grid")
    volume, affine = read_volume(path, participant), np.array(record["affine"])
    expected = nibabel.load(paths.volume(participant, "FLAIR")).shape
    if volume.values.shape != expected or largest_offset_mm(volume.affine, affine, expected) > 0.1:
        raise DataError(
            f"{path}: expected {participant}'s grid of {expected} with the affine of "
            f"{paths.volume(participant, 'FLAIR')}, found shape {volume.values.shape} or another affine"
        )
    whole = volume.stored.dtype.kind in "iub"
    image = back_to_source(volume.values, record, 0 if whole else 1)
    values = np.asarray(image.dataobj).astype(volume.stored.dtype if whole else np.float32)
    with replacing(out, suffix=".nii.gz" if out.name.endswith(".gz") else ".nii") as temporary:
        nibabel.save(nibabel.Nifti1Image(values, image.affine), temporary)
