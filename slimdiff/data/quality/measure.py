"""Measurements of one participant's files: read once and cached, independent of the thresholds in `quality`."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import PATHS, Flag, Participant
from slimdiff.data.quality.artefacts import flip_contrasts, overflow, symmetry_plane
from slimdiff.data.quality.field_of_view import head_extent
from slimdiff.data.quality.image_quality import image_quality
from slimdiff.data.quality.planes import Planes, three_planes, write_planes
from slimdiff.data.volumes.foreground import background_within, with_dark_background
from slimdiff.data.volumes.read import (
    Lesion,
    Volume,
    VolumeError,
    largest_offset_mm,
    read_brain,
    read_image,
    read_lesion,
)
from slimdiff.files import read_object, sha256, write_object

MEASUREMENT_VERSION = 4
"""Increase it when a measurement below changes; cached measurements are then repeated."""
MOST_LABELS = 50
BRIGHT_LESION = ("FLAIR", "T2w")
"""Modalities on which a lesion is expected to be brighter than its surroundings."""
COARSE_MM = 2.0
"""The head is found on voxels of about this size; smaller ones change no value and cost a second per volume."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one participant. A value is None if its file cannot be read."""

    image_sha256: str | None = None
    mask_sha256: str | None = None
    voxel_sha256: str | None = None
    """SHA-256 of the sorted intensities and the sorted shape. It is the same for a copy that is renamed, compressed
    differently, stored in another axis order, or mirrored."""
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    """Directions of the stored axes, for example LAS."""
    placed: bool = True
    """False if the header gives no position (`Volume.placed`)."""
    forms_apart_mm: float | None = None
    """Largest distance between the positions that sform and qform give to a voxel; None if the header lacks one."""
    outside_voxels: int | None = None
    """NaN voxels outside the field of view (`Volume.outside`)."""
    background_within: float | None = None
    """Value of a background that is not the darkest (`slimdiff.data.volumes.foreground.background_within`)."""
    dtype: str | None = None
    """As stored."""
    minimum: float | None = None
    maximum: float | None = None
    lesion_voxels: int | None = None
    lesion_ml: float | None = None
    lesion_share: float | None = None
    """Voxels of the lesion / voxels of `outside_of`."""
    mask_labels: tuple[float, ...] = ()
    """Values above 0 of a mask without the lesion's labels, or with several labels (at most MOST_LABELS)."""
    lesion_outside_share: float | None = None
    """Share of the lesion's voxels outside `outside_of`."""
    outside_of: str | None = None
    """`brain mask`, or `head` without one."""
    lesion_contrast: float | None = None
    """Lesion minus surroundings, in SD of the brain (`slimdiff.data.quality.artefacts`)."""
    flip: str | None = None
    """Flip of the mask with the highest contrast."""
    flip_contrast: float | None = None
    """Contrast of that flip."""
    wrapped_voxels: int | None = None
    clipped_share: float | None = None
    mask_moved: bool = False
    """The mask was resampled from another grid."""
    head_mm: tuple[float, float] | None = None
    """Lowest and highest slice with head, in mm above the centre of the volume (`field_of_view.head_extent`)."""
    snr: float | None = None
    efc: float | None = None
    fber: float | None = None
    slice_jump: float | None = None
    ghost: float | None = None
    """These five: `slimdiff.data.quality.image_quality.ImageQuality`."""
    has_planes: bool = False
    flags: tuple[Flag, ...] = field(default=())
    """Faults of the files themselves."""

    def to_dict(self) -> dict[str, Any]:
        """The values as a dictionary for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measured":
        """Inverse of `to_dict`, also after JSON. Raises TypeError for unknown keys."""
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise TypeError(f"unknown keys: {', '.join(sorted(unknown))}")
        kept = ("shape", "spacing_mm", "mask_labels", "head_mm")
        lists = {key: tuple(values[key]) for key in kept if values.get(key) is not None}
        flags = tuple(Flag(**flag) for flag in values.get("flags", ()))
        return cls(**{**values, **lists, "flags": flags})


def measure(participant: Participant, data: DataConfig) -> Measured:
    """Read and measure one participant's image and masks; faults of the files become flags."""
    return measure_volume(participant, data)[0]


