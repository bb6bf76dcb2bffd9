import numpy as np
import pytest

from slimdiff.evaluation.metrics.binary_masks import binarise
from slimdiff.evaluation.metrics.lesions import (
    FEATURES,
    component_features,
    components,
    mmd_mf,
    undecided_shares,
)


def table_of(mask, **settings):
    table, slices = component_features(np.asarray(mask, bool)[None], **settings)
    return [dict(zip(FEATURES, row, strict=True)) for row in table], slices


def flood(mask):
    """4-connected components, pixel by pixel."""
    left, found = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        stack, members = [left.pop()], set()
        while stack:
            y, x = stack.pop()
            members.add((y, x))
            for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    stack.append(neighbour)
        found.append(members)
    return found


def test_components_agree_with_a_flood_fill():
    mask = np.random.default_rng(0).random((40, 40)) < 0.5
    ours = {frozenset(zip(*np.nonzero(c), strict=True)) for c in components(mask, 5)}
    assert ours == {frozenset(members) for members in flood(mask) if len(members) >= 5}


def test_a_square_has_the_features_of_a_square():
    mask = np.zeros((32, 32))
    mask[8:18, 5:15] = 1
    (row,), slices = table_of(mask)
    # the variance of ten pixels in a row is (10^2 - 1) / 12, an axis 4 sqrt(variance)
    axis = 4 * np.sqrt(99 / 12)
    assert row["area"] == 100
    assert row["perimeter"] == 36  # scikit-image walks through the centres of the border pixels
    assert row["circularity"] == pytest.approx(4 * np.pi * 100 / 36**2)
    assert row["solidity"] == row["extent"] == 1
    assert row["eccentricity"] == pytest.approx(0, abs=1e-6)
    assert row["major_axis"] == pytest.approx(axis)
    assert row["minor_axis"] == pytest.approx(axis)
    assert row["equivalent_diameter"] == pytest.approx(np.sqrt(400 / np.pi))
    assert slices.tolist() == [0]


def test_lines_and_specks_have_finite_features():
    mask = np.zeros((32, 32))
    mask[3, 3:8] = mask[10:15, 20] = mask[20:23, 20:22] = 1
    rows, _ = table_of(mask)
    assert len(rows) == 3
    assert np.isfinite([list(row.values()) for row in rows]).all()
    assert all(0 <= row["circularity"] <= 1 for row in rows)
    assert all(0 < row["solidity"] <= 1 for row in rows)


def test_diagonal_neighbours_are_two_components_and_small_ones_are_left_out():
    mask = np.zeros((20, 20))
    mask[2:5, 2:5] = mask[5:8, 5:8] = 1
    mask[15, 12:16] = 1
    rows, _ = table_of(mask)
    assert [row["area"] for row in rows] == [9, 9]
    assert len(table_of(mask, min_px=4)[0]) == 3
    assert table_of(mask, min_slice_px=23)[0] == []
    assert len(table_of(mask, min_slice_px=22)[0]) == 2


def test_rotated_lesions_keep_their_shape(slice_pairs):
    _, masks = slice_pairs
    table, _ = component_features(masks)
    rotated, _ = component_features(masks.transpose(0, 2, 1)[:, ::-1])
    assert np.sort(rotated, axis=0) == pytest.approx(np.sort(table, axis=0))


def test_binary_masks_do_not_depend_on_tau(slice_pairs):
    _, masks = slice_pairs
    for tau in (-0.3, 0.0, 0.3):
        assert np.array_equal(binarise(masks.astype(np.uint8), tau), masks)


def test_continuous_masks_are_lesion_strictly_above_tau():
    levels = np.array([[[-1, -0.25, 0, 0.25, 1]]], np.float16)
    assert binarise(levels, 0.0).ravel().tolist() == [False, False, False, True, True]
    assert binarise(levels, -0.25).ravel().tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (np.full((1, 4, 4), 255, np.uint8), "255"),
        (np.full((1, 4, 4), -1, np.int8), "from -1"),
        (np.eye(4)[None], "bool or uint8"),
        (np.full((1, 4, 4), 2.0), r"\[2, 2\]"),
        (np.full((1, 4, 4), np.nan), "NaN"),
        (np.zeros((4, 4), bool), r"\(4, 4\)"),
    ],
)
def test_invalid_masks_are_refused(masks, says):
    with pytest.raises(ValueError, match=says):
        binarise(masks)


