import numpy as np
import pytest

from slimdiff.evaluation.masks import components
from slimdiff.evaluation.pairs import FEATURES, mean_frac_bright, mmd_pl, pair_features


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


def test_a_lesion_at_the_border_of_the_image_agrees_too():
    image = np.random.default_rng(2).uniform(-0.5, 0.5, (30, 30)).astype(np.float16)
    mask = np.zeros((30, 30), bool)
    mask[0:5, 25:30] = True
    table, _ = pair_features(image[None], mask[None])
    assert table[0] == pytest.approx(slow_features(image, mask))


def test_the_bright_square_is_bright():
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
    # z_in, sigma_norm and frac_bright divide the gain out; delta carries it
    assert darker[0, [1, 2, 4]] == pytest.approx(table[0, [1, 2, 4]], rel=1e-2, abs=1e-6)
    assert darker[0, 0] == pytest.approx(0.5 * table[0, 0], rel=1e-2)


def test_components_without_brain_around_them_are_dropped():
    image, mask = scene()
    outside, far = np.zeros_like(mask), np.full_like(image, -1)
    outside[:3, :3] = True
    assert len(pair_features(image[None], outside[None])[0]) == 0
    assert len(pair_features(far[None], mask[None])[0]) == 0
    flat = np.zeros_like(image)  # a brain of one value has no sigma and no gradient
    assert len(pair_features(flat[None], mask[None])[0]) == 0


def test_ring_and_erosion_are_parameters():
    image, mask = scene()
    image = image + np.linspace(0, 0.4, 48)[None] * (image > -0.95)
    image = np.clip(image, -1, 1)
    wide, narrow = (pair_features(image[None], mask[None], ring_px=r)[0][0, 0] for r in (5, 1))
    assert wide != narrow
    plain, eroded = (pair_features(image[None], mask[None], erode_px=e)[0][0, 1] for e in (0, 4))
    assert plain != eroded


def test_shapes_must_agree(slice_pairs):
    images, masks = slice_pairs
    with pytest.raises(ValueError, match="differ in shape"):
        pair_features(images[:3], masks[:2])


def test_shuffling_masks_among_images_raises_mmd_pl(slice_pairs):
    images, masks = slice_pairs
    real, _ = pair_features(images[:20], masks[:20])
    own, _ = pair_features(images[20:], masks[20:])
    shuffled, _ = pair_features(images[20:], np.roll(masks[20:], 1, axis=0))
    plain, moved = mmd_pl(real, own, seed=0), mmd_pl(real, shuffled, seed=0)
    assert moved.mmd.value > 10 * abs(plain.mmd.value)
    assert all(moved.w1[name] > plain.w1[name] for name in ("delta", "z_in", "frac_bright"))
    assert mean_frac_bright(own) > 0.8
    assert mean_frac_bright(shuffled) < mean_frac_bright(own) - 0.3


def test_f12_either_precision_gives_the_same_features(slice_pairs):
    images, masks = slice_pairs
    single = images.astype(np.float32) + np.float32(1e-5)
    half = single.astype(np.float16)
    assert np.array_equal(pair_features(single, masks)[0], pair_features(half, masks)[0])


def test_f11_mmd_pl_repeats_bit_for_bit(slice_pairs):
    table, _ = pair_features(*slice_pairs)
    assert mmd_pl(table[:20], table[15:], seed=4) == mmd_pl(table[:20], table[15:], seed=4)


def test_nothing_gives_nan():
    empty, _ = pair_features(np.zeros((2, 16, 16)), np.zeros((2, 16, 16), bool))
    assert np.isnan(mmd_pl(empty, empty, seed=0).mmd.value)
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
