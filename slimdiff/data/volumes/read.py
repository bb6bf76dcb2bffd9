"""Image and mask of a participant from their files, or an error with the name of what is wrong with them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes.nifti import FileFault, read_nifti

AFFINE_TOLERANCE_MM = 0.1
LARGEST = 1e12
"""Intensities beyond it come from bytes in the wrong order or the wrong type; their squares overflow."""


class VolumeError(DataError):
    """A volume that cannot be used. `flag` is the one word for it that the quality table has."""

    def __init__(self, flag: str, message: str):
        super().__init__(message)
        self.flag = flag


Labels = Literal["binary", "any"] | tuple[int, ...]


@dataclass(frozen=True)
class Volume:
    """What a file holds."""

    values: np.ndarray
    """float32 (X, Y, Z), scaled as the header says."""
    affine: np.ndarray
    """(4, 4) voxel to world, mm, RAS+."""
    stored: np.ndarray
    """(X, Y, Z) as it lies in the file, before scaling; read-only."""
    scaled: bool = False
    """Whether the header scales the stored values."""
    placed: bool = True
    """False: sform and qform code are 0. The axes are then taken as NIfTI-1's method 1 has them: to the left,
    anterior, superior, which nobody has said."""
    sha256: str = ""
    """Of the file's bytes."""


def read_volume(path: Path, who: str) -> Volume:
    """Read a NIfTI file of three dimensions (or more, the others of length one).

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
            f"{who}: {path}: shape {stored.shape}; 3-D is wanted, with several voxels along each axis",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored * np.float64(file.slope) + file.intercept if file.scaled else stored
        values = np.array(values, np.float32)
    return Volume(values, file.affine, stored, file.scaled, file.placed, file.sha256)


@dataclass(frozen=True)
class Pair:
    """One participant's image and masks on the image's grid."""

    image: Volume
    lesion: np.ndarray
    """bool (X, Y, Z); nothing is lesion in a participant without a mask."""
    brain: np.ndarray | None
    """bool (X, Y, Z), where the source brings a brain mask."""
    moved: tuple[str, ...] = ()
    """`mask`, `brain_mask`: those that lay on another grid and were brought onto the image's."""


def load_pair(
    participant: Participant, labels: Labels = "binary", mask_grid: Literal["same", "resample"] = "same"
) -> Pair:
    """Read image and masks and check that they belong together.

    labels: which values are lesion, see `DataConfig.lesion_labels`. mask_grid: whether masks may lie on another grid.
    Raises VolumeError: what `read_volume` raises, not_finite, constant, other_grid, mask_not_binary, empty_mask,
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
        raise VolumeError("not_finite", f"{where}: {bad} of {image.values.size} voxels are NaN or infinite")
    low, high = float(image.values.min()), float(image.values.max())
    if max(-low, high) > LARGEST:
        raise VolumeError(
            "not_finite",
            f"{where}: values from {low:g} to {high:g} are no intensities; convert the image again",
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
    """The lesion, bool (X, Y, Z) on the image's grid, and whether its file lies on another one.

    Raises VolumeError: what `read_volume` raises, not_finite, other_grid, mask_not_binary, empty_mask.
    """
    if participant.mask is None:
        return np.zeros(image.values.shape, bool), False
    who = participant.participant_id
    mask, moved = _read_mask(participant.mask, who, image, mask_grid)
    where = f"{who}: {participant.mask}"
    lesion = _lesion(mask.values, labels, where)
    if not moved:
        return lesion, False
    on_image = on_grid_of(replace(mask, values=lesion.astype(np.float32)), image) > 0
    # Not the same as an empty mask, which may stand for a control.
    if not on_image.any():
        raise VolumeError("other_grid", f"{where}: nothing of the lesion lies on a voxel of the image")
    return on_image, True


def read_brain(
    participant: Participant, image: Volume, mask_grid: Literal["same", "resample"] = "same"
) -> tuple[np.ndarray | None, bool]:
    """The source's brain mask (> 0), bool (X, Y, Z) on the image's grid, if there is one; and whether it was moved.

    Raises VolumeError: what `read_volume` raises, not_finite, other_grid, empty_brain_mask.
    """
    if participant.brain_mask is None:
        return None, False
    who = participant.participant_id
    mask, moved = _read_mask(participant.brain_mask, who, image, mask_grid)
    values = on_grid_of(mask, image) if moved else mask.values
    if not (values > 0).any():
        raise VolumeError(
            "empty_brain_mask", f"{who}: {participant.brain_mask}: the brain mask has no voxel on the image"
        )
    return values > 0, moved


def _lesion(values: np.ndarray, labels: Labels, where: str) -> np.ndarray:
    above = np.unique(values[values > 0])
    if labels == "binary" and len(above) > 1:
        some = ", ".join(f"{value:g}" for value in above[:5]) + (", …" if len(above) > 5 else "")
        raise VolumeError(
            "mask_not_binary",
            f"{where}: {len(above)} values above 0 ({some}); one is wanted, or say which are lesion in "
            "data.lesion_labels",
        )
    lesion = values > 0 if labels in ("binary", "any") else np.isin(values, labels)
    if not lesion.any():
        wanted = "" if labels in ("binary", "any") else f" of label {', '.join(map(str, labels))}"
        raise VolumeError(
            "empty_mask",
            f"{where}: the lesion mask has no voxel{wanted}; give n/a, exclude the subject by name, or set "
            "data.empty_mask: control",
        )
    return lesion


def _read_mask(
    path: Path, who: str, image: Volume, mask_grid: Literal["same", "resample"]
) -> tuple[Volume, bool]:
    """A mask on its own grid, and whether that is another one than the image's."""
    mask = read_volume(path, who)
    if not np.isfinite(mask.values).all():
        raise VolumeError("not_finite", f"{who}: {path}: the mask has voxels that are NaN or infinite")
    same_shape = mask.values.shape == image.values.shape
    offset = largest_offset_mm(mask.affine, image.affine, image.values.shape) if same_shape else np.inf
    if offset <= AFFINE_TOLERANCE_MM:
        return mask, False
    if mask_grid == "resample":
        return mask, True
    found = (
        f"its affine puts a corner {offset:.3g} mm off the image's"
        if same_shape
        else f"shape {mask.values.shape}, but the image has {image.values.shape}"
    )
    if same_shape and not (mask.placed and image.placed):
        which = "the image's" if mask.placed else "the mask's"
        found += f" ({which} header does not say where it lies: sform and qform code are 0)"
    raise VolumeError(
        "other_grid", f"{who}: {path}: {found}; resample the mask, or set data.mask_grid: resample"
    )


def largest_offset_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart, in mm, two affines (4, 4) put the same voxel of a volume of this shape, at most."""
    # At the corners, because a small difference of voxel size or angle adds up over the volume.
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    apart = (affine - other)[:3] @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(apart, axis=0).max())


def on_grid_of(mask: Volume, image: Volume) -> np.ndarray:
    """Values of the mask at the image's voxels, by world coordinates, nearest voxel; 0 outside of it."""
    from scipy import ndimage

    to_mask = np.linalg.inv(mask.affine) @ image.affine
    # grid-constant, because a voxel reaches half its size beyond its middle at the volume's border too.
    return ndimage.affine_transform(
        mask.values,
        to_mask[:3, :3],
        to_mask[:3, 3],
        output_shape=image.values.shape,
        order=0,
        mode="grid-constant",
    )
