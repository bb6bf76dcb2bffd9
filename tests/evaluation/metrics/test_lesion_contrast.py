import itertools

import numpy as np
import pytest
from scipy import ndimage

from slimdiff.evaluation.metrics import lesion_contrast
from slimdiff.evaluation.metrics.lesion_contrast import FEATURES, mean_frac_bright, mmd_pl, pair_features
from slimdiff.evaluation.metrics.lesions import component_features, components, mmd_mf


def scene():
    """A square brain at 0 with a noisy right half, and a bright 6 x 6 lesion on its left."""
    image = np.full((48, 48), -1.0)
    image[6:42, 6:42] = 0
    image[6:42, 24:42] += np.random.default_rng(0).uniform(-0.25, 0.25, (36, 18))
    mask = np.zeros((48, 48), bool)
    mask[20:26, 12:18] = True
    image[mask] = 0.5
    return image.astype(np.float16), mask


def slow_features(image, mask, ring_px=5):
    """The definitions, pixel by pixel, for one component."""
    image = image.astype(np.float64)
    h, w = image.shape

    def cross(members):
        grown = set(members)
        for y, x in members:
            grown |= {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)}
        return {(y, x) for y, x in grown if 0 <= y < h and 0 <= x < w}

    bright = {(y, x) for y in range(h) for x in range(w) if image[y, x] > -0.95}
    brain = {p for p in bright if cross({p}) <= bright and 0 < p[0] < h - 1 and 0 < p[1] < w - 1}
    lesion = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True))
    grown = lesion
    for _ in range(ring_px):
        grown = cross(grown)
    padded = np.pad(image, 1, mode="symmetric")

    def gradient(y, x):
        patch = padded[y : y + 3, x : x + 3]
        smooth = np.array([1, 2, 1])
        return np.hypot(smooth @ (patch[:, 2] - patch[:, 0]), smooth @ (patch[2] - patch[0]))

    def values(members):
        return np.array([image[p] for p in sorted(members)])

    inside, of_brain = values(lesion & brain), values(brain)
    edge = [gradient(*p) for p in (cross(lesion) - lesion) & brain]
    return (
        inside.mean() - values((grown - lesion) & brain).mean(),
        (inside.mean() - of_brain.mean()) / of_brain.std(),
        inside.std() / of_brain.std(),
        np.mean(edge) / np.mean([gradient(*p) for p in brain]),
        np.mean(inside > of_brain.mean() + of_brain.std()),
    )


def test_features_agree_with_the_definitions(slice_pairs):
    images, masks = slice_pairs
    for image, mask in [scene(), *zip(images[:3], masks[:3], strict=True)]:
        table, slices = pair_features(image[None], mask[None])
        expected = [slow_features(image, component) for component in components(mask)]
        assert table == pytest.approx(np.array(expected), rel=1e-9)
        assert (slices == 0).all()


def plain_features(images, masks, min_px=5, min_slice_px=0, ring_px=5, threshold=-0.95, erode_px=1):
    """METHOD's definitions on the whole image, one component at a time, with scipy.ndimage."""
    rows, slices = [], []
    for i, (image, mask) in enumerate(zip(images.astype(np.float64), masks, strict=True)):
        brain = image > threshold
        if erode_px:
            brain = ndimage.binary_erosion(brain, iterations=erode_px)
        gradient = ndimage.generic_gradient_magnitude(image, ndimage.sobel, mode="reflect")
        labels, n = ndimage.label(mask)
        if mask.sum() < min_slice_px or not brain.any():
            continue
        for component in (labels == number for number in range(1, n + 1)):
            ring = ndimage.binary_dilation(component, iterations=ring_px) & brain & ~component
            edge = ndimage.binary_dilation(component) & brain & ~component
            lesion = image[component & brain]
            if component.sum() < min_px or not (ring.any() and edge.any() and lesion.size):
                continue
            mean, sd = image[brain].mean(), image[brain].std()
            with np.errstate(all="ignore"):
                row = (
                    lesion.mean() - image[ring].mean(),
                    (lesion.mean() - mean) / sd,
                    lesion.std() / sd,
                    gradient[edge].mean() / gradient[brain].mean(),
                    (lesion > mean + sd).mean(),
                )
            if np.isfinite(row).all():
                rows.append(row)
                slices.append(i)
    return np.array(rows), np.array(slices)


