"""Preprocessing of one participant: image and mask onto the study's grid, with a record of every step.

The steps are brain extraction, bias field, registration, one resampling, and scaling of intensities; the modules
`brain`, `bias_field`, `registration` and `grid` beside this one do the first four. The brain is extracted first, so
that fat and muscle do not influence the bias field.

Writes `volumes/{participant}_{FLAIR,mask}.nii.gz` (float32 in [-1, 1]; uint8 {0, 1}; RAS, true affine; FLAIR is the
study's modality) and `volumes/{participant}.json` (the QC row and the history). A participant excluded because its
files cannot be used gets empty files, which cannot be mistaken for data, and a record with the reason.
"""

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
from slimdiff.data.volumes.foreground import (
    _in_memory_order,
    background_within,
    foreground,
    with_dark_background,
)
from slimdiff.data.volumes.grid import (
    Grid,
    back_to_source,
    canonical,
    centred_grid,
    native_grid,
    nearest_planes,
    resample,
    resample_mask,
    to_grid_mm,
)
from slimdiff.data.volumes.input_fingerprint import MADE_OF, SOURCES, made_of
from slimdiff.data.volumes.nifti import write_nifti
from slimdiff.data.volumes.read import Pair, largest_offset_mm, load_pair, read_volume, read_volume_header
from slimdiff.files import read_object, replacing, sha256, write_object

LEAST_FOREGROUND = 0.01
"""Smallest share of the grid in the foreground. A brain takes at least 4 % (an infant's in a wide field)."""


@dataclass
class OnGrid:
    """One participant on the study's grid."""

    image: np.ndarray
    """float32 (X, Y, Z), in the scanner's units until `normalise`."""
    lesion: np.ndarray
    """bool (X, Y, Z)."""
    affine: np.ndarray
    """(4, 4), voxel to world, mm: the template's world after a registration, otherwise the scanner's."""
    brain: np.ndarray | None = None
    """bool (X, Y, Z); None without brain extraction."""
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
    """Preprocess one participant and write image, mask and record, the record last.

    Args:
        data: which mask values are lesion, and whether the mask may have another grid.
        quality: with policy `exclude` a participant that cannot be preprocessed gets empty files and a record with the
            reason (see `slimdiff.data.participants.read_included`); with policy `error` an included one raises.
        settings: the stage's part of the study, for the fingerprint (`made_of`).

    Raises DataError as `load_pair` does, and if a required brain is missing, too much of the lesion lies outside the
    brain, the registration fails, (almost) only background is left on the grid, or no lesion is left there.
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
    write_object(json_path, record)


def _on_grid(
    participant: Participant, data: DataConfig, config: PreprocessConfig, quality: QualityConfig
) -> tuple[np.ndarray, OnGrid, dict[str, Any]]:
    """The image in [-1, 1], the participant on the grid, and the record."""
    pair = load_pair(participant, data.labels, data.mask_grid, data.mask_threshold)
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
        SOURCES: {
            "image": pair.image.sha256,
            "mask": sha256(*participant.masks) if participant.masks else None,
        },
    }
    return scaled, moved, record


def to_grid(pair: Pair, participant: Participant, config: PreprocessConfig, quality: QualityConfig) -> OnGrid:
    """Brain extraction, bias field, registration and the one resampling (image trilinear, masks nearest voxel).

    Raises DataError as `preprocess` does.
    """
    # From here on all arrays have RAS axes, whatever the order in the file.
    values, affine = canonical(pair.image.values, pair.image.affine)
    found_background = background_within(values)
    values = with_dark_background(values, found_background)
    lesion, _ = canonical(pair.lesion, pair.image.affine)
    given = None if pair.brain is None else canonical(pair.brain, pair.image.affine)[0]
    layout = pair.image.layout
    history: list[dict[str, Any]] = [layout.record(participant.stack)] if layout else []
    history.append({"step": "reorient", "axes": "RAS"})
    if found_background is not None:
        history.append({"step": "darken_background", "from": found_background, "to": float(values.min())})
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
            "grid": list(grid.shape),
            "image": "linear",
            "mask": "nearest",
            "outside": background,
            # Slices of a source of pictures are not mixed.
            **({"planes": "nearest"} if layout and to_source is None else {}),
        }
    )
    if layout and to_source is None:
        planes, affine = nearest_planes(Grid(values.shape, affine), grid)
        values, lesion = values[..., planes], lesion[..., planes]
        brain = None if brain is None else brain[..., planes]
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
    # Quality control used the head, because the brain was not extracted yet.
    name, most = participant.participant_id, quality.max_lesion_outside
    voxels, outside = int(lesion.sum()), int((lesion & ~brain).sum())
    if outside > most * voxels and not quality.accepts("lesion_outside_brain", name):
        raise DataError(
            f"{name}: {participant.image}: expected at most {100 * most:.3g} % of the lesion outside the brain mask of "
            f"method {config.brain.method} (quality.max_lesion_outside), found {outside} of {voxels} voxels outside; "
            "inspect both, grow the brain (preprocess.brain.dilate_mm), accept this (quality.accept: "
            "lesion_outside_brain), or exclude the participant (data.exclude)"
        )


def _refuse_no_head(inside: np.ndarray, config: PreprocessConfig) -> None:
    share = np.count_nonzero(inside) / inside.size
    if share < LEAST_FOREGROUND:
        raise DataError(
            f"expected brain or head in at least {100 * LEAST_FOREGROUND:g} % of the grid {list(config.grid)} at "
            f"{config.voxel}, found {100 * share:.2g} %: a few voxels may be far brighter than the rest, or "
            "the volume shows no head; inspect the image, fix the file, or exclude the participant (data.exclude)"
        )


def _quality(
    pair: Pair, moved: OnGrid, inside: np.ndarray, participant: Participant, config: PreprocessConfig
) -> dict[str, Any]:
    """Measurements for the report and the folds. Raises DataError if a patient's lesion is lost."""
    affine, shape = pair.image.affine, pair.image.values.shape
    slice_mm = float(np.linalg.norm(moved.affine[:3, 2])) if config.native else config.slice_mm
    voxel_ml = config.pixel_mm**2 * slice_mm / 1000
    source, grid = np.count_nonzero(pair.lesion), np.count_nonzero(moved.lesion)
    outside = np.count_nonzero(moved.lesion & ~inside) if grid else 0
    source_ml = float(source * abs(np.linalg.det(affine[:3, :3])) / 1000)
    if participant.is_patient and source and not grid:
        raise DataError(
            f"{participant.participant_id}: {participant.mask}: expected a lesion after resampling to "
            f"{config.voxel} and cropping to {list(config.grid)}, found none ({source_ml:.3g} ml before); "
            "change preprocess.spacing_mm or preprocess.grid, or exclude the participant (data.exclude)"
        )
    return {
        "lesion_ml_source": source_ml,
        "lesion_ml_grid": float(grid * voxel_ml),
        "lesion_outside_foreground_share": float(outside / max(grid, 1)),
        # An affine registration scales the lesion too; this ratio separates scaling from loss.
        "registration_volume_ratio": float(np.linalg.det(to_grid_mm({"history": moved.history})[:3, :3])),
        "foreground_ml": float(np.count_nonzero(inside) * voxel_ml),
        "source_spacing_mm": [float(v) for v in nibabel.affines.voxel_sizes(affine)],
        "source_shape": list(shape),
        "source_orientation": "".join(nibabel.aff2axcodes(affine)),
    }


