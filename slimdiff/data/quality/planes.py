"""Three planes of a volume for display: axial, coronal, sagittal, through the lesion or the centre of the head."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from slimdiff.data.volumes.foreground import box_of
from slimdiff.files import replacing

NAMES = ("axial", "coronal", "sagittal")
LARGEST_PX = 128
PERCENTILES = (0.5, 99.5)

Planes = list[tuple[np.ndarray, np.ndarray]]
"""uint8 image and bool mask (H, W) each, in the order of NAMES. Up is anterior or superior. Left is left in the axial
and coronal planes, and posterior in the sagittal plane."""


def three_planes(
    values: np.ndarray,
    lesion: np.ndarray,
    spacing_mm: np.ndarray,
    inside: np.ndarray,
    window: tuple[float, float] | None = None,
) -> Planes:
    """Planes with isotropic pixels, at most 128 per side, through the deepest point of the lesion.

    values (X, Y, Z), lesion and inside (brain or head) bool, all in RAS order. Without a lesion the planes go through
    the centre of `inside`. window: intensities of black and white; None: percentiles 0.5 and 99.5 of `inside`.
    """
    point = _deepest(lesion, spacing_mm) if lesion.any() else _middle(inside)
    low, high = window or np.percentile(values[inside] if inside.any() else values, PERCENTILES)
    pixel = max(float(spacing_mm.min()), float((np.array(values.shape) * spacing_mm).max()) / LARGEST_PX)
    planes = []
    for axis in (2, 1, 0):
        sizes = np.delete(spacing_mm, axis)
        image, mask = (np.moveaxis(array, axis, 0)[point[axis]] for array in (values, lesion))
        shape = tuple(
            min(LARGEST_PX, max(1, round(float(n * size / pixel))))
            for n, size in zip(image.shape, sizes, strict=True)
        )
        grey = (_resized(image.astype(np.float32), shape) - low) / max(high - low, 1e-12)
        grey = np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)
        # The second axis points up, the first to the right.
        planes.append((grey.T[::-1].copy(), _resized_mask(mask, shape).T[::-1].copy()))
    return planes


def _deepest(lesion: np.ndarray, spacing_mm: np.ndarray) -> tuple[int, ...]:
    box = box_of(lesion)
    depth = ndimage.distance_transform_edt(np.pad(lesion[box], 1), sampling=spacing_mm)
    place = np.unravel_index(np.argmax(depth), depth.shape)
    return tuple(int(i) - 1 + part.start for i, part in zip(place, box, strict=True))


def _middle(inside: np.ndarray) -> tuple[int, ...]:
    box = box_of(inside)
    if box is None:
        return tuple(n // 2 for n in inside.shape)
    return tuple(int(part.start + part.stop - 1) // 2 for part in box)


def _resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Linear interpolation, after smoothing along axes that get fewer pixels."""
    factors = np.array(image.shape) / shape
    image = ndimage.gaussian_filter(image, np.maximum(0, (factors - 1) / 2))
    at = [(np.arange(n) + 0.5) * factor - 0.5 for n, factor in zip(shape, factors, strict=True)]
    return ndimage.map_coordinates(image, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")


def _resized_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A pixel is lesion if its centre is, or if it contains the centre of a lesion voxel; none is lost."""
    nearest = [
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int)
        for n, m in zip(shape, mask.shape, strict=True)
    ]
    resized = mask[np.ix_(*nearest)]
    voxels = np.argwhere(mask)
    there = ((voxels + 0.5) * np.array(shape) / mask.shape).astype(int)
    resized[tuple(there.T)] = True
    return resized


def write_planes(path: Path, planes: Planes) -> None:
    """Write planes as npz: `axial_image`, `axial_mask`, and so on."""
    arrays = {}
    for name, (image, mask) in zip(NAMES, planes, strict=True):
        arrays |= {f"{name}_image": image, f"{name}_mask": mask}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_planes(path: Path) -> Planes:
    """Read what `write_planes` wrote; raises ValueError naming the file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [(arrays[f"{name}_image"], arrays[f"{name}_mask"]) for name in NAMES]
    except Exception as error:
        # Every kind of damage has an error type of its own.
        raise ValueError(
            f"{path}: not readable: {error}; delete it and run the stage participants again"
        ) from None