def measure_volume(participant: Participant, data: DataConfig) -> tuple[Measured, Planes | None]:
    """`measure`, and the planes for display, or None if the image cannot be read."""
    flags: list[Flag] = []
    found: dict[str, Any] = {
        "image_sha256": _hash(participant.images),
        "mask_sha256": _hash(participant.masks),
    }
    image = _tried(participant, flags, lambda: read_image(participant))
    if image is None:
        return Measured(**found, flags=tuple(flags)), None
    try:
        lesion = read_lesion(participant, image, data.labels, data.mask_grid, data.mask_threshold)
    except VolumeError as error:
        flags.append(_flag(participant, error))
        found["mask_labels"] = error.labels[:MOST_LABELS]
        lesion = Lesion(np.zeros(image.values.shape, bool))
    else:
        found |= {"mask_moved": lesion.moved, "mask_labels": lesion.labels[:MOST_LABELS]}
    brain, _ = _tried(participant, flags, lambda: read_brain(participant, image, data.mask_grid)) or (
        None,
        False,
    )
    found |= _image_facts(image) | {"has_planes": True}
    canonical, codes = _to_ras(image.affine)
    spacing = nibabel.affines.voxel_sizes(image.affine)[codes]
    values = with_dark_background(canonical(image.values), found["background_within"])
    voxels = canonical(lesion.voxels)
    inside, plane = _head(values, None if brain is None else canonical(brain), spacing)
    if voxels.any():
        found |= {
            "lesion_voxels": int(voxels.sum()),
            "lesion_ml": float(voxels.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000),
            "lesion_share": float(voxels.sum() / max(inside.sum(), 1)),
            "lesion_outside_share": float((voxels & ~inside).sum() / voxels.sum()),
            "outside_of": "head" if brain is None else "brain mask",
        }
        found |= _flips(
            flip_contrasts(values, voxels, inside, spacing, plane), data.modality_name in BRIGHT_LESION
        )
    elif participant.mask is None:
        found |= {"lesion_voxels": 0, "lesion_ml": 0.0}
    found |= asdict(image_quality(values, inside)) | {"head_mm": head_extent(inside, float(spacing[2]))}
    planes = three_planes(values, voxels, spacing, inside)
    return Measured(**found, flags=tuple(flags)), planes


def _tried(participant: Participant, flags: list[Flag], read: Callable[[], Any]) -> Any:
    try:
        return read()
    except VolumeError as error:
        flags.append(_flag(participant, error))
        return None


def _flag(participant: Participant, error: VolumeError) -> Flag:
    return Flag(error.flag, str(error).removeprefix(f"{participant.participant_id}: "))


def _hash(paths: Sequence[Path]) -> str | None:
    try:
        return sha256(*paths) if paths else None
    except OSError:
        return None


def _image_facts(image: Volume) -> dict[str, Any]:
    over = overflow(image.stored, image.scaled)
    # Adding 0 turns -0 into 0: the values are equal but their bytes differ.
    values = image.values.ravel(order="K") + np.float32(0)
    # Most voxels are background with the lowest value, and need no sorting.
    lowest = values.min()
    rest = np.sort(values[values != lowest])
    ordered = np.concatenate([np.full(values.size - rest.size, lowest, np.float32), rest])
    digest = hashlib.sha256(str(sorted(image.values.shape)).encode())
    digest.update(ordered.astype("<f4", copy=False).tobytes())
    return {
        "voxel_sha256": digest.hexdigest(),
        "shape": tuple(int(n) for n in image.values.shape),
        "spacing_mm": tuple(round(float(size), 5) for size in nibabel.affines.voxel_sizes(image.affine)),
        "orientation": "".join(nibabel.aff2axcodes(image.affine)),
        "placed": image.placed,
        "forms_apart_mm": None
        if image.qform is None
        else largest_offset_mm(image.affine, image.qform, image.values.shape),
        "outside_voxels": image.outside,
        "background_within": background_within(image.values),
        "dtype": image.stored.dtype.name,
        "minimum": float(ordered[0]),
        "maximum": float(ordered[-1]),
        "wrapped_voxels": over.wrapped_voxels,
        "clipped_share": over.clipped_share,
    }


