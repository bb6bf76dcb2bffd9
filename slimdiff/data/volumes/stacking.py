"""Stack the slices of one participant into a volume: which file is at which height, sizes, gaps, the affine.

The volume's world is in mm and centred on 0: nothing more is known about where the slices lie. Rules: docs/data.md,
*Slices as pictures*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimdiff.data.stack import Stack
from slimdiff.data.volumes.foreground import (
    BORDER_SHARE,
    background_within,
    foreground,
    with_dark_background,
)
from slimdiff.data.volumes.nifti import FileFault
from slimdiff.data.volumes.pictures import read_picture, size_of

SHOWS_BRAIN = 0.01
"""Smallest share of the pixels of a slice in the brain or head (`foreground`) of the first and last slice of a brain
whose distance of slices is unknown."""
EMPTY = -1
DIRECTIONS = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
"""Letter of an orientation: axis of the world (right, anterior, superior) and sign."""


@dataclass(frozen=True)
class StackLayout:
    """How the slices of a stack became planes of a volume."""

    sizes: tuple[tuple[int, int], ...]
    """Rows and columns of each file."""
    size: tuple[int, int]
    """Rows and columns of the volume's planes."""
    planes: tuple[int, ...]
    """For each plane of the volume the number of its file, or EMPTY."""
    affine: np.ndarray
    """(4, 4), from column, row and plane to the world, RAS mm."""
    scaled: bool
    """Whether smaller pictures are scaled up; otherwise they are padded."""

    def record(self, stack: Stack) -> dict[str, Any]:
        """The step for the history of the volume."""
        used = [number for number in self.planes if number != EMPTY]
        return {
            "step": "stack",
            "files": len(stack.images),
            "planes": len(self.planes),
            "first": stack.images[used[0]].name,
            "last": stack.images[used[-1]].name,
            "repeated": len(used) - len(set(used)),
            "sizes": "scaled" if self.scaled else "padded",
            "different_sizes": len(set(self.sizes)),
        }


def stack_images(stack: Stack) -> tuple[np.ndarray, StackLayout]:
    """The volume (columns, rows, planes) of the type in the files, and its layout.

    Raises FileFault: what `read_picture` raises, not_3d, slices_differ, missing_slice; messages name the file.
    """
    first = stack.images[0]
    if len(stack.images) < 2:
        raise FileFault("not_3d", f"{first}: expected several slices of a participant, found one")
    pictures = [read_picture(path, stack.channel) for path in stack.images]
    for path, picture in zip(stack.images, pictures, strict=True):
        if picture.dtype != pictures[0].dtype:
            raise FileFault(
                "slices_differ",
                f"{path}: expected {pictures[0].dtype} as in {first}, found {picture.dtype}; save all slices of the "
                "participant in one form",
            )
    sizes = tuple(picture.shape for picture in pictures)
    scaled = stack.settings.field_mm is not None
    size = _common_size(sizes, scaled)
    background = _background(pictures)
    fitted = np.stack(
        [_fitted(picture, size, scaled, background, linear=True) for picture in pictures], axis=-1
    )
    planes, distance_mm = _planes(stack, fitted)
    pixel_mm = stack.settings.field_mm / size[1] if scaled else stack.settings.pixel_mm
    affine = _affine(stack, (size[1], size[0], len(planes)), pixel_mm, distance_mm)
    return _in_order(fitted, planes, background), StackLayout(sizes, size, planes, affine, scaled)


def stack_masks(stack: Stack, layout: StackLayout) -> np.ndarray:
    """The masks on the volume's planes, float32 (columns, rows, planes).

    Raises FileFault: what `read_picture` raises, other_grid.
    """
    masks = []
    for path, size in zip(stack.masks, layout.sizes, strict=True):
        mask = (
            np.zeros(size, np.float32) if path is None else read_picture(path, labels=True).astype(np.float32)
        )
        if mask.shape != size:
            raise FileFault(
                "other_grid",
                f"{path}: expected the size of the image, {_said(size)}, found {_said(mask.shape)}; save the mask in "
                "the size of its image",
            )
        masks.append(_fitted(mask, layout.size, layout.scaled, 0, linear=False))
    left_out = set(range(len(masks))) - set(layout.planes)
    for number in sorted(left_out):
        if (masks[number] > 0).any():
            raise FileFault(
                "other_grid",
                f"{stack.masks[number]}: expected a lesion in slices that show the brain, found it in one that does "
                "not; inspect it",
            )
    return _in_order(np.stack(masks, axis=-1), layout.planes, 0)


def voxels_of(stack: Stack) -> int:
    """Number of pixels of all slices, by the header of the first one; 0 if it cannot be read."""
    rows, columns = size_of(stack.images[0]) or (0, 0)
    return rows * columns * len(stack.images)


