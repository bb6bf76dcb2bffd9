"""Masks, images and regions of a user's own, from NIfTI or PNG files, as slices in the store's orientation."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimdiff.data.participants import DataError
from slimdiff.data.zbins import z_bin

IMAGE_RANGE = 1.001  # what rounding in a file may add to [-1, 1]
SLICE = ":z="  # between a volume's path and the index of a slice of it


@dataclass(frozen=True)
class Grid:
    """The slices that a checkpoint draws."""

    size: tuple[int, int]
    """Height and width, in px."""
    spacing_mm: float
    z_range: tuple[int, int]
    """First and last slice index."""
    n_bins: int


def read_mask_slices(path: Path, grid: Grid, own_bin: int | None) -> list[tuple[str, int, np.ndarray]]:
    """Lesion (or region) slices of a file: name for the manifest, z-bin, bool (H, W).

    Args:
        path: PNG or NIfTI. A PNG, and a NIfTI of one slice, belongs to `own_bin`; of a volume on the study's grid every
            slice within `z_range` that is not empty is taken, in the z-bin of its height.
        grid: what the checkpoint draws.
        own_bin: z-bin of a single slice.

    Raises:
        FileNotFoundError, DataError: naming the file, what was found and what is wanted.
    """
    masks = [_binary(path, plane) for plane in _slices(path, grid)]
    filled = [z for z, mask in enumerate(masks) if mask.any()]
    if not filled:
        raise DataError(f"{path}: no pixel is lesion; above {'127' if _is_png(path) else '0'} is")
    if len(masks) == 1:
        if own_bin is None:
            raise DataError(f"{path}: one slice, which does not say its height; give its z-bin (--z_bins)")
        return [(str(path), own_bin, masks[0])]
    if own_bin is not None:
        raise DataError(f"{path}: a volume, whose slices have their own heights; leave --z_bins out")
    first, last = grid.z_range
    inside = [z for z in filled if first <= z <= last]
    if not inside:
        raise DataError(
            f"{path}: its lesion lies in slices {filled[0]} to {filled[-1]}, outside of {first} to {last}"
        )
    if len(inside) < len(filled):
        out = len(filled) - len(inside)
        print(f"{path}: {out} lesion slices outside of {first} to {last} are left out", file=sys.stderr)
    return [(f"{path}{SLICE}{z}", int(z_bin(z, first, last, grid.n_bins)), masks[z]) for z in inside]


def read_image_slice(path: Path, grid: Grid, name: str) -> np.ndarray:
    """The slice of an image that belongs to a slice `name` that `read_mask_slices` gave: float32 (H, W) in [-1, 1].

    A PNG's 0 … 255 become -1 … 1; a NIfTI is wanted in [-1, 1], as the stage preprocess writes it.
    """
    slices = _slices(path, grid)
    z = int(name.rpartition(SLICE)[2]) if SLICE in name else 0
    if z >= len(slices) or (SLICE not in name and len(slices) > 1):
        raise DataError(
            f"{path}: {len(slices)} slices, which are not those of {name}; both on one grid are wanted"
        )
    picture = slices[z].astype(np.float32)
    if _is_png(path):
        picture = picture / 127.5 - 1
    if not np.isfinite(picture).all() or np.abs(picture).max() > IMAGE_RANGE:
        raise DataError(
            f"{path}: values from {picture.min():.4g} to {picture.max():.4g}; [-1, 1] is wanted, as the stage "
            "preprocess writes it"
        )
    return picture.clip(-1, 1)


def _is_png(path: Path) -> bool:
    return Path(path).suffix.lower() == ".png"


def _binary(path: Path, values: np.ndarray) -> np.ndarray:
    # Half of white: what a drawing program smooths at the border belongs to the side it is nearer to.
    return values > (127 if _is_png(path) else 0)


def _grey(path: Path) -> np.ndarray:
    """uint8 (H, W) of a picture that has grey levels 0 ... 255 and nothing else, whichever way it stores them."""
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
            f"{path}: a picture of mode {mode}; grey levels of 8 bits (0 to 255), or black and white"
        )
    return values


def _slices(path: Path, grid: Grid) -> list[np.ndarray]:
    size, spacing_mm = grid.size, grid.spacing_mm
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if _is_png(path):
        slices = [_grey(path)]
    elif path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel

        from slimdiff.data.slices import axial

        try:
            image = nibabel.as_closest_canonical(nibabel.load(path))
            volume, zooms = np.asarray(image.dataobj), image.header.get_zooms()[:2]
        except Exception as error:
            raise DataError(f"{path}: not readable as NIfTI: {error}") from None
        if volume.ndim == 2:
            volume = volume[:, :, None]
        if volume.ndim != 3 or volume.dtype.kind not in "biuf":
            raise DataError(
                f"{path}: {volume.dtype} {volume.shape}; a slice or a volume of numbers is wanted"
            )
        slices = [axial(volume, z) for z in range(volume.shape[2])]
        if not np.allclose(zooms, spacing_mm, rtol=0.01):
            raise DataError(
                f"{path}: pixels of {zooms[0]:g} x {zooms[1]:g} mm; the checkpoint draws {spacing_mm:g} mm: bring the "
                "file onto the study's grid"
            )
    else:
        raise DataError(f"{path}: neither .png nor .nii nor .nii.gz")
    if slices[0].shape != size:
        raise DataError(
            f"{path}: slices of {slices[0].shape[1]} x {slices[0].shape[0]} px; the checkpoint draws {size[1]} x "
            f"{size[0]} px: bring the file onto the study's grid"
        )
    return slices
