"""Read a participant's image and masks, or raise an error that names the fault."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes.nifti import FileFault, read_nifti

AFFINE_TOLERANCE_MM = 0.1
LARGEST = 1e12
"""Larger intensities come from a wrong byte order or data type; their squares overflow."""


class VolumeError(DataError):
    """A volume that cannot be used; `flag` is its name in the quality table."""

    def __init__(self, flag: str, message: str):
        super().__init__(message)
        self.flag = flag


Labels = Literal["binary", "any"] | tuple[int, ...]


@dataclass(frozen=True)
class Volume:
    """Contents of a NIfTI file."""

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
    sha256: str = ""
    """SHA-256 of the file's bytes."""


def read_volume(path: Path, who: str) -> Volume:
    """Read a 3-D NIfTI file; further axes must have length 1.

    Raises VolumeError: missing_file, empty_file, truncated, unreadable, not_3d.
    """
    path = Path(path)
    try:
        file = read_nifti(path)
    except FileFault as fault:
        said = f"cannot be read: {fault}" if fault.flag == "unreadable" else str(fault)
        raise VolumeError(fault.flag, f"{who}: {path} {said}") from None
    stored = file.stored
    if stored.ndim > 3 and set(stored.shape[3:]) == {1}:
        stored = stored.reshape(stored.shape[:3], order="F")
    if stored.ndim != 3 or min(stored.shape) == 1:
        raise VolumeError(
            "not_3d",
            f"{who}: {path}: expected a 3-D volume with more than one voxel along every axis, found shape "
            f"{stored.shape}; convert the image again",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored * np.float64(file.slope) + file.intercept if file.scaled else stored
        values = np.array(values, np.float32)
    return Volume(values, file.affine, stored, file.scaled, file.placed, file.sha256)


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
    participant: Participant, labels: Labels = "binary", mask_grid: Literal["same", "resample"] = "same"
) -> Pair:
    """Read image and masks and check that they fit together.

    labels: the mask values that are lesion, see `DataConfig.lesion_labels`. mask_grid: whether masks may have another
    grid. Raises VolumeError: what `read_volume` raises, not_finite, constant, other_grid, mask_not_binary, empty_mask,
    empty_brain_mask.
    """
    image = read_image(participant)
    lesion, mask_moved = read_lesion(participant, image, labels, mask_grid)
    brain, brain_moved = read_brain(participant, image, mask_grid)
    moved = [kind for kind, was in (("mask", mask_moved), ("brain_mask", brain_moved)) if was]
    return Pair(image, lesion, brain, tuple(moved))


def read_image(participant: Participant) -> Volume:
    """The participant's image. Raises VolumeError: what `read_volume` raises, not_finite, constant."""
    image = read_volume(participant.image, participant.participant_id)
    where = f"{participant.participant_id}: {participant.image}"
    bad = int((~np.isfinite(image.values)).sum())
    if bad:
        raise VolumeError(
            "not_finite", f"{where}: {bad} of {image.values.size} voxels are NaN or infinite; fix the file"
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


def read_lesion(
    participant: Participant,
    image: Volume,
    labels: Labels = "binary",
    mask_grid: Literal["same", "resample"] = "same",
) -> tuple[np.ndarray, bool]:
    """The lesion, bool (X, Y, Z) on the image's grid, and whether it was resampled from another grid.

    Of several masks it is the union; single ones may be empty. Raises VolumeError: what `read_volume` raises,
    not_finite, other_grid, mask_not_binary, empty_mask.
    """
    lesion, any_moved = np.zeros(image.values.shape, bool), False
    if participant.mask is None:
        return lesion, False
    who = participant.participant_id
    for path in participant.masks:
        mask, moved = _read_mask(path, who, image, mask_grid)
        where = f"{who}: {path}"
        own = _lesion(mask.values, labels, where)
        any_moved |= moved
        if not own.any():
            continue
        if moved:
            own = on_grid_of(replace(mask, values=own.astype(np.float32)), image) > 0
            # Different from an empty mask, which may mark a control.
            if not own.any():
                raise VolumeError(
                    "other_grid",
                    f"{where}: the lesion lies outside the image; check the affines of both files",
                )
        lesion |= own
    if not lesion.any():
        files = ", ".join(map(str, participant.masks))
        wanted = "" if labels in ("binary", "any") else f" of label {', '.join(map(str, labels))}"
        raise VolumeError(
            "empty_mask",
            f"{who}: {files}: the lesion mask has no voxel{wanted}; replace it by n/a, exclude the subject by name "
            "(data.exclude), or set data.empty_mask: control",
        )
    return lesion, any_moved


def read_brain(
    participant: Participant, image: Volume, mask_grid: Literal["same", "resample"] = "same"
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


def _lesion(values: np.ndarray, labels: Labels, where: str) -> np.ndarray:
    above = np.unique(values[values > 0])
    if labels == "binary" and len(above) > 1:
        some = ", ".join(f"{value:g}" for value in above[:5]) + (", …" if len(above) > 5 else "")
        raise VolumeError(
            "mask_not_binary",
            f"{where}: expected one value above 0, found {len(above)} values above 0 ({some}); name those of the "
            "lesion in data.lesion_labels",
        )
    return values > 0 if labels in ("binary", "any") else np.isin(values, labels)


def _read_mask(
    path: Path, who: str, image: Volume, mask_grid: Literal["same", "resample"]
) -> tuple[Volume, bool]:
    """A mask on its own grid, and whether that grid differs from the image's."""
    mask = read_volume(path, who)
    if not np.isfinite(mask.values).all():
        raise VolumeError(
            "not_finite", f"{who}: {path}: the mask has voxels that are NaN or infinite; fix the file"
        )
    same_shape = mask.values.shape == image.values.shape
    offset = largest_offset_mm(mask.affine, image.affine, image.values.shape) if same_shape else np.inf
    if offset <= AFFINE_TOLERANCE_MM:
        return mask, False
    if mask_grid == "resample":
        return mask, True
    found = (
        f"expected the image's affine, found a corner {offset:.3g} mm away from the image's"
        if same_shape
        else f"expected the image's shape {image.values.shape}, found {mask.values.shape}"
    )
    if same_shape and not (mask.placed and image.placed):
        which = "the image's" if mask.placed else "the mask's"
        found += f" ({which} header gives no position: sform and qform code are 0)"
    raise VolumeError(
        "other_grid", f"{who}: {path}: {found}; resample the mask, or set data.mask_grid: resample"
    )


def largest_offset_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the positions that two affines (4, 4) give to a voxel of this shape."""
    # The distance is largest at a corner: differences in voxel size and angle add up over the volume.
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    apart = (affine - other)[:3] @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(apart, axis=0).max())


def on_grid_of(mask: Volume, image: Volume) -> np.ndarray:
    """Values of the mask at the image's voxels, by world coordinates: nearest voxel, 0 outside the mask."""
    from scipy import ndimage

    to_mask = np.linalg.inv(mask.affine) @ image.affine
    # grid-constant: a voxel at the volume's border also extends half its size beyond its centre.
    return ndimage.affine_transform(
        mask.values,
        to_mask[:3, :3],
        to_mask[:3, 3],
        output_shape=image.values.shape,
        order=0,
        mode="grid-constant",
    )
