"""Every shape feature against scikit-image's `regionprops`, one component at a time."""

import warnings

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from slimdiff.evaluation.metrics.components import FEATURES, components_of, stack_blocks

AREA, SOLIDITY = FEATURES.index("area"), FEATURES.index("solidity")
ECCENTRICITY, MINOR = FEATURES.index("eccentricity"), FEATURES.index("minor_axis")
# roots of differences of nearly equal numbers: near 0, rounding affects the square, so the squares are compared
SQUARED = [ECCENTRICITY, MINOR]
WHOLE = [FEATURES.index(name) for name in ("area", "perimeter", "solidity", "extent")]


def reference(masks, min_px=5, min_slice_px=0):
    """Features, slices and centroids, component by component."""
    rows, slices, centroids = [], [], []
    for i, mask in enumerate(masks):
        if mask.sum() < min_slice_px:
            continue
        for region in regionprops(label(mask, connectivity=1)):
            if region.area < min_px:
                continue
            perimeter = region.perimeter
            rows.append(
                (
                    region.area,
                    perimeter,
                    min(4 * np.pi * region.area / perimeter**2, 1) if perimeter else 0,
                    region.solidity,
                    region.extent,
                    region.eccentricity,
                    region.axis_major_length,
                    region.axis_minor_length,
                    region.equivalent_diameter_area,
                )
            )
            slices.append(i)
            centroids.append(region.centroid)
    return np.array(rows), np.array(slices), np.array(centroids)


def assert_same(masks, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = components_of(masks, **settings)
    features, slices, centroids = reference(masks, **settings)
    assert found.slices.tolist() == slices.tolist()
    assert found.centroids == pytest.approx(centroids, rel=1e-12)
    assert np.array_equal(found.features[:, WHOLE], features[:, WHOLE])
    others = [column for column in range(len(FEATURES)) if column not in SQUARED]
    assert found.features[:, others] == pytest.approx(features[:, others], rel=1e-9)
    squares = features[:, SQUARED] ** 2
    assert found.features[:, SQUARED] ** 2 == pytest.approx(squares, rel=1e-9, abs=1e-11)
    distinct = (features[:, SQUARED] > 1e-2).all(axis=1)
    assert found.features[distinct] == pytest.approx(features[distinct], rel=1e-9)
    return found


def blobs(n, side, smooth, share, seed):
    """Irregular blobs that cover about `share` of every slice and are cut by its border."""
    noise = np.random.default_rng(seed).standard_normal((n, side, side))
    smoothed = ndimage.gaussian_filter(noise, (0, smooth, smooth), mode="wrap")
    return smoothed > np.quantile(smoothed, 1 - share)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.58, 0.7])
def test_noise_with_specks_holes_and_touching_corners(share):
    masks = np.random.default_rng(int(100 * share)).random((8, 40, 33)) < share
    assert len(assert_same(masks, min_px=2).slices) > 20


@pytest.mark.parametrize(("smooth", "share"), [(1, 0.3), (2, 0.2), (4, 0.3), (4, 0.6)])
def test_blobs(smooth, share):
    assert len(assert_same(blobs(12, 64, smooth, share, seed=smooth)).slices) > 20


def shapes():
    y, x = np.mgrid[:24, :24]
    from_middle = np.hypot(y - 12, x - 11)
    spiral = np.zeros((24, 24), bool)
    spiral[2, 2:22] = spiral[2:22, 21] = spiral[21, 4:22] = spiral[6:22, 4] = spiral[6, 4:17] = True
    yield "pixel", (y == 3) & (x == 4)
    yield "row", (y == 3) & (x > 4) & (x < 17)
    yield "column", (x == 0) & (y > 4)
    yield "square", (y > 3) & (y < 9) & (x > 3) & (x < 9)
    yield "corner of the image", (y > 20) & (x > 18)
    yield "whole slice", np.ones((24, 24), bool)
    yield "staircase", (y - x == 1) | (y - x == 0)
    yield "band", np.abs(2 * y - x - 6) < 4
    yield "cross", (y == 7) | (x == 12)
    yield "disc", from_middle < 9
    yield "ring", (from_middle < 10) & (from_middle > 6)
    yield "ring in a ring", (np.round(from_middle) % 4 == 0) & (from_middle < 11)
    yield "comb", (y == 20) | ((x % 3 == 0) & (y < 20) & (y > x))
    yield "spiral", spiral
    yield "checkerboard", (y + x) % 2 == 0
    yield "squares that touch at corners", (y // 4 + x // 4) % 2 == 0
    yield "frame with a hole at every second pixel", (y % 2 == 0) | (x % 2 == 0)


@pytest.mark.parametrize(("name", "mask"), shapes(), ids=[name for name, _ in shapes()])
def test_shapes(name, mask):
    stack = np.stack([mask, mask[::-1], mask.T, ~mask | (np.arange(24) == 5)])
    assert_same(stack, min_px=1)


def test_a_component_that_touches_others_at_corners_is_measured_alone():
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 5:10, 5:10] = True
    alone = components_of(mask).features[0]
    mask[0, 2:5, 2:5] = mask[0, 10:14, 10:14] = mask[0, 2:5, 10:14] = mask[0, 10:13, 2:5] = True
    (index,) = np.flatnonzero(components_of(mask).features[:, AREA] == 25)
    assert np.array_equal(components_of(mask).features[index], alone)
    assert np.array_equal(components_of(mask, min_px=20).features[0], alone)


