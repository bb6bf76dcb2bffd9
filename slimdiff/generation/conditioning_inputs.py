"""Masks, images and regions of the user's own, as PNG or NIfTI, for samples with a fixed part."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimdiff.data.participants import DataError
from slimdiff.data.zbins import z_bin
from slimdiff.files import require_file
from slimdiff.generation.conditional import ConditioningInput, fixed_mask, fixed_surroundings

IMAGE_RANGE = 1.001  # [-1, 1] and the rounding in a file
SLICE = ":z="  # between a volume's path and the index of a slice of it


@dataclass(frozen=True)
class SliceGrid:
    """The grid of the slices that a checkpoint draws."""

    size: tuple[int, int]
    """Height and width, in px."""
    spacing_mm: float
    """Side of a pixel."""
    z_range: tuple[float, float]
    """First and last slice number."""
    n_bins: int
    height: str = "slice"
    """`slices.height`: only slice numbers place the slices of a volume."""


def read_masks(paths: Sequence[Path], grid: SliceGrid, own_bin: int | None) -> list[ConditioningInput]:
    """Lesion masks, each to draw an image for; see `read_mask_slices`."""
    slices = [part for path in paths for part in read_mask_slices(path, grid, own_bin)]
    return [fixed_mask(mask, number, name) for name, number, mask in slices]


def read_surroundings(
    image: Path, region: Path, grid: SliceGrid, own_bin: int | None
) -> list[ConditioningInput]:
    """The slices of an image without lesion, each to draw a lesion into its region; see `read_mask_slices`."""
    return [
        fixed_surroundings(read_image_slice(image, grid, name), where, number, f"{image} in {name}")
        for name, number, where in read_mask_slices(region, grid, own_bin)
    ]


def read_mask_slices(path: Path, grid: SliceGrid, own_bin: int | None) -> list[tuple[str, int, np.ndarray]]:
    """Lesion (or region) slices of a file: name for the manifest, z-bin, bool (H, W).

    Args:
        path: PNG or NIfTI. A PNG, and a NIfTI of one slice, belongs to `own_bin`; of a volume on the study's grid every
            slice within `z_range` that is not empty, in the z-bin of its z.
        grid: of the checkpoint.
        own_bin: z-bin of a single slice.

    Raises:
        FileNotFoundError, DataError: naming the file, what was found and what is expected.
    """
    masks = [_binary(path, plane) for plane in _slices(path, grid)]
    filled = [z for z, mask in enumerate(masks) if mask.any()]
    if not filled:
        raise DataError(
            f"{path}: expected values above {'127' if _is_png(path) else '0'}, the lesion; found none"
        )
    if len(masks) == 1:
        if own_bin is None:
            raise DataError(f"{path}: the z-bin of a single slice is unknown; give its z-bin (--z-bins)")
        return [(str(path), own_bin, masks[0])]
    if grid.height != "slice":
        raise DataError(
            f"{path}: expected a single slice with its z-bin (--z-bins), found {len(masks)} slices; the z-bins of this "
            f"checkpoint are heights above the brain's lowest slice (slices.height {grid.height}), which a mask does "
            "not show"
        )
    if own_bin is not None:
        raise DataError(f"{path}: the z-bins of a volume follow from its slices; remove --z-bins")
    first, last = grid.z_range
    inside = [z for z in filled if first <= z <= last]
    if not inside:
        raise DataError(
            f"{path}: expected a lesion in slices {first} to {last}, found it in {filled[0]} to {filled[-1]}"
        )
    if len(inside) < len(filled):
        out = len(filled) - len(inside)
        print(f"{path}: {out} lesion slices outside of {first} to {last} are ignored", file=sys.stderr)
    return [(f"{path}{SLICE}{z}", int(z_bin(z, first, last, grid.n_bins)), masks[z]) for z in inside]


def read_image_slice(path: Path, grid: SliceGrid, name: str) -> np.ndarray:
    """The slice of an image that matches a slice `name` of `read_mask_slices`: float32 (H, W) in [-1, 1].

    A PNG's 0 … 255 become -1 … 1; a NIfTI must have [-1, 1], as the stage preprocess writes it.
    """
    slices = _slices(path, grid)
    z = int(name.rpartition(SLICE)[2]) if SLICE in name else 0
    if z >= len(slices) or (SLICE not in name and len(slices) > 1):
        raise DataError(
            f"{path}: expected the grid of {name}, found {len(slices)} slices; bring both onto one grid"
        )
    picture = slices[z].astype(np.float32)
    if _is_png(path):
        picture = picture / 127.5 - 1
    if not np.isfinite(picture).all() or np.abs(picture).max() > IMAGE_RANGE:
        raise DataError(
            f"{path}: expected values in [-1, 1], as the stage preprocess writes them, found {picture.min():.4g} to "
            f"{picture.max():.4g}"
        )
    return picture.clip(-1, 1)


def _is_png(path: Path) -> bool:
    return Path(path).suffix.lower() == ".png"


def _binary(path: Path, values: np.ndarray) -> np.ndarray:
    # Half of white: a border that a drawing program smoothed belongs to the nearer side.
    return values > (127 if _is_png(path) else 0)


def _grey(path: Path) -> np.ndarray:
    """uint8 (H, W) of a picture of grey levels 0 ... 255, stored as bits, grey levels or equal colours."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except Exception as error:
        raise DataError(f"{path}: not readable as a picture: {error}") from None
    if mode == "1":
        return values.astype(np.uint8) * 255
    if mode == "RGB" and (values == values[..., :1]).all():
        return values[..., 0]
    if mode != "L":
        raise DataError(
            f"{path}: expected a picture of 8-bit grey levels (0 to 255), or black and white, found mode {mode}"
        )
    return values


def _slices(path: Path, grid: SliceGrid) -> list[np.ndarray]:
    size, spacing_mm = grid.size, grid.spacing_mm
    path = Path(path)
    require_file(path, "not found")
    if _is_png(path):
        slices = [_grey(path)]
    elif path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel

        from slimdiff.data.slices import axial
        from slimdiff.data.volumes.nifti import mm_per_unit

        try:
            image = nibabel.as_closest_canonical(nibabel.load(path))
            volume = np.asarray(image.dataobj)
            zooms = np.array(image.header.get_zooms()[:2]) * mm_per_unit(image.header)
        except Exception as error:
            raise DataError(f"{path}: not readable as NIfTI: {error}") from None
        if volume.ndim == 2:
            volume = volume[:, :, None]
        if volume.ndim != 3 or volume.dtype.kind not in "biuf":
            raise DataError(
                f"{path}: expected a slice or a volume of numbers, found {volume.dtype} {volume.shape}"
            )
        slices = [axial(volume, z) for z in range(volume.shape[2])]
        if not np.allclose(zooms, spacing_mm, rtol=0.01):
            raise DataError(
                f"{path}: expected pixels of {spacing_mm:g} mm (those of the checkpoint), found {zooms[0]:g} x "
                f"{zooms[1]:g} mm; bring the file onto the study's grid"
            )
    else:
        raise DataError(f"{path}: expected .png, .nii or .nii.gz")
    height, width = slices[0].shape
    if (height, width) != size:
        raise DataError(
            f"{path}: expected slices of {size[1]} x {size[0]} px (those of the checkpoint), found {width} x {height} "
            "px; bring the file onto the study's grid"
        )
    return slices
