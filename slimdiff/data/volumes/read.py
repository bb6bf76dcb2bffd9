"""Read a participant's image and masks, or raise an error that names the fault."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes.foreground import connected_to_border
from slimdiff.data.volumes.mask_grid import (
    AFFINE_TOLERANCE_MM,
    by_the_other_form,
    largest_offset_mm,
    on_grid_of,
    other_grid,
    without_origin,
)
from slimdiff.data.volumes.nifti import NO_MEMORY, FileFault, read_header, read_nifti
from slimdiff.data.volumes.stacking import StackLayout, stack_images, stack_masks
from slimdiff.files import sha256

LABEL_TOLERANCE = 1e-3
"""Values this close to a whole number, or to 0 or the largest value of a mask below 1, count as it."""
MOST_TISSUES = 5
"""A mask with more values may have soft edges instead of labels."""
LARGEST = 1e12
"""Larger intensities come from a wrong byte order or data type; their squares overflow."""


class VolumeError(DataError):
    """A volume that cannot be used; `flag` is its name in the quality table."""

    def __init__(self, flag: str, message: str, labels: tuple[float, ...] = ()):
        super().__init__(message)
        self.flag = flag
        self.labels = labels
        """Values above 0 of a mask without the lesion's labels."""


Labels = Literal["binary", "any"] | tuple[int, ...]
MaskGrid = Literal["same", "voxels", "resample"]


@dataclass(frozen=True)
class Volume:
    """Contents of a NIfTI file, or of the pictures of its slices."""

    values: np.ndarray
    """float32 (X, Y, Z), scaled as in the header."""
    affine: np.ndarray
    """(4, 4) voxel to world, mm, RAS+."""
    stored: np.ndarray
    """(X, Y, Z) as stored in the file, before scaling; read-only."""
    scaled: bool = False
    """Whether the header scales the stored values."""
    placed: bool = True
    """False if sform and qform code are 0. The axes are then assumed to point left, anterior and superior
    (NIfTI-1, method 1)."""
    qform: np.ndarray | None = None
    """(4, 4) of the qform where the affine is that of the sform; None without one."""
    outside: int = 0
    """Voxels outside the field of view: NaN and connected to the border. `values` has the lowest intensity there."""
    sha256: str = ""
    """SHA-256 of the file's bytes; of several files of those in this order."""
    layout: StackLayout | None = None
    """Of a volume that was stacked from pictures."""


def read_volume(path: Path, who: str) -> Volume:
    """Read a 3-D NIfTI file; further axes must have length 1.

    Raises VolumeError: missing_file, empty_file, truncated, unreadable, not_3d.
    """
    path = Path(path)
    try:
        file = read_nifti(path)
    except FileFault as fault:
        raise _named(fault, path, who) from None
    stored = file.stored
    if stored.ndim > 3 and set(stored.shape[3:]) == {1}:
        stored = stored.reshape(stored.shape[:3], order="F")
    if stored.ndim != 3 or min(stored.shape) == 1:
        raise VolumeError(
            "not_3d",
            f"{who}: {path}: expected a 3-D volume with more than one voxel along every axis, found shape "
            f"{stored.shape}; convert the image again",
        )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored * np.float64(file.slope) + file.intercept if file.scaled else stored
            values = np.array(values, np.float32)
    except MemoryError:
        raise _named(FileFault("unreadable", NO_MEMORY), path, who) from None
    return Volume(values, file.affine, stored, file.scaled, file.placed, file.qform, sha256=file.sha256)


def read_volume_header(path: Path, who: str) -> nibabel.Nifti1Header:
    """The header of a NIfTI file; raises VolumeError: missing_file, truncated, unreadable."""
    try:
        return read_header(path)
    except FileFault as fault:
        raise _named(fault, path, who) from None


def _named(fault: FileFault, path: Path, who: str) -> VolumeError:
    said = f"cannot be read: {fault}" if fault.flag == "unreadable" else str(fault)
    return VolumeError(fault.flag, f"{who}: {path} {said}")


