"""Image and mask of a participant from their files, or an error with the name of what is wrong with them."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from slimdiff.data.participants import DataError, Participant

AFFINE_TOLERANCE_MM = 0.1


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
    """(X, Y, Z) as it lies in the file, before scaling."""


def read_volume(path: Path, who: str) -> Volume:
    """Read a NIfTI file of three dimensions (or four, the last of length one).

    Raises VolumeError: missing_file, empty_file, truncated, unreadable, not_3d.
    """
    path = Path(path)
    if not path.is_file():
        raise VolumeError("missing_file", f"{who}: {path} is not there")
    if path.stat().st_size == 0:
        raise VolumeError("empty_file", f"{who}: {path} is empty (0 bytes); copy it again")
    try:
        loaded = nibabel.load(path)
        stored = np.asanyarray(
            loaded.dataobj.get_unscaled() if hasattr(loaded.dataobj, "get_unscaled") else loaded.dataobj
        )
        values = np.asarray(loaded.dataobj, dtype=np.float32)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VolumeError(
            "truncated", f"{who}: {path} ends too early or is damaged ({error}); copy it again"
        ) from None
    except Exception as error:
        cut_off = "bytes" in str(error) and "got" in str(error).lower()
        raise VolumeError(
            "truncated" if cut_off else "unreadable", f"{who}: {path} cannot be read as NIfTI: {error}"
        ) from None
    if values.ndim == 4 and values.shape[3] == 1:
        values, stored = values[..., 0], stored[..., 0]
    if values.ndim != 3:
        raise VolumeError(
            "not_3d", f"{who}: {path}: {values.ndim}-D image of shape {values.shape}; 3-D is wanted"
        )
    return Volume(values, np.asarray(loaded.affine), stored)


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
    Raises VolumeError: what `read_volume` raises, not_finite, constant, other_grid, mask_not_binary, empty_mask.
    """
    who = participant.participant_id
    image = read_volume(participant.image, who)
    bad = int((~np.isfinite(image.values)).sum())
    if bad:
        raise VolumeError("not_finite", f"{who}: {participant.image}: {bad} voxels are NaN or infinite")
    if image.values.min() == image.values.max():
        raise VolumeError(
            "constant", f"{who}: {participant.image}: constant image ({image.values.flat[0]:g} everywhere)"
        )
    moved = []
    masks = {}
    for kind, path in (("mask", participant.mask), ("brain_mask", participant.brain_mask)):
        if path is None:
            continue
        values, was_moved = _mask_on_grid(path, who, image, mask_grid)
        if was_moved:
            moved.append(kind)
        masks[kind] = values
    if participant.mask is None:
        lesion = np.zeros(image.values.shape, bool)
    else:
        lesion = _lesion(masks["mask"], labels, f"{who}: {participant.mask}")
    brain = masks["brain_mask"] > 0 if "brain_mask" in masks else None
    if brain is not None and not brain.any():
        raise VolumeError("empty_mask", f"{who}: {participant.brain_mask}: the brain mask is empty")
    return Pair(image, lesion, brain, tuple(moved))


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


def _mask_on_grid(
    path: Path, who: str, image: Volume, mask_grid: Literal["same", "resample"]
) -> tuple[np.ndarray, bool]:
    """Values of a mask on the image's grid, and whether it lay on another one."""
    mask = read_volume(path, who)
    if not np.isfinite(mask.values).all():
        raise VolumeError("not_finite", f"{who}: {path}: the mask has voxels that are NaN or infinite")
    same_shape = mask.values.shape == image.values.shape
    offset = largest_offset_mm(mask.affine, image.affine, image.values.shape) if same_shape else np.inf
    if offset <= AFFINE_TOLERANCE_MM:
        return mask.values, False
    if mask_grid == "resample":
        return on_grid_of(mask, image), True
    found = (
        f"its affine puts a corner {offset:.3g} mm off the image's"
        if same_shape
        else f"shape {mask.values.shape}, but the image has {image.values.shape}"
    )
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
    return ndimage.affine_transform(
        mask.values, to_mask[:3, :3], to_mask[:3, 3], output_shape=image.values.shape, order=0, cval=0.0
    )