def _to_ras(affine: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """A function that brings arrays (X, Y, Z) to the closest RAS order, and the stored axis of each RAS axis."""
    orientation = nibabel.io_orientation(affine)
    stored_axis = np.argsort(orientation[:, 0])
    return lambda array: nibabel.apply_orientation(array, orientation), stored_axis


def _head(values: np.ndarray, brain: np.ndarray | None, spacing: np.ndarray) -> tuple[np.ndarray, float]:
    """The brain mask, or the head without one, bool (X, Y, Z); and the plane of symmetry (`symmetry_plane`)."""
    from slimdiff.data.volumes.foreground import foreground

    # About 32 voxels or more stay along an axis, so that the head in a small volume keeps its shape.
    most = np.maximum(np.array(values.shape) // 32, 1)
    steps = np.clip(np.round(COARSE_MM / spacing), 1, most).astype(int)
    coarse = values[tuple(slice(None, None, step) for step in steps)]
    if brain is None:
        found = foreground(coarse)
        index = [np.arange(n) // step for n, step in zip(values.shape, steps, strict=True)]
        inside = found[np.ix_(*index)]
    else:
        inside = brain
        found = brain[tuple(slice(None, None, step) for step in steps)]
    plane = symmetry_plane(coarse, found) * steps[0] if found.any() else (len(values) - 1) / 2
    return inside, float(plane)


def _flips(contrasts: dict[str, float], bright: bool) -> dict[str, Any]:
    """Contrast of the mask as stored, and the flip with the highest one where lesions are expected to be bright."""
    stored = contrasts.pop("as stored", None)
    if stored is None:
        return {}
    if not bright:
        return {"lesion_contrast": stored}
    best = max(contrasts, key=contrasts.get, default=None)
    return {
        "lesion_contrast": stored,
        "flip": best,
        "flip_contrast": None if best is None else contrasts[best],
    }


def remembered(participant: Participant, data: DataConfig, folder: Path) -> Measured | None:
    """The cached measurement of exactly these files under this configuration, or None."""
    try:
        kept = read_object(record_path(participant, folder))
        if kept["depends_on"] != _depends_on(participant, data):
            return None
        measured = Measured.from_dict(kept["measured"])
    except (OSError, ValueError, KeyError, TypeError):
        # If the cache is missing or damaged, the files are read again.
        return None
    if measured.has_planes and not planes_path(participant.participant_id, folder).is_file():
        return None
    return measured


def measure_and_remember(participant: Participant, data: DataConfig, folder: Path) -> Measured:
    """Measure one participant and cache the result; the record is written last and marks a complete result."""
    # Taken before reading: a file that changes during reading is read again next time.
    depends_on = _depends_on(participant, data)
    measured, planes = measure_volume(participant, data)
    path = planes_path(participant.participant_id, folder)
    if planes is None:
        path.unlink(missing_ok=True)
    else:
        write_planes(path, planes)
    record = {"depends_on": depends_on, "measured": measured.to_dict()}
    write_object(record_path(participant, folder), record)
    return measured


def record_path(participant: Participant, folder: Path) -> Path:
    """Path of the cached measurement."""
    return folder / f"{participant.participant_id}.json"


def planes_path(participant_id: str, folder: Path) -> Path:
    """Path of the planes; the file does not exist if the image cannot be read."""
    return folder / f"{participant_id}.npz"


def _depends_on(participant: Participant, data: DataConfig) -> dict[str, Any]:
    files = {key: getattr(participant, key) for key in PATHS}
    files |= {f"mask {number}": path for number, path in enumerate(participant.more_masks, start=2)}
    stack = participant.stack
    if stack:
        files |= {f"slice {number}": path for number, path in enumerate(stack.files)}
    labels = data.labels
    return {
        "version": MEASUREMENT_VERSION,
        "labels": labels if isinstance(labels, str) else list(labels),
        "mask_grid": data.mask_grid,
        "bright_lesion": data.modality_name in BRIGHT_LESION,
        "mask_threshold": data.mask_threshold,
        **({"stack": stack.to_json()} if stack else {}),
        "files": {key: [str(path), *_state(path)] for key, path in files.items() if path},
    }


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns]
