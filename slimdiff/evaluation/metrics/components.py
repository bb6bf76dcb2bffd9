"""Connected components of many masks at once, with shapes as defined by scikit-image's `regionprops`.

A stack of masks is converted to horizontal runs of lesion pixels, and runs are joined to components. The run time
depends on the lesions, not on the image size. Areas, moments, boxes and convex hulls are computed from the runs in
integers and are exact; only the perimeter is computed from pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slimdiff.evaluation.registry import SHAPE_FEATURES
from slimdiff.stored_rows import Rows

FEATURES = SHAPE_FEATURES
BLOCK_PX = 2**21  # mask pixels per block; limits the memory for any number of slices


@dataclass(frozen=True)
class Components:
    """M lesion components, sorted by slice and then by their first pixel in raster order."""

    slices: np.ndarray  # (M,) int64
    features: np.ndarray  # (M, 9) float64, columns as FEATURES; lengths in px, areas in px^2
    centroids: np.ndarray  # (M, 2) float64, row and column, px


@dataclass(frozen=True)
class Runs:
    """Maximal horizontal runs of lesion pixels, sorted by component, then by row and column.

    Attributes:
        slices, rows: (K,) int64, slice and row of each run.
        starts, stops: (K,) int64, first column, and last column + 1.
        owners: (K,) int64, component of each run, 0 ... M - 1.
        offsets: (M,) int64, first run of each component.
    """

    slices: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    owners: np.ndarray
    offsets: np.ndarray


def components_of(masks: np.ndarray | Rows, min_px: int = 5, min_slice_px: int = 0) -> Components:
    """4-connected components of many masks, with their shapes.

    Perimeter, convex area (solidity) and moments (eccentricity, axes) are those of `skimage.measure.regionprops`.
    Circularity = 4 pi area / perimeter^2, at most 1; 0 if the perimeter is 0.

    Args:
        masks: (N, H, W) bool.
        min_px: components with fewer pixels are left out.
        min_slice_px: slices with fewer lesion pixels are left out, as in the slice store.

    Raises:
        ValueError: masks of another dtype or number of axes.
    """
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(
            f"expected bool masks of shape (N, H, W), found {masks.dtype} of shape {masks.shape}"
        )
    found = [
        _components(masks[block], block.start, min_px, min_slice_px) for block in stack_blocks(masks.shape)
    ]
    return Components(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _components(
    masks: np.ndarray, first_slice: int, min_px: int, min_slice_px: int
) -> tuple[np.ndarray, ...]:
    runs = runs_of(masks, min_px, min_slice_px)
    box = boxes_of(runs)
    area, centroid, inertia = _moments(runs, box)
    perimeter = _perimeters(runs, masks.shape)
    circularity = np.zeros_like(perimeter)
    np.divide(4 * np.pi * area, perimeter**2, out=circularity, where=perimeter > 0)
    minor, major = np.clip(np.linalg.eigvalsh(inertia), 0, None).T
    features = (
        area,
        perimeter,
        np.minimum(circularity, 1),
        area / _convex_areas(runs),
        area / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])),
        np.sqrt(1 - np.divide(minor, major, out=np.ones_like(major), where=major > 0)),
        4 * np.sqrt(major),
        4 * np.sqrt(minor),
        np.sqrt(4 * area / np.pi),
    )
    return runs.slices[runs.offsets] + first_slice, np.stack(features, axis=1), centroid


def stack_blocks(shape: tuple[int, int, int], pixels: int = BLOCK_PX) -> Iterator[slice]:
    """Split a stack (N, H, W) into blocks of at most `pixels` pixels; an empty stack gives one empty block."""
    step = max(1, pixels // max(1, shape[1] * shape[2]))
    for start in range(0, max(shape[0], 1), step):
        yield slice(start, min(start + step, shape[0]))


def runs_of(masks: np.ndarray, min_px: int, min_slice_px: int) -> Runs:
    """The runs of the 4-connected components of (N, H, W) bool masks; see `components_of`."""
    _, height, width = masks.shape
    pixels = np.flatnonzero(masks)
    begins = np.ones(len(pixels), bool)
    begins[1:] = (np.diff(pixels) > 1) | (pixels[1:] % width == 0)
    begin = np.flatnonzero(begins)
    first, lengths = pixels[begin], np.diff(begin, append=len(pixels))
    rows, starts = np.divmod(first, width)
    slices, rows = np.divmod(rows, height)
    labels = _joined(first, first + lengths - 1, rows + 1 < height, width)

    area = np.bincount(labels, lengths)
    lesion_px = np.bincount(slices, lengths)
    kept = np.flatnonzero((area[labels] >= min_px) & (lesion_px[slices] >= min_slice_px))
    kept = kept[np.argsort(labels[kept], kind="stable")]
    offsets = np.flatnonzero(np.diff(labels[kept], prepend=-1))
    owners = np.repeat(np.arange(len(offsets)), np.diff(offsets, append=len(kept)))
    starts = starts[kept]
    return Runs(slices[kept], rows[kept], starts, starts + lengths[kept], owners, offsets)


def _joined(first: np.ndarray, last: np.ndarray, has_below: np.ndarray, width: int) -> np.ndarray:
    """Component of every run, numbered by first run; a run joins the overlapping runs below it in the same slice.

    Args:
        first, last: (K,) flat positions of the first and last pixel of each run in the stack, ascending.
        has_below: (K,) whether the next row belongs to the same slice.
        width: row width, px.
    """
    above = np.flatnonzero(has_below)
    # Flat positions sort by row, then column, so a run shifted by one row can only overlap runs of that row.
    lowest = np.searchsorted(last, first[above] + width, side="left")
    count = np.searchsorted(first, last[above] + width, side="right") - lowest
    upper = np.repeat(above, count)
    lower = np.arange(len(upper)) + np.repeat(lowest - np.cumsum(count) + count, count)
    graph = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def boxes_of(runs: Runs) -> np.ndarray:
    """(M, 4) int64 bounding boxes: first row, first column, last row + 1, last column + 1."""
    return np.stack(
        (
            runs.rows[runs.offsets],
            np.minimum.reduceat(runs.starts, runs.offsets),
            np.maximum.reduceat(runs.rows, runs.offsets) + 1,
            np.maximum.reduceat(runs.stops, runs.offsets),
        ),
        axis=1,
    )


def label_image(runs: Runs, shape: tuple[int, int, int], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Label image of all components.

    Args:
        runs: runs of masks of this shape.
        shape: (N, H, W).
        margin: background pixels around every slice.

    Returns:
        (N, H + 2 margin, W + 2 margin) int32 with component + 1, and 0 elsewhere; and the flat positions of the
        component pixels in this array.
    """
    height, width = shape[1] + 2 * margin, shape[2] + 2 * margin
    image = np.zeros((shape[0], height, width), np.int32)
    lengths = runs.stops - runs.starts
    first = (runs.slices * height + runs.rows + margin) * width + runs.starts + margin
    positions = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
    image.ravel()[positions] = np.repeat(runs.owners + 1, lengths)
    return image, positions