def crowded(n, seed, shape=(48, 57)):
    """Brains with a ragged rim and holes, and masks of many lesions, in and out of the brain and at the border."""
    generator = np.random.default_rng(seed)
    coarse, fine = generator.standard_normal((2, n, *shape))
    images = 0.4 * fine + 2 * ndimage.gaussian_filter(coarse, (0, 4, 4))
    images = np.where(ndimage.gaussian_filter(coarse, (0, 2, 2)) > -0.12, np.clip(images, -0.94, 1), -1)
    noise = ndimage.gaussian_filter(generator.standard_normal((n, *shape)), (0, 1.5, 1.5))
    masks = noise > np.quantile(noise, 0.8)
    # an empty corner, into which lesions reach by two pixels
    images[:, :9] = images[:, :, 46:] = -1
    masks[:, :7] = masks[:, :, 48:] = False
    return images.astype(np.float16), masks


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ring_px": 1},
        {"ring_px": 9, "erode_px": 2},
        {"erode_px": 0, "min_px": 1},
        {"min_px": 12, "min_slice_px": 400, "ring_px": 3},
    ],
)
def test_crowded_slices_agree_with_plain_features(settings):
    images, masks = crowded(12, seed=1)
    table, slices = pair_features(images, masks, **settings)
    expected, expected_slices = plain_features(images, masks, **settings)
    assert len(expected) > 40
    assert slices.tolist() == expected_slices.tolist()
    assert table == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_brain_without_erosion_agrees_with_plain_features():
    image, mask = scene()
    table, _ = pair_features(image[None], mask[None], erode_px=0)
    assert table == pytest.approx(plain_features(image[None], mask[None], erode_px=0)[0], rel=1e-9)


def test_another_lesion_in_the_ring_is_part_of_the_ring():
    image = np.zeros((1, 40, 40))
    image[0, :, 30:] = 0.25
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 18:22, 10:14] = mask[0, 18:22, 16:20] = True
    image[0, 18:22, 16:20] = 0.5
    table, _ = pair_features(image, mask)
    # in four rows the ring (L1 distance at most 5) covers the other lesion's columns 16, 17 and 18
    inside, ring = 4 * 3, 2 * (4 + 4) * 5 + 4 * 10
    assert table[0, 0] == pytest.approx(0 - 0.5 * inside / ring)
    assert table == pytest.approx(plain_features(image, mask)[0], rel=1e-9)


def test_lesions_of_any_size_agree_with_plain_features():
    images, _ = crowded(1, seed=2, shape=(90, 70))
    y, x = np.mgrid[:90, :70]
    masks = [np.hypot(y - 40, x - 30) < radius for radius in (2, 7, 20, 34, 60)]
    masks += [y > 80, (x == 0) & (y > 3), (y == 89) | (x == 69), np.abs(y - x) < 2]
    images = np.repeat(images, len(masks), axis=0)
    table, slices = pair_features(images, np.array(masks))
    expected, expected_slices = plain_features(images, np.array(masks))
    assert slices.tolist() == expected_slices.tolist()
    assert table == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_features_of_a_slice_do_not_depend_on_blocks_or_threads(monkeypatch):
    images, masks = crowded(12, seed=3)
    masks[[2, 7]] = False
    images[5] = -1
    whole, slices = pair_features(images, masks)
    for pixels, threads in itertools.product((1, 3 * images[0].size), (1, 3)):
        monkeypatch.setattr(lesion_contrast, "BLOCK_PX", pixels)
        monkeypatch.setattr(lesion_contrast, "THREADS", threads)
        table, where = pair_features(images, masks)
        assert np.array_equal(table, whole)
        assert where.tolist() == slices.tolist()
    assert not {2, 5, 7} & set(slices.tolist())


def test_a_lesion_at_the_border_of_the_image_agrees_with_the_definitions():
    image = np.random.default_rng(2).uniform(-0.5, 0.5, (30, 30)).astype(np.float16)
    mask = np.zeros((30, 30), bool)
    mask[0:5, 25:30] = True
    table, _ = pair_features(image[None], mask[None])
    assert table[0] == pytest.approx(slow_features(image, mask))


def test_a_bright_square_has_the_features_of_a_bright_lesion():
    image, mask = scene()
    row = dict(zip(FEATURES, pair_features(image[None], mask[None])[0][0], strict=True))
    assert row["delta"] == pytest.approx(0.5)
    assert row["sigma_norm"] == 0
    assert row["frac_bright"] == 1
    assert row["z_in"] > 2
    assert row["edge_align"] > 2


def test_contrast_features_do_not_depend_on_gain():
    image, mask = scene()
    image = image.astype(np.float64)
    dark = np.where(image > -0.95, 0.5 * image, -1)
    table, _ = pair_features(image[None], mask[None])
    darker, _ = pair_features(dark[None], mask[None], brain_threshold=-0.95)
    # z_in, sigma_norm and frac_bright do not depend on the gain; delta is proportional to it
    assert darker[0, [1, 2, 4]] == pytest.approx(table[0, [1, 2, 4]], rel=1e-2, abs=1e-6)
    assert darker[0, 0] == pytest.approx(0.5 * table[0, 0], rel=1e-2)


