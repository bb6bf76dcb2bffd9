"""The study's grid, and the one resampling that takes a volume to it.

SimpleITK's own world is LPS and wants orthonormal axes. Here it only ever sees voxel indices: the map from the target's
voxels to the source's is composed beforehand, of affines in RAS mm, so that any affine is possible.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import nibabel
import numpy as np
import SimpleITK as sitk

from slimdiff.data.participants import DataError


def box_of(mask: np.ndarray, margin: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...] | None:
    """Slices of the smallest box around what is True in a mask (X, Y, Z); None around nothing.

    margin: voxels by which it is wider on each side of an axis, within the volume.
    """
    box = []
    for axis, more in enumerate(margin):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(where):
            return None
        box.append(slice(max(0, int(where[0] - more)), min(mask.shape[axis], int(where[-1] + more + 1))))
    return tuple(box)


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: shape (X, Y, Z), and the affine (4, 4) from voxel to world, mm, RAS+."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def canonical(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels, axes (X, Y, Z) swapped and flipped nearest to right, anterior, superior, and their affine."""
    turn = nibabel.io_orientation(affine)
    moved = affine @ nibabel.orientations.inv_ornt_aff(turn, values.shape)
    return nibabel.orientations.apply_orientation(values, turn), moved


def native_grid(source: Grid, spacing_mm: float, shape: tuple[int, int, int]) -> Grid:
    """A grid of isotropic voxels about the source's own centre, with its axes and tilt.

    Along each axis there are first as many whole voxels as the source is long, centred; then voxels are cut off or
    added on both sides, one more at the beginning where the difference is odd.
    """
    edges_mm = np.linalg.norm(source.affine[:3, :3], axis=0)
    size = np.array(source.shape)
    centre = source.affine[:3, :3] @ ((size - 1) / 2) + source.affine[:3, 3]
    # A little more than exact, so that rounding in a header's affine does not cost a voxel (and move the centre).
    whole = np.floor(size * edges_mm / spacing_mm + 1e-3)
    whole[size == 1] = 1
    difference = np.array(shape) - whole
    added = np.sign(difference) * np.ceil(np.abs(difference) / 2)
    affine = np.eye(4)
    affine[:3, :3] = source.affine[:3, :3] / edges_mm * spacing_mm
    affine[:3, 3] = centre - affine[:3, :3] @ ((whole - 1) / 2 + added)
    return Grid(tuple(shape), affine)


def centred_grid(centre_mm: np.ndarray, spacing_mm: float, shape: tuple[int, int, int]) -> Grid:
    """A grid of isotropic voxels along the world's axes about a point (3,) in mm, RAS."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - spacing_mm * (np.array(shape) - 1) / 2
    return Grid(tuple(shape), affine)


def resample(
    values: np.ndarray,
    affine: np.ndarray,
    target: Grid,
    to_source_mm: np.ndarray | None = None,
    linear: bool = True,
    outside: float = 0.0,
) -> np.ndarray:
    """Values at the voxels of `target`, interpolated once.

    Args:
        values: (X, Y, Z), numbers or bool, and `affine` (4, 4), their voxel to world, mm.
        to_source_mm: (4, 4), from the target's world to that of `affine`, mm; nothing: they are the same.
        linear: trilinear, else the nearest voxel.
        outside: the value more than half a voxel beyond the outermost voxel centres; between, the edge is continued.

    Returns an array of the target's shape and the type of `values`.
    """
    to_source = np.eye(4) if to_source_mm is None else to_source_mm
    to_voxel = np.linalg.inv(affine) @ to_source @ target.affine
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_voxel[:3, :3].ravel().tolist())
    transform.SetTranslation(to_voxel[:3, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in target.shape])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear if linear else sitk.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(float(outside))
    moved = resampler.Execute(as_image(values))
    return sitk.GetArrayFromImage(moved).T.astype(values.dtype, copy=False)


def resample_mask(
    mask: np.ndarray, affine: np.ndarray, target: Grid, to_source_mm: np.ndarray | None = None
) -> np.ndarray:
    """`resample` of a bool mask, nearest voxel, done only about what is True: most of a lesion mask is empty."""
    moved = np.zeros(target.shape, bool)
    # One voxel of background around it, so that no edge is continued which is not the volume's own.
    box = box_of(mask, (1, 1, 1))
    if box is None:
        return moved
    begin = np.array([part.start for part in box])
    to_source = np.eye(4) if to_source_mm is None else to_source_mm
    to_target = np.linalg.inv(target.affine) @ np.linalg.inv(to_source) @ affine
    ends = [(part.start - 1, part.stop) for part in box]
    corners = np.stack(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
    reached = to_target[:3, :3] @ corners + to_target[:3, 3:]
    first = np.clip(np.floor(reached.min(axis=1)).astype(int), 0, target.shape)
    last = np.clip(np.ceil(reached.max(axis=1)).astype(int) + 1, 0, target.shape)
    if (last <= first).any():
        return moved
    part = Grid(tuple(last - first), target.affine @ _shift(first))
    found = resample(
        np.ascontiguousarray(mask[box]), affine @ _shift(begin), part, to_source_mm, linear=False
    )
    moved[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = found
    return moved


def _shift(voxels: np.ndarray) -> np.ndarray:
    """Affine (4, 4) that moves by so many voxels (3,)."""
    moved = np.eye(4)
    moved[:3, 3] = voxels
    return moved


def as_image(values: np.ndarray, spacing_mm: float = 1.0, origin_mm=(0.0, 0.0, 0.0)) -> sitk.Image:
    """An array (X, Y, Z) as SimpleITK's image, axes as they are."""
    image = sitk.GetImageFromArray((values.view(np.uint8) if values.dtype == bool else values).T)
    image.SetSpacing([float(spacing_mm)] * 3)
    image.SetOrigin([float(value) for value in origin_mm])
    return image


@contextmanager
def one_thread() -> Iterator[None]:
    """SimpleITK in one thread: with more, sums are added in another order and the last digits change."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


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