def _moments(runs: Runs, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area (M,), centroid (M, 2) and inertia tensor (M, 2, 2) of each component, from sums over its runs."""
    lengths = runs.stops - runs.starts
    row = runs.rows - box[runs.owners, 0]
    start, stop = runs.starts - box[runs.owners, 1], runs.stops - box[runs.owners, 1]
    columns = (start + stop - 1) * lengths // 2
    squares = ((stop - 1) * stop * (2 * stop - 1) - (start - 1) * start * (2 * start - 1)) // 6
    sums = (lengths, row * lengths, columns, row * row * lengths, row * columns, squares)
    # The sums are integers, and exact in float64 below 2^53.
    area, r, c, rr, rc, cc = np.add.reduceat(np.stack(sums), runs.offsets, axis=1).astype(np.float64)
    centroid = np.stack((r, c), axis=1) / area[:, None] + box[:, :2]
    tensor = np.stack((cc * area - c * c, r * c - rc * area, r * c - rc * area, rr * area - r * r), axis=1)
    return area, centroid, (tensor / (area * area)[:, None]).reshape(-1, 2, 2)


# Weight of a border pixel, indexed by 1 + 2 (adjacent border pixels at edges) + 10 (adjacent border pixels at corners):
# Benkrid & Crookes, "Design and FPGA implementation of a perimeter estimator", as in scikit-image.
PERIMETER_WEIGHTS = np.zeros(50)
PERIMETER_WEIGHTS[[5, 7, 15, 17, 25, 27]] = 1
PERIMETER_WEIGHTS[[21, 33]] = np.sqrt(2)
PERIMETER_WEIGHTS[[13, 23]] = (1 + np.sqrt(2)) / 2


def _perimeters(runs: Runs, shape: tuple[int, int, int]) -> np.ndarray:
    """(M,) perimeters, px; a component is measured alone, even if another touches its corner."""
    outlines, pixels = label_image(runs, shape, margin=1)
    flat, below = outlines.ravel(), outlines.shape[2]
    beside, diagonal = (-1, 1, -below, below), (-below - 1, -below + 1, below - 1, below + 1)
    inner = np.ones(len(pixels), bool)
    for step in beside:
        inner &= flat[pixels + step] > 0
    border, owner = pixels[~inner], flat[pixels[~inner]]
    flat[pixels[inner]] = 0
    code = np.ones(len(border), np.int64)
    for steps, weight in ((beside, 2), (diagonal, 10)):
        for step in steps:
            code += weight * (flat[border + step] == owner)
    size = len(PERIMETER_WEIGHTS)
    codes = np.bincount((owner - 1) * size + code, minlength=len(runs.offsets) * size)
    return np.vecdot(codes.reshape(-1, size).astype(np.float64), PERIMETER_WEIGHTS)


def _convex_areas(runs: Runs) -> np.ndarray:
    """(M,) number of pixel centres inside or on the convex hull of the midpoints of all pixel edges."""
    changes = np.diff(runs.rows, prepend=-1) != 0
    changes[runs.offsets] = True
    line = np.flatnonzero(changes)
    last = np.append(line[1:], len(runs.rows))[: len(line)] - 1
    owners = runs.owners[line]
    from_left = _hull_start(runs.starts[line], owners)
    from_right = _hull_start(1 - runs.stops[last], owners)
    return np.bincount(owners, 1 - from_left - from_right, minlength=len(runs.offsets))


def _hull_start(start: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """First column of the convex hull in every row of every component.

    The left side of the hull is the lower convex envelope of the leftmost points. Coordinates are in half pixels: a
    row starting at column x has the points 2 x - 1 at its centre line, and 2 x half a row above and below. A point on
    or above the chord of its neighbours is not a corner. All such points are removed, until none is left.

    Args:
        start: (L,) first column of the component in each of its rows, rows ascending.
        owners: (L,) component of each row, ascending.

    Returns:
        (L,) int64 smallest column whose pixel centre is not left of the hull.
    """
    of_component = np.diff(owners, prepend=-1)
    # A component of n rows has 2 n + 1 points.
    middle = 2 * np.arange(len(start)) + np.cumsum(of_component)
    bound = np.iinfo(np.int64).max
    x = np.full(2 * len(start) + (owners[-1] + 1 if len(owners) else 0), bound)
    x[middle - 1] = 2 * start
    x[middle] = 2 * start - 1
    x[middle + 1] = np.minimum(x[middle + 1], 2 * start)
    end = np.zeros(len(x), bool)
    end[middle[of_component > 0] - 1] = True
    end[middle[np.diff(owners, append=-1) != 0] + 1] = True
    at = np.arange(len(x))
    while True:
        before, after = at[1:-1] - at[:-2], at[2:] - at[:-2]
        above = (x[1:-1] - x[:-2]) * after >= (x[2:] - x[:-2]) * before
        corner = np.ones(len(at), bool)
        corner[1:-1] = end[1:-1] | ~above
        if corner.all():
            break
        at, x, end = at[corner], x[corner], end[corner]
    left = np.searchsorted(at, middle, side="right") - 1
    run, rise = at[left + 1] - at[left], x[left + 1] - x[left]
    return -((-(x[left] * run + rise * (middle - at[left]))) // (2 * run))
