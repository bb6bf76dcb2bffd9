"""A slice as a NIfTI volume (W, H, 1) that lies where it belongs.

The store's rows run from anterior to posterior and its columns from left to right; the volume's axes run to the right,
to the front and up (RAS), so that voxel (i, j, 0) is the participant's voxel (i, j, z).
"""

from pathlib import Path

import nibabel
import numpy as np

from slimdiff.data.nifti import write_nifti


def to_volume(plane: np.ndarray) -> np.ndarray:
    """(W, H, 1) in RAS from a slice (H, W); undoes `slimdiff.data.slices.axial`."""
    return np.rot90(plane, -1)[:, :, None]


def slice_affine(affine: np.ndarray, z: float) -> np.ndarray:
    """Affine (4, 4) in mm of the one-slice volume at index z of a volume with this affine."""
    shift = np.eye(4)
    shift[2, 3] = z
    return np.asarray(affine, float) @ shift


def canonical_affine(grid: tuple[int, int, int], spacing_mm: float) -> np.ndarray:
    """Affine (4, 4) in mm of a grid (X, Y, Z) that nobody lies in: RAS, its middle at the origin."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (np.asarray(grid) - 1) / 2
    return affine


def read_affine(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine (4, 4) in mm and shape of a volume, from its header."""
    image = nibabel.load(path)
    return image.affine, image.shape


def write_slice(path: Path, plane: np.ndarray, affine: np.ndarray, space: str) -> None:
    """Write a slice (H, W) as (W, H, 1) with its affine (4, 4); `space` is what that refers to, in NIfTI's words."""
    write_nifti(path, to_volume(plane), affine, space)
