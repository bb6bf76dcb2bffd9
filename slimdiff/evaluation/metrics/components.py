"""Connected components of many masks at once, and their shapes as scikit-image's `regionprops` defines them.

A stack of masks becomes horizontal runs of lesion pixels, and the runs become components: the work grows with the
lesions, not with the image. Areas, moments, boxes and convex hulls follow from the runs in whole numbers, hence
exactly; only the perimeter looks at pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slimdiff.evaluation.registry import SHAPE_FEATURES

FEATURES = SHAPE_FEATURES
BLOCK_PX = 2**21  # pixels of masks worked on at once; bounds the memory, whatever the number of slices


@dataclass(frozen=True)
class Components:
    """M lesion components, by slice and in it by their first pixel in raster order."""

    slices: np.ndarray  # (M,) int64
    features: np.ndarray  # (M, 9) float64, columns as FEATURES; lengths in px, areas in px^2
    centroids: np.ndarray  # (M, 2) float64, row and column, px


@dataclass(frozen=True)
class Runs:
    """Maximal rows of adjacent lesion pixels, sorted by component, in each by row and column.

    Attributes:
        slices, rows: (K,) int64, where a run lies.
        starts, stops: (K,) int64, its first column and the one past its last.
        owners: (K,) int64, its component, 0 ... M - 1.
        offsets: (M,) int64, the first run of every component.
    """

    slices: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    owners: np.ndarray
    offsets: np.ndarray


def components_of(masks: np.ndarray, min_px: int = 5, min_slice_px: int = 0) -> Components:
    """4-connected components of many masks, with their shapes.

    Perimeter, convex area (solidity), moments (eccentricity, axes) are those of `skimage.measure.regionprops`;
    circularity = 4 pi area / perimeter^2, at most 1, and 0 where the perimeter is 0.

    Args:
        masks: (N, H, W) bool.
        min_px: components with fewer pixels are left out.
        min_slice_px: slices with fewer lesion pixels are left out; the rule that filled the slice store.

    Raises:
        ValueError: masks of another dtype or number of axes.
    """
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(f"masks are {masks.dtype} of shape {masks.shape}, bool (N, H, W) is wanted")
    found = [_components(masks[block], block.start, min_px, min_slice_px) for block in blocks(masks.shape)]
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


def blocks(shape: tuple[int, int, int], pixels: int = BLOCK_PX) -> Iterator[slice]:
    """Consecutive slices of a stack of that shape, as many at once as `pixels` allow; one, empty, of no slices."""
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
    """Component of every run, numbered by first runs; runs join those below them in the same slice.

    Args:
        first, last: (K,) flat positions in the stack, ascending.
        has_below: (K,) whether the next row is of the same slice.
        width: of a row, px.
    """
    above = np.flatnonzero(has_below)
    # shifted by one row, a run can only overlap runs of that row: positions order rows and columns together
    lowest = np.searchsorted(last, first[above] + width, side="left")
    count = np.searchsorted(first, last[above] + width, side="right") - lowest
    upper = np.repeat(above, count)
    lower = np.arange(len(upper)) + np.repeat(lowest - np.cumsum(count) + count, count)
    graph = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def boxes_of(runs: Runs) -> np.ndarray:
    """(M, 4) int64 bounding boxes: first row, first column, one past the last row, one past the last column."""
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
    """Every component painted with its number.

    Args:
        runs: of masks of that shape.
        shape: (N, H, W).
        margin: pixels of background around every slice.

    Returns:
        (N, H + 2 margin, W + 2 margin) int32, component + 1 and 0 elsewhere; and the flat positions in it of the
        components' pixels.
    """
    height, width = shape[1] + 2 * margin, shape[2] + 2 * margin
    image = np.zeros((shape[0], height, width), np.int32)
    lengths = runs.stops - runs.starts
    first = (runs.slices * height + runs.rows + margin) * width + runs.starts + margin
    positions = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
    image.ravel()[positions] = np.repeat(runs.owners + 1, lengths)
    return image, positions


def _moments(runs: Runs, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area (M,), centroid (M, 2) and inertia tensor (M, 2, 2) of the components, from sums over their runs."""
    lengths = runs.stops - runs.starts
    row = runs.rows - box[runs.owners, 0]
    start, stop = runs.starts - box[runs.owners, 1], runs.stops - box[runs.owners, 1]
    columns = (start + stop - 1) * lengths // 2
    squares = ((stop - 1) * stop * (2 * stop - 1) - (start - 1) * start * (2 * start - 1)) // 6
    sums = (lengths, row * lengths, columns, row * row * lengths, row * columns, squares)
    # whole numbers up to here, and in float64 still exact below 2^53
    area, r, c, rr, rc, cc = np.add.reduceat(np.stack(sums), runs.offsets, axis=1).astype(np.float64)
    centroid = np.stack((r, c), axis=1) / area[:, None] + box[:, :2]
    tensor = np.stack((cc * area - c * c, r * c - rc * area, r * c - rc * area, rr * area - r * r), axis=1)
    return area, centroid, (tensor / (area * area)[:, None]).reshape(-1, 2, 2)


# Weight of a border pixel by 1 + 2 (border pixels that share an edge) + 10 (those that share a corner):
# Benkrid & Crookes, "Design and FPGA implementation of a perimeter estimator", as scikit-image has it.
PERIMETER_WEIGHTS = np.zeros(50)
PERIMETER_WEIGHTS[[5, 7, 15, 17, 25, 27]] = 1
PERIMETER_WEIGHTS[[21, 33]] = np.sqrt(2)
PERIMETER_WEIGHTS[[13, 23]] = (1 + np.sqrt(2)) / 2


def _perimeters(runs: Runs, shape: tuple[int, int, int]) -> np.ndarray:
    """(M,) perimeters, px; every component alone, even where another touches its corner."""
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
    """(M,) number of pixel centres inside or on the convex hull of all midpoints of pixel edges."""
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

    The left side of the hull is the lower convex envelope of the leftmost points, on a grid of half pixels: 2 x - 1
    in the middle of a row, and 2 x half a row above and below it. A point on or above the chord of its neighbours
    is no corner, and all such points can go at once; what is left when none goes is the envelope.

    Args:
        start: (L,) first column of the component in each of its rows, rows ascending.
        owners: (L,) the component, ascending.

    Returns:
        (L,) int64 smallest column whose pixel centre is not left of the hull.
    """
    of_component = np.diff(owners, prepend=-1)
    middle = 2 * np.arange(len(start)) + np.cumsum(
        of_component
    )  # a point more than twice the rows, a component
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
