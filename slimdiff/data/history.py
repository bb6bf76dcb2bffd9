"""The way between a source image and the study's grid, from a participant's record (`volumes/{participant}.json`).

A record's `history` lists the steps in order, each `{"step": name, ...}` with its parameters. Only `register` moves
anything in the world, and only `resample` interpolates.
"""

import nibabel
import numpy as np

from slimdiff.data.grid import Grid, resample
from slimdiff.data.participants import DataError


def to_grid_mm(record: dict) -> np.ndarray:
    """The source's world to the grid's, (4, 4), RAS mm; the identity where nothing was registered.

    Raises DataError for the record of an excluded participant, who has no volume on the grid.
    """
    if "history" not in record:
        raise DataError(
            f"{record.get('participant')}: excluded ({record.get('excluded')}); it has no volume on the grid"
        )
    matrix = np.eye(4)
    for step in record["history"]:
        if step["step"] == "register":
            matrix = np.array(step["source_to_grid_mm"]) @ matrix
    return matrix


def to_source_mm(record: dict) -> np.ndarray:
    """The grid's world to the source's, (4, 4), RAS mm. Raises as `to_grid_mm` does."""
    return np.linalg.inv(to_grid_mm(record))


def back_to_source(values: np.ndarray, record: dict, order: int) -> nibabel.Nifti1Image:
    """A volume on the study's grid at the voxels of the participant's own image.

    Args:
        values: (X, Y, Z), on the grid with the record's `affine`.
        order: 0, nearest voxel (masks, labels; 0 off the grid), or 1, trilinear (the smallest value off the grid).

    Returns an image of the source's shape and affine, of the type of `values` (bool: uint8).
    Raises ValueError for another order, and as `to_grid_mm` does.
    """
    if order not in (0, 1):
        raise ValueError(f"order {order}: 0 (nearest voxel) or 1 (trilinear) is wanted")
    source = Grid(tuple(record["qc"]["source_shape"]), np.array(record["source_affine"]))
    moved = resample(
        values,
        np.array(record["affine"]),
        source,
        to_grid_mm(record),
        linear=order == 1,
        outside=float(values.min()) if order else 0.0,
    )
    if moved.dtype == bool:
        moved = moved.astype(np.uint8)
    return nibabel.Nifti1Image(moved, source.affine, dtype=moved.dtype)