def test_f12_masks_of_either_precision_give_the_same_shapes():
    single = np.random.default_rng(0).uniform(-1, 1, (4, 24, 24)).astype(np.float32)
    for tau in (-0.1, 0.0, 0.1):
        assert np.array_equal(binarise(single, tau), binarise(single.astype(np.float16), tau))


def test_the_type_of_mask_is_decided_from_the_whole_stack():
    masks = np.zeros((200, 160, 160), np.float16)
    masks[:, 3, 3] = 1
    with pytest.raises(ValueError, match="bool or uint8"):
        binarise(masks)
    for place in (0, -1):
        masks[:, 0, 0] = 0
        masks[place, 0, 0] = 0.5
        assert np.array_equal(binarise(masks, 0.25), masks > 0.25)


def test_undecided_share_counts_the_open_interval():
    masks = np.array([[[-1, -0.5, -0.49, 0, 0.49, 0.5, 1, 1]]])
    assert undecided_shares(masks).tolist() == [3 / 8]


def test_shuffling_masks_among_images_leaves_mmd_mf_unchanged(slice_pairs):
    _, masks = slice_pairs
    real, synthetic = masks[:20], masks[20:]
    shuffled = synthetic[np.random.default_rng(0).permutation(20)]
    plain = mmd_mf(component_features(real)[0], component_features(synthetic)[0])
    moved = mmd_mf(component_features(real)[0], component_features(shuffled)[0])
    assert moved.mmd == pytest.approx(plain.mmd, rel=1e-9)
    assert moved.w1_geometric_mean == pytest.approx(plain.w1_geometric_mean, rel=1e-9)


def test_the_order_of_components_does_not_matter():
    real, synthetic = np.random.default_rng(0).standard_normal((2, 700, 9))
    order = np.random.default_rng(1).permutation(700)
    plain = mmd_mf(real, synthetic)
    assert mmd_mf(real, synthetic[order]) == plain
    assert mmd_mf(real[order], synthetic) == plain


def test_mmd_mf_agrees_with_the_formula(slice_pairs):
    table, _ = component_features(slice_pairs[1])
    real, synthetic = table[:20], table[20:40]
    z_real, z_synthetic = ((t - real.mean(0)) / real.std(0) for t in (real, synthetic))

    def k(a, b):
        return (a @ b.T / 9 + 1) ** 3

    n = len(real)
    expected = (k(z_real, z_real).sum() - np.trace(k(z_real, z_real))) / (n * (n - 1))
    expected += (k(z_synthetic, z_synthetic).sum() - np.trace(k(z_synthetic, z_synthetic))) / (n * (n - 1))
    expected -= 2 * k(z_real, z_synthetic).mean()
    assert mmd_mf(real, synthetic).mmd == pytest.approx(expected, rel=1e-9)


def test_larger_lesions_have_larger_distances(slice_pairs):
    _, masks = slice_pairs
    real, same = component_features(masks[:20])[0], component_features(masks[20:])[0]
    large, _ = component_features(masks[20:].repeat(2, axis=1).repeat(2, axis=2))
    assert mmd_mf(real, large).mmd > 5 * abs(mmd_mf(real, same).mmd)
    assert mmd_mf(real, large).w1["area"] > mmd_mf(real, same).w1["area"]


def test_few_components_give_nan():
    empty, _ = component_features(np.zeros((3, 16, 16), bool))
    assert empty.shape == (0, 9)
    assert np.isnan(mmd_mf(empty, empty).mmd)
    assert np.isnan(mmd_mf(empty, empty).w1_geometric_mean)
