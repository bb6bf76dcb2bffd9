"""A slice as a NIfTI volume (W, H, 1) that lies where it belongs.

The store's rows run from anterior to posterior and its columns from left to right; the volume's axes run to the right,
to the front and up (RAS), so that voxel (i, j, 0) is the participant's voxel (i, j, z).
"""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np

if TYPE_CHECKING:
    from slimdiff.export.cases import Case

GZIP_LEVEL = 6


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


def write_pair(image_path: Path, mask_path: Path, case: "Case") -> None:
    """Write a case's image (float32) and mask (uint8 {0, 1}), both (W, H, 1)."""
    _write(image_path, to_volume(case.image.astype(np.float32)), case.affine, case.space)
    _write(mask_path, to_volume(case.mask.astype(np.uint8)), case.affine, case.space)


def _write(path: Path, voxels: np.ndarray, affine: np.ndarray, space: str) -> None:
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), affine)
    image.set_sform(affine, code=space)
    image.set_qform(affine, code=space)
    image.header.set_xyzt_units("mm")
    # Without the time, so that the same slice gives the same bytes.
    path.write_bytes(gzip.compress(image.to_bytes(), GZIP_LEVEL, mtime=0))