def normalise(
    volume: np.ndarray, config: PreprocessConfig, brain: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Map the two percentiles to -1 and 1 and clip; the background becomes -1.

    With `percentiles_over: volume` the background is scaled like the foreground.

    Args:
        volume: (X, Y, Z), in the scanner's units.
        brain: bool (X, Y, Z), used as the foreground; None: the foreground is found by Otsu's threshold.

    Returns float32 in [-1, 1], the foreground, and the two intensities that became -1 and 1.
    Raises DataError if the image has no contrast to scale.
    """
    inside = brain
    if volume.min() == volume.max() or (brain is not None and not brain.any()):
        raise DataError(
            f"expected a head on the grid {list(config.grid)} at {config.voxel}, found only background; "
            "inspect the image and its header, or change preprocess.grid"
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
            f"expected different intensities at the percentiles {config.percentiles}, found {low:g} at both; inspect "
            "the image or change preprocess.percentiles"
        )
    scaled = (turned - low) * (2 / (high - low)) - 1
    scaled = np.clip(scaled, -1, 1, out=scaled).astype(np.float32, copy=False)
    if not everywhere:
        np.copyto(scaled, np.float32(-1), where=~chosen)
    return (scaled if turned is volume else scaled.T), inside, (low, high)


def volume_to_source(paths: StudyPaths, participant: str, path: Path, out: Path) -> None:
    """Resample a volume from the study's grid (for example a mask drawn there) to the participant's image.

    Integers are resampled by nearest voxel, other values linearly.
    Raises DataError if the participant has no volume on the grid, or `path` has another grid.
    """
    record = read_object(paths.volume_json(participant))
    if "affine" not in record:
        reason = record.get("excluded", record.get(NOT_PREPROCESSED))
        raise DataError(f"{participant}: excluded ({reason}); it has no volume on the grid")
    volume, affine = read_volume(path, participant), np.array(record["affine"])
    expected = read_volume_header(paths.volume(participant, "image"), participant).get_data_shape()
    if volume.values.shape != expected or largest_offset_mm(volume.affine, affine, expected) > 0.1:
        raise DataError(
            f"{path}: expected {participant}'s grid of {expected} with the affine of "
            f"{paths.volume(participant, 'image')}, found shape {volume.values.shape} or another affine"
        )
    whole = volume.stored.dtype.kind in "iub"
    image = back_to_source(volume.values, record, 0 if whole else 1)
    values = np.asarray(image.dataobj).astype(volume.stored.dtype if whole else np.float32)
    with replacing(out, suffix=".nii.gz" if out.name.endswith(".gz") else ".nii") as temporary:
        nibabel.save(nibabel.Nifti1Image(values, image.affine), temporary)