def test_components_without_brain_around_them_are_dropped():
    image, mask = scene()
    outside, far = np.zeros_like(mask), np.full_like(image, -1)
    outside[:3, :3] = True
    assert len(pair_features(image[None], outside[None])[0]) == 0
    assert len(pair_features(far[None], mask[None])[0]) == 0
    flat = np.zeros_like(image)  # a constant brain has zero sd and zero gradient
    assert len(pair_features(flat[None], mask[None])[0]) == 0


def test_ring_and_erosion_widths_change_the_features():
    image, mask = scene()
    image = image + np.linspace(0, 0.4, 48)[None] * (image > -0.95)
    image = np.clip(image, -1, 1)
    wide, narrow = (pair_features(image[None], mask[None], ring_px=r)[0][0, 0] for r in (5, 1))
    assert wide != narrow
    plain, eroded = (pair_features(image[None], mask[None], erode_px=e)[0][0, 1] for e in (0, 4))
    assert plain != eroded


@pytest.mark.parametrize("settings", [{"ring_px": 0}, {"erode_px": -1}])
def test_invalid_ring_and_erosion_widths_are_refused(settings, slice_pairs):
    images, masks = slice_pairs
    with pytest.raises(ValueError, match="expected ring_px >= 1 and erode_px >= 0"):
        pair_features(images[:1], masks[:1], **settings)


def test_an_image_out_of_range_is_refused_even_if_its_mask_is_empty():
    images = np.zeros((3, 16, 16))
    images[2] = 2
    with pytest.raises(ValueError, match=r"\[2, 2\]|\[0, 2\]"):
        pair_features(images, np.zeros((3, 16, 16), bool))


def test_shapes_must_agree(slice_pairs):
    images, masks = slice_pairs
    with pytest.raises(ValueError, match="expected images and masks of one shape"):
        pair_features(images[:3], masks[:2])


def test_shuffling_masks_among_images_raises_mmd_pl(slice_pairs):
    images, masks = slice_pairs
    real, _ = pair_features(images[:20], masks[:20])
    own, _ = pair_features(images[20:], masks[20:])
    shuffled, _ = pair_features(images[20:], np.roll(masks[20:], 1, axis=0))
    plain, moved = mmd_pl(real, own), mmd_pl(real, shuffled)
    assert moved.mmd > 10 * abs(plain.mmd)
    assert all(moved.w1[name] > plain.w1[name] for name in ("delta", "z_in", "frac_bright"))
    assert mean_frac_bright(own) > 0.8
    assert mean_frac_bright(shuffled) < mean_frac_bright(own) - 0.3


def test_masks_swapped_within_a_z_bin_change_the_pairing_and_not_the_shapes(make_pairs):
    images, masks = make_pairs(60, seed=7)
    real_images, real_masks = make_pairs(40, seed=8)
    z_bin = np.arange(60) // 15
    order = np.arange(60)
    for number in range(4):
        order[z_bin == number] = np.roll(order[z_bin == number], 1 + number)
    assert np.array_equal(z_bin[order], z_bin) and not (order == np.arange(60)).any()

    shapes, _ = component_features(real_masks)
    own, swapped = (mmd_mf(shapes, component_features(m)[0]) for m in (masks, masks[order]))
    assert swapped == own

    contrast, _ = pair_features(real_images, real_masks)
    own, swapped = (mmd_pl(contrast, pair_features(images, m)[0]) for m in (masks, masks[order]))
    assert swapped.mmd > 10 * abs(own.mmd)
    assert swapped.w1_geometric_mean > 2 * own.w1_geometric_mean


def test_f12_either_precision_gives_the_same_features(slice_pairs):
    images, masks = slice_pairs
    single = images.astype(np.float32) + np.float32(1e-5)
    half = single.astype(np.float16)
    assert np.array_equal(pair_features(single, masks)[0], pair_features(half, masks)[0])


def test_f11_mmd_pl_repeats_bit_for_bit(slice_pairs):
    table, _ = pair_features(*slice_pairs)
    assert mmd_pl(table[:20], table[15:]) == mmd_pl(table[:20], table[15:])


def test_masks_without_lesion_give_nan():
    empty, _ = pair_features(np.zeros((2, 16, 16)), np.zeros((2, 16, 16), bool))
    assert np.isnan(mmd_pl(empty, empty).mmd)
    assert np.isnan(mean_frac_bright(empty))


def test_real_lesions_are_brighter_than_their_surroundings(open_ms):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(open_ms / "patient19_FLAIR_MNI.nii.gz").get_fdata()[:, :, 70:130:6]
    mask = nibabel.load(open_ms / "patient19_lesion_MNI.nii.gz").get_fdata()[:, :, 70:130:6] > 0
    low, high = np.percentile(image[image > 0], [0.5, 99.5])
    image = np.where(image > 0, np.clip(2 * (image - low) / (high - low) - 1, -0.9, 1), -1)
    table, _ = pair_features(image.transpose(2, 0, 1), mask.transpose(2, 0, 1))
    assert len(table) > 20
    assert (table[:, 0] > 0).mean() > 0.8
