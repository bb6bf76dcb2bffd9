"""Masks, images and regions of a user's own, from NIfTI or PNG files, as slices in the store's orientation."""

from pathlib import Path

import numpy as np

from slimdiff.data.sources import DataError
from slimdiff.data.zbins import z_bin

IMAGE_RANGE = 1.001  # what rounding in a file may add to [-1, 1]


def read_mask_slices(
    path: Path, size: tuple[int, int], z_range: tuple[int, int], n_bins: int, own_bin: int | None
) -> list[tuple[str, int, np.ndarray]]:
    """Lesion (or region) slices of a file: name for the manifest, z-bin, bool (H, W).

    Args:
        path: PNG or NIfTI. A PNG, and a NIfTI of one slice, belongs to `own_bin`; of a volume on the study's grid every
            slice within `z_range` that is not empty is taken, in the z-bin of its height.
        size: height and width that the checkpoint draws, in px.
        z_range: first and last slice index of the checkpoint.
        n_bins: its number of z-bins.
        own_bin: z-bin of a single slice.

    Raises:
        FileNotFoundError, DataError: naming the file, what was found and what is wanted.
    """
    slices = _slices(path, size)
    if len(slices) == 1:
        if own_bin is None:
            raise DataError(f"{path}: one slice, which does not say its height; give its z-bin (--z_bins)")
        return [(Path(path).name, own_bin, _binary(path, slices[0]))]
    found = []
    for z in range(z_range[0], min(z_range[1] + 1, len(slices))):
        mask = _binary(path, slices[z])
        if mask.any():
            found.append((f"{Path(path).name}:z={z}", int(z_bin(z, *z_range, n_bins)), mask))
    if not found:
        raise DataError(f"{path}: no pixel above 0 in slices {z_range[0]} to {z_range[1]} of {len(slices)}")
    return found


def read_image_slice(path: Path, size: tuple[int, int], name: str) -> np.ndarray:
    """The slice of an image that belongs to a slice `name` that `read_mask_slices` gave: float32 (H, W) in [-1, 1].

    A PNG's 0 … 255 become -1 … 1; a NIfTI is wanted in [-1, 1], as the stage preprocess writes it.
    """
    slices = _slices(path, size)
    z = int(name.rpartition(":z=")[2]) if ":z=" in name else 0
    if z >= len(slices) or (":z=" not in name and len(slices) > 1):
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


def _slices(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if _is_png(path):
        from PIL import Image

        with Image.open(path) as picture:
            slices = [np.asarray(picture.convert("L"))]
    elif path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel

        from slimdiff.data.slices import axial

        try:
            volume = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
        except Exception as error:
            raise DataError(f"{path}: not readable as NIfTI: {error}") from None
        if volume.ndim == 2:
            volume = volume[:, :, None]
        if volume.ndim != 3:
            raise DataError(f"{path}: shape {volume.shape}; a slice or a volume is wanted")
        slices = [axial(volume, z) for z in range(volume.shape[2])]
    else:
        raise DataError(f"{path}: neither .png nor .nii nor .nii.gz")
    if slices[0].shape != size:
        raise DataError(
            f"{path}: slices of {slices[0].shape[1]} x {slices[0].shape[0]} px; the checkpoint draws {size[1]} x "
            f"{size[0]} px: bring the file onto the study's grid"
        )
    return slices
