"""The study's grid, and the one resampling that takes a volume to it.

SimpleITK's world is LPS and requires orthonormal axes. Here SimpleITK only gets voxel indices: affines in RAS mm are
first composed into one map from the target's voxels to the source's. Any affine therefore works.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel
import numpy as np

from slimdiff.data.participants import DataError
from slimdiff.data.volumes.foreground import box_of

if TYPE_CHECKING:
    import SimpleITK as sitk

# SimpleITK is imported where it is used: it takes 80 MB, and box and history are read without it.


@dataclass(frozen=True)
class Grid:
    """Shape (X, Y, Z) and affine (4, 4), voxel to world, mm, RAS+."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def canonical(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The volume with its axes permuted and flipped to the closest RAS order, and its new affine."""
    turn = nibabel.io_orientation(affine)
    moved = affine @ nibabel.orientations.inv_ornt_aff(turn, values.shape)
    return nibabel.orientations.apply_orientation(values, turn), moved


def native_grid(
    source: Grid, spacing_mm: float | tuple[float, float, float | str], shape: tuple[int, int, int]
) -> Grid:
    """A grid around the source's centre, with the source's axes and tilt.

    Along each axis the grid first has as many whole voxels as fit into the source, centred. Voxels are then removed or
    added on both sides; if their number is odd, one more at the beginning.

    Args:
        spacing_mm: voxel size, one number or one per axis; `native` as the third: the source's own slices, all of them.
        shape: voxels; with native slices the third is the largest number of slices.

    Raises DataError if a source has more native slices.
    """
    edges_mm = np.linalg.norm(source.affine[:3, :3], axis=0)
    if isinstance(spacing_mm, tuple) and spacing_mm[2] == "native":
        if source.shape[2] > shape[2]:
            raise DataError(
                f"expected at most {shape[2]} native slices, found {source.shape[2]}; raise the third number of "
                "preprocess.grid, or exclude the participant (data.exclude)"
            )
        spacing_mm, shape = (*spacing_mm[:2], edges_mm[2]), (*shape[:2], source.shape[2])
    spacing_mm = np.asarray(spacing_mm)
    size = np.array(source.shape)
    centre = source.affine[:3, :3] @ ((size - 1) / 2) + source.affine[:3, 3]
    # The tolerance 1e-3 prevents that rounding in a header's affine costs a voxel and moves the centre.
    whole = np.floor(size * edges_mm / spacing_mm + 1e-3)
    whole[size == 1] = 1
    difference = np.array(shape) - whole
    added = np.sign(difference) * np.ceil(np.abs(difference) / 2)
    affine = np.eye(4)
    affine[:3, :3] = source.affine[:3, :3] / edges_mm * spacing_mm
    affine[:3, 3] = centre - affine[:3, :3] @ ((whole - 1) / 2 + added)
    return Grid(tuple(shape), affine)


def nearest_planes(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """For each axial plane of `target` within the source the number of the nearest plane of `source`, and their affine.

    A volume of these planes is interpolated in plane only. Both grids have axes along those of the world, to the right,
    anterior and superior.
    """
    step, start = target.affine[2, 2] / source.affine[2, 2], target.affine[2, 3] - source.affine[2, 3]
    places = start / source.affine[2, 2] + step * np.arange(target.shape[2])
    # The small shift: of two planes that are equally near, the lower one, in spite of rounding.
    planes = np.floor(places + 0.5 - 1e-6).astype(int)
    inside = np.flatnonzero((planes >= 0) & (planes < source.shape[2]))
    affine = source.affine.copy()
    affine[2, 2] = target.affine[2, 2]
    affine[2, 3] = target.affine[2, 3] + target.affine[2, 2] * inside[0]
    return planes[inside], affine


def centred_grid(
    centre_mm: np.ndarray, spacing_mm: float | tuple[float, float, float], shape: tuple[int, int, int]
) -> Grid:
    """A grid along the world's axes, centred on a point (3,) in RAS mm; spacing_mm: one number or one per axis."""
    edges_mm = np.broadcast_to(np.asarray(spacing_mm, float), 3)
    affine = np.diag([*edges_mm, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - edges_mm * (np.array(shape) - 1) / 2
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
        to_source_mm: (4, 4), from the target's world to that of `affine`, mm; None: the identity.
        linear: trilinear interpolation, otherwise nearest voxel.
        outside: value more than half a voxel beyond the outermost voxel centres; up to there the edge value is used.

    Returns an array of the target's shape and the type of `values`.
    """
    import SimpleITK as sitk

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
    """`resample` for a bool mask, nearest voxel, restricted to its bounding box (most of a lesion mask is empty)."""
    moved = np.zeros(target.shape, bool)
    # One voxel of background around it, because `resample` repeats the values at the edge.
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
    """Affine (4, 4) that translates by `voxels` (3,)."""
    moved = np.eye(4)
    moved[:3, 3] = voxels
    return moved


def as_image(values: np.ndarray, spacing_mm: float = 1.0, origin_mm=(0.0, 0.0, 0.0)) -> "sitk.Image":
    """An array (X, Y, Z) as a SimpleITK image; the axes keep their order."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray((values.view(np.uint8) if values.dtype == bool else values).T)
    image.SetSpacing([float(spacing_mm)] * 3)
    image.SetOrigin([float(value) for value in origin_mm])
    return image


@contextmanager
def one_thread() -> Iterator[None]:
    """Run SimpleITK in one thread; with more threads the order of summation and the last digits vary."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def to_grid_mm(record: dict) -> np.ndarray:
    """Source's world to grid's world, (4, 4), RAS mm; the identity without a registration.

    Raises DataError for an excluded participant, which has no volume on the grid.
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
    """Grid's world to source's world, (4, 4), RAS mm. Raises as `to_grid_mm` does."""
    return np.linalg.inv(to_grid_mm(record))


def back_to_source(values: np.ndarray, record: dict, order: int) -> nibabel.Nifti1Image:
    """Resample a volume from the study's grid to the voxels of the participant's image.

    Args:
        values: (X, Y, Z), on the grid with the record's `affine`.
        order: 0 is nearest voxel, for masks and labels, with 0 outside the grid; 1 is trilinear, with the smallest
            value outside the grid.

    Returns an image of the source's shape and affine, of the type of `values` (bool: uint8).
    Raises ValueError for another order, and as `to_grid_mm` does.
    """
    if order not in (0, 1):
        raise ValueError(f"order: expected 0 (nearest voxel) or 1 (trilinear), found {order}")
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
