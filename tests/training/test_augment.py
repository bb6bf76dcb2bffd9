"""Augmentations match their labels and do not appear in samples."""

import math

import numpy as np
import pytest
import torch
from helpers.tiny_training import CPU, MODEL
from scipy import ndimage

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.training import AugmentationConfig, TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.samplers import dpmpp_2m
from slimdiff.diffusion.schedule import make_schedule, sampling_sigmas
from slimdiff.model.checkpoint import load_model
from slimdiff.model.conditioning import Condition
from slimdiff.training import augment as augment_module
from slimdiff.training.augment import LABELS, Augment, Extents
from slimdiff.training.data import step_generator
from slimdiff.training.trainer import Trainer

HEIGHT, WIDTH = 20, 26
HALF = AugmentationConfig(probability=0.5)
STRONG = Extents(rotation_deg=30, scale=0.3, shift_mm=6)


def pairs(count=4, seed=0):
    """Smooth images in [-1, 1] and masks with one blob, away from the border."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(count, HEIGHT, WIDTH)), (0, 2, 2))
    window = np.zeros((HEIGHT, WIDTH))
    window[5:-5, 6:-6] = 1
    images = np.clip(ndimage.gaussian_filter(window, 1.5) * (1 + 2 * noise), 0, 1) * 2 - 1
    masks = np.full(images.shape, -1.0)
    for i in range(count):
        masks[i, 8 + i % 3 : 12 + i % 3, 9 + i : 13 + i] = 1
    return torch.from_numpy(np.stack([images, masks], axis=1)).float()


def labels_of(count=4, **values):
    labels = torch.zeros(count, len(LABELS))
    for name, value in values.items():
        labels[:, LABELS.index(name)] = value
    return labels


def test_samples_without_augmentation_are_unchanged():
    x0, prior = pairs(), pairs(seed=1)[:, 1:]
    found, labels, moved = Augment(HALF, 3.0, STRONG).apply(x0, labels_of(), prior)
    assert torch.equal(found, x0) and torch.equal(moved, prior) and not labels.any()


def test_a_flip_exchanges_left_and_right():
    x0 = pairs()
    found, _, _ = Augment(HALF, 3.0, STRONG).apply(x0, labels_of(flip=1))
    torch.testing.assert_close(found, x0.flip(3), rtol=0, atol=1e-5)


def test_a_shift_by_whole_pixels_moves_the_slice_and_fills_with_background():
    x0 = pairs()
    found, _, _ = Augment(HALF, 3.0, STRONG).apply(x0, labels_of(shift_x=1.0, shift_y=-0.5))
    expected = torch.full_like(x0, -1)
    expected[:, :, :-1, 2:] = x0[:, :, 1:, :-2]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"rotation": 1.0},
        {"rotation": -0.5},
        {"scale": 1.0},
        {"scale": -0.7},
        {"flip": 1.0, "rotation": 0.6, "scale": 0.4, "shift_x": 0.3, "shift_y": -0.8},
    ],
    ids=str,
)
def test_affine_transforms_match_scipy(values):
    x0, prior = pairs(), pairs(seed=1)[:, 1:]
    found, _, moved = Augment(HALF, 3.0, STRONG).apply(x0, labels_of(**values), prior)
    all_values = {**dict.fromkeys(LABELS, 0.0), **values}
    angle, size = math.radians(30 * all_values["rotation"]), 1 + 0.3 * all_values["scale"]
    # Forward transform in (column, row) about the centre: flip, then rotate and scale, then shift.
    turn = size * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ np.diag([1 - 2 * all_values["flip"], 1])
    shift = np.array([all_values["shift_x"], all_values["shift_y"]]) * 6 / 3
    back = np.linalg.inv(forward)[::-1, ::-1]  # in (row, column)
    centre = np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])
    offset = centre - back @ (centre + shift[::-1])
    for b in range(len(x0)):
        image, mask, own = (
            ndimage.affine_transform(z.double().numpy(), back, offset, order=1, mode="grid-constant", cval=-1)
            for z in (x0[b, 0], x0[b, 1], prior[b, 0])
        )
        np.testing.assert_allclose(found[b, 0], image, atol=1e-4)
        for binary, smooth in ((found[b, 1], mask), (moved[b, 0], own)):
            sure = np.abs(smooth) > 1e-4
            assert (np.where(smooth > 0, 1, -1)[sure] == binary.numpy()[sure]).all()


def test_masks_and_priors_stay_binary_and_images_in_range():
    augment = Augment(HALF, 3.0, STRONG)
    x0, prior = pairs(64), pairs(64, seed=1)[:, 1:]
    labels = augment.draw(64, step_generator(0, 0, CPU))
    found, _, moved = augment.apply(x0, labels, prior)
    assert set(found[:, 1].unique().tolist()) == set(moved.unique().tolist()) == {-1.0, 1.0}
    assert found[:, 0].min() >= -1 and found[:, 0].max() <= 1


def test_intensity_augmentation_is_gamma_and_a_bias_field_on_the_image_only():
    x0 = pairs()
    augment = Augment(AugmentationConfig(probability=1), 3.0, Extents(log_gamma=0.4, bias=0.3))
    found, _, _ = augment.apply(x0, labels_of(gamma=-0.5, bias_x=1.0, bias_radial=0.2))
    x, y = np.linspace(-1, 1, WIDTH)[None, :], np.linspace(-1, 1, HEIGHT)[:, None]
    field = np.exp(0.3 * (x + 0.2 * (x**2 + y**2 - 2 / 3)))
    expected = np.minimum(((x0[:, 0].numpy() + 1) / 2) ** math.exp(-0.2) * field, 1) * 2 - 1
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)
    assert torch.equal(found[:, 1], x0[:, 1])


def test_a_slice_that_would_lose_its_lesion_is_not_moved_and_has_zero_labels():
    x0 = pairs(2)
    x0[:, 1] = -1
    x0[0, 1, 10, 1] = 1  # two pixels from the left border
    found, labels, _ = Augment(HALF, 3.0, STRONG).apply(x0, labels_of(2, shift_x=-1.0, gamma=0.5))
    assert torch.equal(found[0, 1], x0[0, 1]) and (found[0, 1] > 0).sum() == 1
    assert labels[0].tolist() == labels_of(1, gamma=0.5)[0].tolist()
    # The second slice has no lesion.
    assert labels[1].tolist() == labels_of(1, shift_x=-1.0, gamma=0.5)[0].tolist()


def test_draws_have_the_configured_frequency_and_size():
    config = AugmentationConfig(probability=0.25, flip=False)
    labels = Augment(config, 3.0, Extents(scale=0.0)).draw(20_000, step_generator(0, 0, CPU))
    assert labels.abs().max() <= 1
    for name, index in {"rotation": 1, "shift_x": 3, "gamma": 5, "bias_radial": 8}.items():
        on = labels[:, index] != 0
        assert on.double().mean() == pytest.approx(0.25, abs=0.015), name
        assert labels[on, index].std() == pytest.approx(1 / math.sqrt(3), abs=0.02), name
    assert not labels[:, 0].any() and not labels[:, 2].any()
    # Rotation and shift are applied together; gamma is drawn independently.
    assert ((labels[:, 1] != 0) == (labels[:, 3] != 0)).all()
    assert ((labels[:, 1] != 0) & (labels[:, 5] != 0)).double().mean() == pytest.approx(0.0625, abs=0.01)


# Below: a network trained on rotated, scaled and flipped slices.

SIDE = 16
OFTEN = AugmentationConfig(probability=0.6)
TURNED = Extents(rotation_deg=40, scale=0.25, shift_mm=0, log_gamma=0, bias=0)


def comet(angle: float, size: float) -> np.ndarray:
    """An ellipse that is wider on the left, in [-1, 1]."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    along = (x * math.cos(angle) + y * math.sin(angle)) / size
    across = (-x * math.sin(angle) + y * math.cos(angle)) / size
    body = np.exp(-(((along / 4.5) ** 2 + (across / 1.8) ** 2) ** 2)) * (0.65 - 0.06 * along)
    return np.clip(body, 0, 1) * 2 - 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The store, and a network trained on it with augmentation."""
    rng = np.random.default_rng(0)
    images = np.stack([comet(rng.normal(0, 0.05), rng.normal(1, 0.02)) for _ in range(40)])
    masks = np.zeros(images.shape, np.uint8)
    masks[1::2, 7:10, 5:8] = 1
    facts = {"n_bins": 1, "spacing_mm": 6.0, "z_range": [0, 0], "bin_centres": [0.5]}
    facts["sha256"] = dict.fromkeys(("images", "masks", "slices"), "a" * 64)
    zeros = np.zeros(40, np.int64)
    label = np.arange(40) % 2
    names, acquisition = np.full(40, "sub-0"), np.full(40, "n/a")
    folder = tmp_path_factory.mktemp("comets")
    store = SliceStore(
        folder, images.astype(np.float16), masks, names, zeros, zeros, label, acquisition, facts
    )
    model = MODEL.model_copy(update={"channels": (24, 32), "attention": (False, False)})
    training = TrainingConfig(
        steps=700,
        batch_size=12,
        learning_rate=2e-3,
        warmup_steps=50,
        ema_decay=0.99,
        self_conditioning=0.5,
        augmentation=OFTEN,
        preview_every=0,
        device="cpu",
        precision="float32",
    )
    identity = {"study": "comets", "variant": "turned", "fold": 0}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(augment_module, "EXTENTS", TURNED)
        Trainer(model, DiffusionConfig(), training, store, ["sub-0"], folder, identity).run()
    return store, *load_model(folder / "model.safetensors", CPU)


@torch.inference_mode()
def sample(network, card, labels=None, count=60) -> np.ndarray:
    condition = Condition(torch.zeros(count, dtype=torch.long), torch.arange(count) % 2, augmentation=labels)
    schedule = make_schedule("cosine", 1000)
    sigmas = sampling_sigmas(schedule, 12)
    noise = torch.randn((count, 2, SIDE, SIDE), generator=torch.Generator().manual_seed(5))
    denoiser = Denoiser(network, schedule, "x0", condition=condition)
    drawn = dpmpp_2m(denoiser, noise * math.sqrt(1 + sigmas[0] ** 2), sigmas.tolist(), lambda step: noise)
    return drawn[:, 0].numpy()


def shape_of(images: np.ndarray) -> dict[str, np.ndarray]:
    """Angle of the long axis (rad), size (px) and left-right asymmetry of each image, from its moments."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    weight = np.clip(images.astype(float) + 1, 0, None)
    total = weight.sum(axis=(1, 2))
    mean = {n: (weight * z).sum(axis=(1, 2)) / total for n, z in (("x", x), ("y", y))}
    xx, yy, xy = ((weight * z).sum(axis=(1, 2)) / total for z in (x * x, y * y, x * y))
    xx, yy, xy = xx - mean["x"] ** 2, yy - mean["y"] ** 2, xy - mean["x"] * mean["y"]
    return {
        "angle": 0.5 * np.arctan2(2 * xy, xx - yy),
        "size": np.sqrt(xx + yy),
        "asymmetry": mean["x"],
    }


