"""Lesion contrast: whether a mask lies on tissue that differs from its surrounding ring and from the brain."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from slimdiff.evaluation.metrics.binary_masks import BinaryMasks
from slimdiff.evaluation.metrics.components import (
    BLOCK_PX,
    Runs,
    boxes_of,
    label_image,
    runs_of,
    stack_blocks,
)
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.lesions import FeatureDistance, feature_distance
from slimdiff.evaluation.registry import CONTRAST_FEATURES
from slimdiff.stored_rows import Rows

FEATURES = CONTRAST_FEATURES
THREADS = min(4, os.cpu_count() or 1)
CACHE_PX = 2**16  # pixels per chain of array operations, few enough for the CPU cache
WINDOW_STEP = 8  # px; window sizes are multiples of it, so that many components share one array


def pair_features(
    images: np.ndarray | Rows,
    masks: np.ndarray | Rows,
    tau: float = 0.0,
    min_px: int = 5,
    min_slice_px: int = 0,
    ring_px: int = 5,
    brain_threshold: float = -0.95,
    erode_px: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Five intensity features of every lesion component M, with its ring R and the brain B.

    B is the eroded region where the image is above `brain_threshold`. R is M dilated `ring_px` times by a cross,
    without M and within B. The edge dM is the same with one dilation. mu and sigma are mean and sd (ddof 0) over M
    within B, R or B. grad is the unscaled Sobel magnitude with a reflecting border.

    - `delta` = mu_M - mu_R, in units of the image
    - `z_in` = (mu_M - mu_B) / sigma_B
    - `sigma_norm` = sigma_M / sigma_B
    - `edge_align` = mean grad on dM / mean grad on B
    - `frac_bright` = share of M above mu_B + sigma_B

    A component is skipped if it has no ring or if a feature is not finite (M outside the brain, or a brain of one
    value).

    Args:
        images: (N, H, W) float, in [-1, 1].
        masks: (N, H, W), see `binary_masks.BinaryMasks`.
        tau: threshold of continuous masks.
        min_px: components with fewer pixels are left out.
        min_slice_px: slices with fewer lesion pixels are left out.
        ring_px: width of the ring, px, at least 1.
        brain_threshold: intensity above which a pixel is brain, in units of the image.
        erode_px: erosion of the brain, px, at least 0.

    Returns:
        (M, 5) float64, columns as `FEATURES`; and (M,) the slice of each component.

    Raises:
        ValueError: images and masks differ in shape or are out of range, or `ring_px` or `erode_px` is too small.
    """
    binary = BinaryMasks(masks, tau)
    if images.shape != binary.shape:
        raise ValueError(f"expected images and masks of one shape, found {images.shape} and {binary.shape}")
    if ring_px < 1 or erode_px < 0:
        raise ValueError(f"expected ring_px >= 1 and erode_px >= 0, found {ring_px} and {erode_px}")

    def of_block(block: slice) -> tuple[np.ndarray, np.ndarray]:
        single, lesion = store_precision(images[block]), binary[block]
        runs = runs_of(lesion, min_px, min_slice_px)
        used, places = np.unique(runs.slices, return_inverse=True)
        rows, columns = _surroundings((single >= brain_threshold) | lesion)
        single = single[used, rows, columns]
        left, top = columns.start, rows.start
        runs = replace(
            runs, slices=places, rows=runs.rows - top, starts=runs.starts - left, stops=runs.stops - left
        )
        table = _contrasts(_brains(single, brain_threshold, erode_px, ring_px), runs, ring_px)
        finite = np.isfinite(table).all(axis=1)
        return table[finite], used[places[runs.offsets]][finite] + block.start

    with ThreadPoolExecutor(THREADS) as pool:
        tables, slices = zip(*pool.map(of_block, stack_blocks(images.shape, BLOCK_PX)), strict=True)
    binary.check()
    return np.concatenate(tables), np.concatenate(slices)


