"""The segmenter learns to find lesions, reproducibly and for slices of any size."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slimdiff.config.utility import UtilityConfig
from slimdiff.evaluation.utility import segmenter
from slimdiff.evaluation.utility.segmenter import (
    Pairs,
    SegmentationUNet,
    Segmenter,
    augment,
    choose,
    load_segmenter,
    predict,
    save_segmenter,
    segmentation_loss,
    train_segmenter,
)

CPU = torch.device("cpu")
CONFIG = UtilityConfig(channels=(16, 16), patch=2, steps=80, batch_size=8, learning_rate=5e-3)


def blobs(n: int, seed: int, contrast: float = 0.7) -> Pairs:
    """Noise with a dark disc (no lesion) in every slice and a bright disc (the lesion) in every second slice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images, masks = rng.normal(-0.2, 0.15, (n, 32, 32)), np.zeros((n, 32, 32), bool)
    for i in range(n):
        for sign in (-1, 1):
            disc = np.hypot(*(grid - c for grid, c in zip((y, x), rng.integers(5, 27, 2), strict=True))) < 3.5
            if sign < 0 or i % 2:
                images[i] += sign * contrast * disc
                masks[i] = disc & (sign > 0)
    return Pairs(np.clip(images, -1, 1).astype(np.float16), masks)


def dice(truth, prediction):
    return 2 * (truth & prediction).sum() / (truth.sum() + prediction.sum())


@pytest.fixture(scope="module")
def learnt() -> Segmenter:
    return train_segmenter(blobs(40, seed=0), CONFIG, 2.0, CPU)


def test_it_finds_lesions_in_unseen_slices(learnt):
    unseen = blobs(30, seed=1)
    found = predict(learnt, unseen.images)
    assert dice(unseen.masks, found) > 0.75
    # Control: the predictions of other slices, with the same shapes and pixel counts.
    assert dice(unseen.masks, np.roll(found, 2, axis=0)) < 0.25
    assert found[~unseen.with_lesion].mean() < 0.005


def test_a_prediction_does_not_depend_on_its_batch(learnt):
    images = blobs(7, seed=2).images
    whole = predict(learnt, images, batch_size=7)
    assert np.array_equal(whole, predict(learnt, images, batch_size=3))
    assert np.array_equal(whole[[4]], predict(learnt, images[[4]]))
    assert predict(learnt, images[:0]).shape == (0, 32, 32)


def test_sides_that_are_no_multiple_of_the_divisor_are_padded_with_background(learnt):
    image = torch.from_numpy(blobs(1, seed=3).images.astype(np.float32))[:, None, :29, :26]
    padded = torch.full((1, 1, 32, 28), -1.0)
    padded[:, :, :29, :26] = image
    with torch.no_grad():
        assert learnt.members[0].divisor == 4
        assert learnt(image).shape == image.shape
        torch.testing.assert_close(learnt(image), learnt(padded)[:, :, :29, :26], rtol=0, atol=1e-6)


def weights(segmenter):
    return torch.cat([value.flatten() for value in segmenter.state_dict().values()])