@dataclass(frozen=True)
class Lesion:
    """A lesion on the image's grid."""

    voxels: np.ndarray
    """bool (X, Y, Z)."""
    moved: bool = False
    """It was resampled from another grid."""
    labels: tuple[float, ...] = ()
    """Values above 0 of the mask, without the noise of resampling; empty for a soft mask."""


@dataclass(frozen=True)
class Pair:
    """One participant's image, and its masks on the image's grid."""

    image: Volume
    lesion: np.ndarray
    """bool (X, Y, Z); all False for a participant without a mask."""
    brain: np.ndarray | None
    """bool (X, Y, Z); None if the source has no brain mask."""
    moved: tuple[str, ...] = ()
    """Those of `mask` and `brain_mask` that were resampled from another grid."""


def load_pair(
    participant: Participant,
    labels: Labels = "binary",
    mask_grid: MaskGrid = "same",
    threshold: float | None = None,
) -> Pair:
    """Read image and masks and check that they fit together.

    Args:
        labels: the mask values that are lesion, see `DataConfig.lesion_labels`.
        mask_grid: whether masks may have another grid, see `DataConfig.mask_grid`.
        threshold: of soft masks, see `DataConfig.mask_threshold`.

    Raises:
        VolumeError: what `read_volume` raises, not_finite, constant, other_grid, mask_not_binary, other_labels,
            empty_mask, empty_brain_mask.
    """
    image = read_image(participant)
    lesion = read_lesion(participant, image, labels, mask_grid, threshold)
    brain, brain_moved = read_brain(participant, image, mask_grid)
    moved = [kind for kind, was in (("mask", lesion.moved), ("brain_mask", brain_moved)) if was]
    return Pair(image, lesion.voxels, brain, tuple(moved))


def read_image(participant: Participant) -> Volume:
    """The participant's image. Raises VolumeError: what `read_volume` raises, not_finite, constant.

    NaN outside the field of view, as registration tools write it, becomes the lowest intensity.
    """
    who = participant.participant_id
    image = _with_field_of_view(
        _stacked(participant) if participant.stack else read_volume(participant.image, who)
    )
    where = f"{participant.participant_id}: {participant.image}"
    bad = int((~np.isfinite(image.values)).sum())
    if bad:
        raise VolumeError(
            "not_finite",
            f"{where}: {bad} of {image.values.size} voxels are NaN or infinite, and not NaN outside the field of view; "
            "fix the file",
        )
    low, high = float(image.values.min()), float(image.values.max())
    if max(-low, high) > LARGEST:
        raise VolumeError(
            "not_finite",
            f"{where}: expected intensities within ±{LARGEST:g}, found {low:g} to {high:g}; convert the image again",
        )
    if low == high:
        raise VolumeError("constant", f"{where}: constant image ({low:g} everywhere)")
    return image