def _surroundings(shown: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of all true pixels of an (N, H, W) stack, with a margin of one pixel."""
    spans = []
    for axis, size in ((1, shown.shape[1]), (0, shown.shape[2])):
        at = np.flatnonzero(shown.any(axis=0).any(axis=axis))
        spans.append(slice(max(at[0] - 1, 0), min(at[-1] + 2, size)) if len(at) else slice(0, size))
    return tuple(spans)


@dataclass(frozen=True)
class Brains:
    """Slices with a margin, and the statistics of the brain to which components are compared.

    Attributes:
        images, gradients: (N, H + 2 margin, W + 2 margin) float64, the slices and their Sobel magnitude.
        brains: bool of the same shape, brain pixels; False in the margin.
        mean, sd, mean_gradient: (N,) over the brain; NaN for a slice without brain.
    """

    images: np.ndarray
    gradients: np.ndarray
    brains: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    mean_gradient: np.ndarray


def _brains(single: np.ndarray, threshold: float, erode_px: int, margin: int) -> Brains:
    """The `Brains` of (N, H, W) slices, with a margin of at least 1 px."""
    images = np.pad(single, ((0, 0), (margin, margin), (margin, margin)), mode="edge").astype(np.float64)
    gradients, brains = np.zeros_like(images), np.zeros(images.shape, bool)
    core = slice(margin, -margin)
    np.greater(images[:, core, core], threshold, out=brains[:, core, core])
    statistics = np.empty((3, len(images)))
    for part in stack_blocks(images.shape, CACHE_PX):
        for _ in range(erode_px):
            brains[part] = _with_neighbours(brains[part], np.logical_and)
        _sobel(images[part], gradients[part])
        weight = Weight.of(brains[part])
        statistics[:, part] = *_mean_and_sd(images[part], weight), _mean(gradients[part], weight)
    return Brains(images, gradients, brains, *statistics)


def _with_neighbours(stack: np.ndarray, join: np.ufunc) -> np.ndarray:
    """Dilate (`logical_or`) or erode (`logical_and`) a contiguous (N, H, W) bool stack by a cross.

    The stack is processed as one line, so the last pixel of a row and the first of the next count as neighbours. The
    border must therefore be background.
    """
    line, width = stack.ravel(), stack.shape[2]
    joined = line.copy()
    for step in (1, width):
        join(joined[step:], line[:-step], out=joined[step:])
        join(joined[:-step], line[step:], out=joined[:-step])
    return joined.reshape(stack.shape)


def _sobel(images: np.ndarray, magnitude: np.ndarray) -> None:
    """Write the Sobel magnitude of a contiguous (N, H, W) stack; the outermost pixels are not valid.

    Let b be the sum over every 2 x 2 pixels, and p, q the differences of b along the two diagonals. The two Sobel
    filters are p + q and p - q, so the magnitude is sqrt(2 (p^2 + q^2)).
    """
    line, width = images.ravel(), images.shape[2]
    pairs = line[1:] + line[:-1]
    b = pairs[width:] + pairs[:-width]
    p, q = b[width + 1 :] - b[: -width - 1], b[1:-width] - b[width:-1]
    p *= p
    q *= q
    p += q
    p += p
    np.sqrt(p, out=magnitude.ravel()[width + 1 : -width - 1])


@dataclass(frozen=True)
class Weight:
    """Regions to average over: (K, h, w) float64, 1 inside and 0 outside, and (K,) number of pixels inside."""

    inside: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, region: np.ndarray) -> "Weight":
        inside = region.astype(np.float64)
        return cls(inside, inside.sum(axis=(1, 2)))


def _mean(values: np.ndarray, weight: Weight) -> np.ndarray:
    """(K,) mean of values (K, h, w) over each region; NaN for an empty region."""
    with np.errstate(invalid="ignore"):
        return np.vecdot(values, weight.inside).sum(axis=1) / weight.count


def _mean_and_sd(values: np.ndarray, weight: Weight) -> tuple[np.ndarray, np.ndarray]:
    """(K,) mean and sd (ddof 0) over each region; NaN for an empty region."""
    mean = _mean(values, weight)
    away = values - mean[:, None, None]
    away *= away
    return mean, np.sqrt(_mean(away, weight))


def _contrasts(brains: Brains, runs: Runs, ring_px: int) -> np.ndarray:
    """(M, 5) features of the components; undefined features are not finite."""
    box, of_component = boxes_of(runs), runs.slices[runs.offsets]
    table = np.empty((len(box), len(FEATURES)))
    n, height, width = brains.images.shape
    labels, _ = label_image(runs, (n, height - 2 * ring_px, width - 2 * ring_px), ring_px)
    sides = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) + 2 * ring_px
    sides = -(-sides // WINDOW_STEP) * WINDOW_STEP
    for side in np.unique(sides):
        size = min(side, height), min(side, width)
        # Because of the margin, a window at the first pixel of the box starts one ring width before the box.
        corner = np.minimum(box[:, :2], np.subtract((height, width), size))
        views = [
            sliding_window_view(stack, size, axis=(1, 2))
            for stack in (labels, brains.images, brains.gradients, brains.brains)
        ]
        alike = np.flatnonzero(sides == side)
        for part in stack_blocks((len(alike), *size), CACHE_PX):
            chosen = alike[part]
            place = of_component[chosen]
            label, *windows = (view[place, corner[chosen, 0], corner[chosen, 1]] for view in views)
            own = label == (chosen + 1)[:, None, None]
            of_brain = brains.mean[place], brains.sd[place], brains.mean_gradient[place]
            table[chosen] = _contrast(own, *windows, of_brain, ring_px)
    return table


def _contrast(
    own: np.ndarray,
    image: np.ndarray,
    gradient: np.ndarray,
    brain: np.ndarray,
    of_brain: tuple[np.ndarray, np.ndarray, np.ndarray],
    ring_px: int,
) -> np.ndarray:
    """(K, 5) features of components in windows (K, h, w), given (K,) mean, sd and mean gradient of the brain."""
    outside = brain & ~own
    grown = _with_neighbours(own, np.logical_or)
    edge = Weight.of(grown & outside)
    for _ in range(ring_px - 1):
        grown = _with_neighbours(grown, np.logical_or)
    ring = Weight.of(grown & outside)
    inside = Weight.of(own & brain)
    mean, sd, mean_gradient = of_brain
    own_mean, own_sd = _mean_and_sd(image, inside)
    bright = (image > (mean + sd)[:, None, None]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = (
            own_mean - _mean(image, ring),
            (own_mean - mean) / sd,
            own_sd / sd,
            _mean(gradient, edge) / mean_gradient,
            _mean(bright, inside),
        )
    return np.stack(columns, axis=1)


def mmd_pl(real: np.ndarray, synthetic: np.ndarray) -> FeatureDistance:
    """MMD-PL: distance between the lesion contrasts of two tables from `pair_features`."""
    return feature_distance(real, synthetic, FEATURES)


def mean_frac_bright(table: np.ndarray) -> float:
    """Mean `frac_bright` over the components of a table from `pair_features`; NaN for an empty table."""
    return float(table[:, FEATURES.index("frac_bright")].mean()) if len(table) else float("nan")