def test_components_do_not_join_across_slices_or_rows():
    masks = np.zeros((3, 6, 6), bool)
    masks[0, 5, :] = masks[1, 0, :] = True
    masks[2, 1, 3:] = masks[2, 2, :3] = True
    found = components_of(masks, min_px=3)
    assert found.slices.tolist() == [0, 1, 2, 2]
    assert found.features[:, AREA].tolist() == [6, 6, 3, 3]


def test_a_triangle_fills_its_hull_and_half_its_box():
    side = 30
    triangle = np.tri(side, dtype=bool)[None]
    (row,) = components_of(triangle).features
    assert row[SOLIDITY] == 1
    assert row[FEATURES.index("extent")] == (side + 1) / (2 * side)


def test_the_hull_of_two_bars_and_a_bridge_is_their_box():
    mask = np.zeros((1, 12, 30), bool)
    mask[0, :, 0] = mask[0, :, 29] = mask[0, 6] = True
    (row,) = components_of(mask).features
    assert row[SOLIDITY] == row[AREA] / (12 * 30)


def test_transposed_and_mirrored_components_have_the_same_shape():
    masks = blobs(6, 48, 2, 0.3, seed=3)
    plain = np.sort(components_of(masks).features, axis=0)
    for changed in (masks.transpose(0, 2, 1), masks[:, ::-1], masks[:, :, ::-1]):
        assert np.sort(components_of(changed).features, axis=0) == pytest.approx(plain, rel=1e-9, abs=1e-6)


def test_slices_with_little_lesion_are_excluded():
    masks = blobs(12, 40, 2, 0.15, seed=5)
    least = int(np.median(masks.sum(axis=(1, 2))))
    found = assert_same(masks, min_slice_px=least)
    assert 0 < len(np.unique(found.slices)) < 12


def test_components_of_a_slice_do_not_depend_on_its_stack():
    masks = blobs(150, 160, 3, 0.03, seed=6)
    assert len(list(stack_blocks(masks.shape))) > 1
    whole = components_of(masks)
    each = [components_of(mask[None]) for mask in masks]
    assert np.array_equal(whole.features, np.concatenate([one.features for one in each]))
    assert np.array_equal(whole.centroids, np.concatenate([one.centroids for one in each]))
    assert np.array_equal(whole.slices, np.repeat(np.arange(150), [len(one.slices) for one in each]))


@pytest.mark.parametrize("shape", [(0, 16, 16), (3, 16, 16)])
def test_masks_without_lesion_have_no_component(shape):
    found = components_of(np.zeros(shape, bool))
    assert found.features.shape == (0, 9)
    assert found.centroids.shape == (0, 2)
    assert found.slices.shape == (0,)


@pytest.mark.parametrize("masks", [np.zeros((4, 4), bool), np.zeros((1, 4, 4), np.uint8)])
def test_masks_of_another_shape_or_type_are_refused(masks):
    with pytest.raises(ValueError, match=r"expected bool masks of shape \(N, H, W\)"):
        components_of(masks)


def test_blocks_cover_a_stack_once():
    for shape, pixels in (((10, 8, 8), 200), ((7, 8, 8), 1), ((3, 8, 8), 10**6)):
        covered = np.concatenate([np.arange(shape[0])[block] for block in stack_blocks(shape, pixels)])
        assert covered.tolist() == list(range(shape[0]))
        assert all(
            (block.stop - block.start) * 64 <= max(pixels, 64) for block in stack_blocks(shape, pixels)
        )