def _background(pictures: Sequence[np.ndarray]) -> float:
    """The value of most of the pictures' borders; without one, as in a head in air, the lowest value."""
    edges = np.concatenate([part.ravel() for p in pictures for part in (p[0], p[-1], p[:, 0], p[:, -1])])
    values, counts = np.unique(edges, return_counts=True)
    if counts.max() >= BORDER_SHARE * edges.size:
        return float(values[counts.argmax()])
    return min(float(np.nanmin(picture)) for picture in pictures)


def _common_size(sizes: Sequence[tuple[int, int]], scaled: bool) -> tuple[int, int]:
    columns = max(size[1] for size in sizes)
    rows = [round(size[0] * columns / size[1]) if scaled else size[0] for size in sizes]
    return max(rows), columns


def _fitted(
    picture: np.ndarray, size: tuple[int, int], scaled: bool, outside: float, linear: bool
) -> np.ndarray:
    """A picture in the size of the planes: scaled to its columns, then padded around the centre with `outside`."""
    if scaled and picture.shape[1] != size[1]:
        from skimage.transform import resize

        rows = round(picture.shape[0] * size[1] / picture.shape[1])
        larger = resize(
            picture, (rows, size[1]), order=int(linear), mode="edge", preserve_range=True, anti_aliasing=False
        )
        picture = (np.rint(larger) if picture.dtype.kind in "ui" else larger).astype(picture.dtype)
    missing = [whole - own for whole, own in zip(size, picture.shape, strict=True)]
    # If the number is odd, one more at the end.
    around = [(number // 2, number - number // 2) for number in missing]
    return np.pad(picture, around, constant_values=outside)


def _planes(stack: Stack, fitted: np.ndarray) -> tuple[tuple[int, ...], float]:
    """The number of the file of each plane, and the distance of planes in mm."""
    missing, settings = stack.missing_places(), stack.settings
    if missing and settings.gaps == "error":
        what = (
            "equal distances of relative heights, found others at"
            if stack.relative
            else "all slices, found no z"
        )
        more = ", ..." if len(missing) > 5 else ""
        raise FileFault(
            "missing_slice",
            f"{stack.images[0]} to {stack.images[-1].name}: expected {what} {', '.join(missing[:5])}{more}; add them, "
            "or set data.slices.gaps: nearest",
        )
    places = np.array(stack.places)
    count = round((places[-1] - places[0]) / stack.step) + 1
    wanted = places[0] + stack.step * np.arange(count)
    # argmin: of two slices that are equally near, the lower one.
    planes = [int(np.abs(places - place).argmin()) for place in wanted]
    if stack.relative:
        # The middle of the volume is at height 0.5, to half a slice distance.
        below, above = places[0] / stack.step, (1 - places[-1]) / stack.step
        extra = round(abs(below - above))
        empty = [EMPTY] * extra
        planes = empty + planes if below > above else planes + empty
        return tuple(planes), stack.step * settings.height_mm
    if settings.distance_mm is not None:
        return tuple(planes), stack.step * settings.distance_mm
    planes = _with_brain(planes, fitted)
    return tuple(planes), settings.height_mm / len(planes)


def _with_brain(planes: list[int], fitted: np.ndarray) -> list[int]:
    """The planes from the first to the last one that shows the brain or head; all, if there is no contrast."""
    volume = np.nan_to_num(fitted[..., planes].astype(np.float32))
    volume = with_dark_background(volume, background_within(volume))
    if volume.min() == volume.max():
        return planes
    shown = np.flatnonzero(foreground(volume).mean(axis=(0, 1)) >= SHOWS_BRAIN)
    return planes[shown[0] : shown[-1] + 1] if len(shown) > 1 else planes


def _in_order(fitted: np.ndarray, planes: Sequence[int], outside: float) -> np.ndarray:
    """(rows, columns, files) as (columns, rows, planes)."""
    volume = fitted[..., list(planes)].transpose(1, 0, 2)
    volume[..., np.array(planes) == EMPTY] = outside
    return volume


def _affine(stack: Stack, shape: tuple[int, int, int], pixel_mm: float, distance_mm: float) -> np.ndarray:
    """(4, 4), from voxels to RAS mm, with the middle of the volume at 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    letters = stack.settings.orientation
    # Relative heights always increase upwards.
    letters = f"{letters[:2]}S" if stack.relative else letters
    for voxel_axis, (letter, length) in enumerate(
        zip(letters, (pixel_mm, pixel_mm, distance_mm), strict=True)
    ):
        world_axis, sign = DIRECTIONS[letter]
        affine[world_axis, voxel_axis] = sign * length
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _said(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]}"