def _stacked(participant: Participant) -> Volume:
    """The image from its slices; raises VolumeError as `stack_images` raises FileFault."""
    try:
        stored, layout = stack_images(participant.stack)
    except FileFault as fault:
        raise VolumeError(fault.flag, f"{participant.participant_id}: {fault}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32)
    return Volume(values, layout.affine, stored, sha256=sha256(*participant.images), layout=layout)


def _with_field_of_view(image: Volume) -> Volume:
    """The image, with the lowest intensity where it is NaN and connected to the border (6-connected) by NaN."""
    nan = np.isnan(image.values)
    if not nan.any() or nan.all():
        return image
    outside = connected_to_border(nan)
    values = np.where(outside, np.nanmin(image.values), image.values)
    return replace(image, values=values, outside=int(outside.sum()))


def read_lesion(
    participant: Participant,
    image: Volume,
    labels: Labels = "binary",
    mask_grid: MaskGrid = "same",
    threshold: float | None = None,
) -> Lesion:
    """The participant's lesion; no voxel for a participant without a mask.

    Of several masks it is the union; single ones may be empty. Raises VolumeError: what `read_volume` raises,
    not_finite, other_grid, mask_not_binary, other_labels, empty_mask.
    """
    if participant.stack and participant.is_patient:
        return _lesion_of_slices(participant, image, labels, threshold)
    lesion = np.zeros(image.values.shape, bool)
    moved, labels_found, empty = False, set(), []
    for path in participant.masks:
        try:
            own = _read_lesion_of(path, participant.participant_id, image, labels, mask_grid, threshold)
        except VolumeError as error:
            # One of several masks may be empty, but not all.
            if error.flag != "empty_mask":
                raise
            empty.append(error)
            continue
        lesion |= own.voxels
        moved |= own.moved
        labels_found.update(own.labels)
    if empty and not lesion.any():
        files = ", ".join(map(str, participant.masks))
        raise VolumeError("empty_mask", str(empty[0]).replace(str(participant.masks[0]), files, 1))
    return Lesion(lesion, moved, tuple(sorted(labels_found)))


def _lesion_of_slices(
    participant: Participant, image: Volume, labels: Labels, threshold: float | None
) -> Lesion:
    """The lesion from the masks of the slices; raises VolumeError as `read_lesion`."""
    try:
        values = stack_masks(participant.stack, image.layout)
    except FileFault as fault:
        raise VolumeError(fault.flag, f"{participant.participant_id}: {fault}") from None
    first, *more = participant.masks
    where = f"{participant.participant_id}: {first}" + (f" to {more[-1].name}" if more else "")
    if not np.isfinite(values).all():
        raise VolumeError(
            "not_finite", f"{where}: the mask has pixels that are NaN or infinite; fix the file"
        )
    lesion, found = _lesion(values, labels, threshold, where)
    return Lesion(lesion, labels=found)


def _read_lesion_of(
    path: Path, who: str, image: Volume, labels: Labels, mask_grid: MaskGrid, threshold: float | None
) -> Lesion:
    """The lesion of one mask; raises VolumeError as `read_lesion`."""
    mask, moved = _read_mask(path, who, image, mask_grid)
    where = f"{who}: {path}"
    lesion, found = _lesion(mask.values, labels, threshold, where)
    if not moved:
        return Lesion(lesion, labels=found)
    on_image = on_grid_of(replace(mask, values=lesion.astype(np.float32)), image) > 0
    # Different from an empty mask, which may mark a control.
    if not on_image.any():
        raise VolumeError(
            "other_grid", f"{where}: the lesion lies outside the image; check the affines of both files"
        )
    return Lesion(on_image, True, found)


def read_brain(
    participant: Participant, image: Volume, mask_grid: MaskGrid = "same"
) -> tuple[np.ndarray | None, bool]:
    """The source's brain mask (> 0), bool (X, Y, Z) on the image's grid, or None; and whether it was resampled.

    Raises VolumeError: what `read_volume` raises, not_finite, other_grid, empty_brain_mask.
    """
    if participant.brain_mask is None:
        return None, False
    who = participant.participant_id
    mask, moved = _read_mask(participant.brain_mask, who, image, mask_grid)
    values = on_grid_of(mask, image) if moved else mask.values
    if not (values > 0).any():
        raise VolumeError(
            "empty_brain_mask",
            f"{who}: {participant.brain_mask}: the brain mask has no voxel within the image; fix the file",
        )
    return values > 0, moved


def label_values(values: np.ndarray) -> np.ndarray:
    """Mask values without the noise of resampling and compression.

    Values within LABEL_TOLERANCE of a whole number become that number. In a mask whose largest value is below 1 those
    close to 0 or to the largest value, relative to it, become these.
    """
    largest = float(values.max())
    unit = min(largest, 1.0) if largest > 0 else 1.0
    nearest = np.rint(values / unit) * unit
    return np.where(np.abs(values - nearest) <= LABEL_TOLERANCE * unit, nearest, values)


def _lesion(
    values: np.ndarray, labels: Labels, threshold: float | None, where: str
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Where a mask is lesion, bool (X, Y, Z), and its values above 0."""
    found = label_values(values)
    above, below = np.unique(found[found > 0]), np.unique(found[found < 0])
    largest = float(above[-1]) if len(above) else 0.0
    if threshold is not None:
        lesion = found > threshold * max(largest, 1.0)
        missing = f" above {threshold:g} (data.mask_threshold); its largest value is {largest:g}"
    else:
        _refuse_unclear(above, labels, where)
        _refuse_negative(above, below, labels, where)
        lesion = found > 0 if labels in ("binary", "any") else np.isin(found, labels)
        missing = " above 0"
    named = tuple(float(value) for value in above) if threshold is None else ()
    if lesion.any():
        return lesion, named
    if named:
        raise VolumeError(
            "other_labels",
            f"{where}: expected label {', '.join(map(str, labels))} (data.lesion_labels), found only {_some(above)}; "
            "add the label of this lesion to data.lesion_labels, or exclude the participant by name (data.exclude)",
            named,
        )
    raise VolumeError(
        "empty_mask",
        f"{where}: the lesion mask has no voxel{missing}; draw the lesion, exclude the participant by name "
        "(data.exclude), or, if every empty mask of this dataset belongs to a participant without a lesion, set "
        "data.empty_mask: control",
    )


def _refuse_negative(above: np.ndarray, below: np.ndarray, labels: Labels, where: str) -> None:
    """Raise VolumeError if values below 0 may be lesion: 255 in a signed type of 8 bits is -1."""
    why = "a label above 127 becomes negative in a signed type of 8 bits; save the mask again with an unsigned type"
    if len(below) and not len(above):
        raise VolumeError(
            "other_labels",
            f"{where}: expected the lesion above 0, found only values below 0 ({_some(below)}); {why}",
            tuple(map(float, below)),
        )
    whole = below[below == np.rint(below)]
    if labels == "binary" and len(whole):
        raise VolumeError(
            "mask_not_binary",
            f"{where}: expected one value above 0 and none below, found {_some(np.concatenate([whole, above]))}; "
            f"{why}, or name the labels of the lesion in data.lesion_labels",
        )


def _refuse_unclear(above: np.ndarray, labels: Labels, where: str) -> None:
    """Raise VolumeError if the values above 0 do not say which voxels are lesion."""
    soft = above[above != np.rint(above)]
    named = labels not in ("binary", "any")
    if len(soft) and (named or len(above) > 1):
        also = " and data.lesion_labels: binary" if named else ""
        raise VolumeError(
            "mask_not_binary",
            f"{where}: expected whole numbers, found {len(soft)} other values ({_some(soft)}), as in a soft or "
            f"resampled mask, or in an image; look at it, and if it is a mask whose lesion is where the values exceed "
            f"half of the largest, set data.mask_threshold: 0.5{also}",
        )
    if labels == "binary" and len(above) > 1:
        edges = (
            "; if they are soft edges (anti-aliasing, resampling, compression), set data.mask_threshold: 0.5 instead"
            if len(above) > MOST_TISSUES
            else ""
        )
        raise VolumeError(
            "mask_not_binary",
            f"{where}: expected one value above 0, found {len(above)} values above 0 ({_some(above)}); name those "
            f"of the lesion in data.lesion_labels{edges}",
        )


def _some(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values[:5]) + (", …" if len(values) > 5 else "")


def _read_mask(path: Path, who: str, image: Volume, mask_grid: MaskGrid) -> tuple[Volume, bool]:
    """A mask on its own grid, and whether it must be resampled to the image's."""
    mask = read_volume(path, who)
    if not np.isfinite(mask.values).all():
        raise VolumeError(
            "not_finite", f"{who}: {path}: the mask has voxels that are NaN or infinite; fix the file"
        )
    shape = image.values.shape
    same_shape = mask.values.shape == shape
    offset = largest_offset_mm(mask.affine, image.affine, shape) if same_shape else np.inf
    if offset <= AFFINE_TOLERANCE_MM:
        return mask, False
    placed = mask.placed and image.placed and not without_origin(mask, image)
    drawn_on_it = same_shape and (not placed or by_the_other_form(mask, image))
    if mask_grid == "voxels" and drawn_on_it:
        return replace(mask, affine=image.affine), False
    if mask_grid == "resample" and placed and not drawn_on_it:
        return mask, True
    raise VolumeError("other_grid", f"{who}: {path}: {other_grid(mask, image, offset, drawn_on_it)}")