def test_samples_show_no_augmentation(trained):
    """Left-right asymmetry, rotation and scale of the samples vary as in the data, not as in training."""
    store, network, card = trained
    augment = Augment(OFTEN, 6.0, TURNED)
    pairs_ = torch.from_numpy(np.stack([store.images, store.masks * 2.0 - 1], axis=1).astype(np.float32))
    every = pairs_.repeat(10, 1, 1, 1)
    rotated, _, _ = augment.apply(every, augment.draw(len(every), step_generator(1, 0, CPU)))
    data, trained_on = shape_of(store.images), shape_of(rotated[:, 0].numpy())
    samples = shape_of(sample(network, card))
    # Half of the training set is mirrored, and its rotation and scale vary far more than in the data.
    assert (data["asymmetry"] < 0).all() and 0.4 < (trained_on["asymmetry"] > 0).mean() < 0.7
    assert (samples["asymmetry"] < 0).all()
    assert np.median(samples["asymmetry"]) == pytest.approx(np.median(data["asymmetry"]), rel=0.3)
    for what in ("angle", "size"):
        far = trained_on[what].std() / data[what].std()
        assert far > 3, what
        assert samples[what].std() < 1.5 * data[what].std(), what
        assert abs(samples[what].mean() - data[what].mean()) < 0.35 * trained_on[what].std(), what


def test_the_network_follows_the_augmentation_labels(trained):
    """Samples conditioned on a flip, a rotation or a scale show it."""
    _, network, card = trained
    plain = shape_of(sample(network, card))
    flipped = shape_of(sample(network, card, labels_of(60, flip=1)))
    assert (flipped["asymmetry"] > 0).mean() > 0.9
    rotated = shape_of(sample(network, card, labels_of(60, rotation=0.7)))
    # The label is 28 degrees; the tolerance is wide because the training is short.
    assert math.radians(11) < np.median(rotated["angle"] - plain["angle"]) < math.radians(40)
    large = shape_of(sample(network, card, labels_of(60, scale=0.8)))
    assert np.median(large["size"] / plain["size"]) == pytest.approx(1.2, abs=0.08)