def test_the_same_seed_gives_the_same_weights_whatever_the_global_random_state():
    pairs, short = blobs(12, seed=4), CONFIG.model_copy(update={"steps": 3})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train_segmenter(pairs, short, 2.0, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = train_segmenter(pairs, short, 2.0, CPU)
    other = train_segmenter(pairs, short.model_copy(update={"seed": 1}), 2.0, CPU)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_members_differ_and_their_probabilities_are_averaged():
    pairs = blobs(12, seed=4)
    both = train_segmenter(pairs, CONFIG.model_copy(update={"steps": 3}), 2.0, CPU, members=2)
    x = torch.from_numpy(pairs.images[:4].astype(np.float32))[:, None]
    with torch.no_grad():
        one, two = (torch.sigmoid(network(x)) for network in both.members)
        assert (one - two).abs().max() > 1e-3
        torch.testing.assert_close(both(x), (one + two) / 2)


def test_more_slices_do_not_mean_more_steps(monkeypatch):
    sizes, plain = [], segmenter.choose

    def counted(with_lesion, size, rng):
        sizes.append(len(with_lesion))
        return plain(with_lesion, size, rng)

    monkeypatch.setattr(segmenter, "choose", counted)
    for n in (4, 30):
        train_segmenter(blobs(n, seed=5), CONFIG.model_copy(update={"steps": 4}), 2.0, CPU)
    assert sizes == [4] * 4 + [30] * 4


def test_a_set_without_lesion_is_refused():
    with pytest.raises(ValueError, match="found none among 3"):
        train_segmenter(blobs(6, seed=6)[np.array([0, 2, 4])], CONFIG, 2.0, CPU)


def test_the_rate_rises_over_a_tenth_of_the_steps_and_falls_to_zero():
    shares = [segmenter.rate_share(step, 200) for step in range(201)]
    assert shares[0] == pytest.approx(1 / 20)
    assert max(shares) == shares[19] == pytest.approx(math.cos(math.pi * 19 / 400) ** 2)
    assert shares[100] == pytest.approx(0.5) and shares[200] == pytest.approx(0)


def test_half_of_a_batch_has_a_lesion():
    with_lesion = np.arange(50) % 10 == 0
    drawn = [choose(with_lesion, 8, np.random.default_rng(i)) for i in range(200)]
    assert {int(with_lesion[rows].sum()) for rows in drawn} == {4}
    counts = np.bincount(np.concatenate(drawn), minlength=50)
    # 800 draws of 5 slices with a lesion, 800 of 45 without.
    assert abs(counts[with_lesion] - 160).max() < 60
    assert abs(counts[~with_lesion] - 800 / 45).max() < 20
    odd = [int(with_lesion[choose(with_lesion, 5, np.random.default_rng(i))].sum()) for i in range(200)]
    assert set(odd) == {2, 3}
    assert np.mean(odd) == pytest.approx(2.5, abs=0.15)
    assert with_lesion[choose(np.ones(3, bool), 4, np.random.default_rng(0))].shape == (4,)


def test_augmentation_flips_and_shifts_image_and_mask_alike_and_applies_a_gamma():
    pairs, spacing = blobs(40, seed=7), 2.0
    images, masks = torch.from_numpy(pairs.images).float(), torch.from_numpy(pairs.masks)
    moved, moved_masks = augment(images, masks, spacing, np.random.default_rng(3))
    kinds = []
    for i in range(len(images)):
        found = []
        for flip in (False, True):
            image, mask = ((part[i].flip(1) if flip else part[i]).numpy() for part in (images, masks))
            for down in range(-3, 4):
                for right in range(-3, 4):
                    # An explicit copy of the part that stays inside.
                    to, source = [], []
                    for shift in (down, right):
                        to.append(slice(max(0, shift), 32 + min(0, shift)))
                        source.append(slice(max(0, -shift), 32 - max(0, shift)))
                    twin, twin_mask = np.full((32, 32), -1.0), np.zeros((32, 32), bool)
                    twin[tuple(to)], twin_mask[tuple(to)] = image[tuple(source)], mask[tuple(source)]
                    inside = (twin > -0.99) & (twin < 0.99)
                    with np.errstate(divide="ignore"):
                        ratio = np.log((moved[i].numpy()[inside] + 1) / 2) / np.log((twin[inside] + 1) / 2)
                    # One gamma explains every pixel only if flip and shift are right.
                    if np.ptp(ratio) < 1e-3 and (moved[i].numpy()[twin == -1] == -1).all():
                        assert np.array_equal(moved_masks[i].numpy(), twin_mask)
                        assert abs(math.log(ratio.mean())) <= 0.3
                        found.append((flip, down, right))
        assert len(found) == 1
        kinds += found
    assert 8 < sum(flip for flip, *_ in kinds) < 32
    assert {down for _, down, _ in kinds} == {right for *_, right in kinds} == set(range(-3, 4))


def test_the_loss_is_cross_entropy_and_dice_of_the_batch():
    target = torch.zeros(2, 4, 5)
    target[0, 1, 1:4] = 1
    # Probability 1/2 everywhere: 40 px, 3 of them lesion.
    expected = math.log(2) + 1 - (2 * 1.5 + 1) / (20 + 3 + 1)
    assert segmentation_loss(torch.zeros_like(target), target).item() == pytest.approx(expected, rel=1e-6)
    assert segmentation_loss(40 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-6)
    nothing = torch.zeros(2, 4, 5)
    assert segmentation_loss(nothing - 40, nothing).item() == pytest.approx(0, abs=1e-6)


def test_a_segmenter_is_restored_from_its_file(learnt, tmp_path):
    path = tmp_path / "segmenter-100.safetensors"
    save_segmenter(path, learnt, {"fold": 3})
    again, facts = load_segmenter(path, CPU)
    assert facts == {"fold": 3}
    images = blobs(5, seed=8).images
    assert np.array_equal(predict(again, images), predict(learnt, images))
    assert [part.name for part in tmp_path.iterdir()] == [path.name]


def test_missing_and_invalid_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors.*slimdiff-segmenter"):
        load_segmenter(tmp_path / "absent.safetensors", CPU)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"other\.safetensors: expected the segmenter in its metadata, found none"
    ):
        load_segmenter(tmp_path / "other.safetensors", CPU)


def test_pairs_require_bool_masks():
    with pytest.raises(ValueError, match="uint8"):
        Pairs(np.zeros((2, 4, 4), np.float16), np.zeros((2, 4, 4), np.uint8))
    joined = blobs(2, seed=0) + blobs(3, seed=1)
    assert len(joined) == 5
    assert np.array_equal(joined.masks[2:], blobs(3, seed=1).masks)


def test_before_training_the_lesion_probability_is_low():
    with torch.no_grad():
        start = SegmentationUNet((16, 32), patch=1)(torch.randn(2, 1, 20, 24)).sigmoid()
    assert start.numpy() == pytest.approx(0.02, abs=1e-6)
