import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from slimdiff import weights
from slimdiff.evaluation.metrics import features
from slimdiff.evaluation.metrics.features import EXTRACTORS, FeatureCache, extract, to_uint8
from slimdiff.evaluation.metrics.kid import kid

BOTH = pytest.mark.parametrize("extractor", ["alexnet", "efficientnet"])
"""Families whose weights are fetched here; the fixture of the same name skips the test where they are not available."""


@pytest.fixture(scope="module")
def grey(slice_pairs) -> np.ndarray:
    return to_uint8(slice_pairs[0])[:12]


def slow_alexnet(image: np.ndarray) -> np.ndarray:
    """AlexNet written out for one slice, with three explicit channels."""
    w = weights.load("alexnet")
    colour = np.repeat(image[None], 3, axis=0).astype(np.float64) / 255
    x = F.interpolate(torch.from_numpy(colour)[None], size=(224, 224), mode="bilinear", align_corners=False)
    # LPIPS's rounded constants: (2 colour - 1 - shift) / scale
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = ((2 * x - 1 - shift[:, None, None]) / scale[:, None, None]).double()
    parts = []
    for i, (stride, padding, pool) in enumerate(((4, 2, 1), (1, 2, 1), (1, 1, 0), (1, 1, 0), (1, 1, 0))):
        x = F.conv2d(x, w[f"conv{i}.weight"].double(), w[f"conv{i}.bias"].double(), stride, padding).clamp(
            min=0
        )
        values = x[0].reshape(x.shape[1], -1).numpy()
        parts += [values.mean(axis=1), values.std(axis=1)]
        x = F.max_pool2d(x, 3, 2) if pool else x
    return np.concatenate(parts)


def test_alexnet_features_agree_with_the_definition(alexnet, grey):
    found = extract(grey[:2], alexnet, progress=False)
    assert found.dtype == np.float32
    for vector, image in zip(found, grey, strict=False):
        assert vector == pytest.approx(slow_alexnet(image), rel=1e-3, abs=1e-4)


def test_f3_dimension_and_layer_are_declared(alexnet, grey):
    declared = EXTRACTORS[alexnet]
    assert declared.dim == 2 * (64 + 192 + 384 + 256 + 256)
    assert extract(grey[:1], alexnet, progress=False).shape == (1, declared.dim)
    assert (EXTRACTORS["inception"].dim, EXTRACTORS["inception"].layer) == (2048, "2048")


def test_f3_features_of_unexpected_size_are_an_error(grey, monkeypatch):
    monkeypatch.setattr(features, "_network", lambda *_: lambda batch: torch.zeros(len(batch), 1008))
    with pytest.raises(RuntimeError, match=r"\(12, 1008\), layer '2048' has \(12, 2048\)"):
        extract(grey, "inception", progress=False)


def test_f3_inception_gives_the_pool_and_not_the_logits(grey, monkeypatch, tmp_path):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    # only the layer is tested, not its values: an untrained network has the same layers
    torch.save({}, tmp_path / "untrained.pth")
    monkeypatch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    monkeypatch.setattr(weights, "path", lambda *_: tmp_path / "untrained.pth")
    features._network.cache_clear()
    try:
        assert extract(grey[:1], "inception", progress=False).shape == (1, 2048)
    finally:
        features._network.cache_clear()


def test_batch_size_does_not_change_a_feature(alexnet, grey):
    whole = extract(grey, alexnet, progress=False)
    for batch_size in (1, 5):
        parts = extract(grey, alexnet, batch_size=batch_size, progress=False)
        assert np.abs(parts - whole).max() <= 1e-6 * np.abs(whole).max()


def test_order_of_the_slices_does_not_change_a_feature(alexnet, grey):
    assert extract(grey[::-1], alexnet, progress=False)[::-1] == pytest.approx(
        extract(grey, alexnet, progress=False), abs=1e-5
    )


@BOTH
def test_f11_features_repeat_bit_for_bit(request, extractor, grey):
    request.getfixturevalue(extractor)
    assert np.array_equal(extract(grey, extractor, progress=False), extract(grey, extractor, progress=False))


def test_f12_same_slices_in_either_precision_have_the_same_features(alexnet, slice_pairs):
    single = np.random.default_rng(0).uniform(-1, 1, (4, 64, 64)).astype(np.float32)
    both = [
        extract(to_uint8(images), alexnet, progress=False) for images in (single, single.astype(np.float16))
    ]
    assert np.array_equal(*both)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (np.zeros((2, 64, 64), np.float32), TypeError, "float32"),
        (np.zeros((2, 3, 64, 64), np.uint8), ValueError, r"\(2, 3, 64, 64\)"),
    ],
)
def test_f2_only_uint8_slices_are_accepted(images, error, says):
    with pytest.raises(error, match=says):
        extract(images, "alexnet", progress=False)


def test_unknown_extractor_error_lists_the_known_ones(grey):
    with pytest.raises(KeyError, match="alexnet, vgg16, efficientnet, inception"):
        extract(grey, "resnet")


def test_no_slices_give_no_features(alexnet):
    assert extract(np.empty((0, 64, 64), np.uint8), alexnet, progress=False).shape == (0, 2304)


@BOTH
def test_features_detect_blur_noise_and_collapse(request, extractor, make_pairs):
    request.getfixturevalue(extractor)

    def features_of(images):
        return extract(to_uint8(np.clip(images, -1, 1)), extractor, progress=False)

    real, other = (make_pairs(40, seed)[0].astype(np.float32) for seed in (5, 6))
    of_real = features_of(real)
    floor = kid(of_real, features_of(other), seed=0).value
    noise = np.random.default_rng(0).normal(0, 0.1, other.shape) * (other > -0.95)
    blurred = ndimage.gaussian_filter(other, (0, 1, 1))
    repeated = other[np.arange(40) % 3]
    for worse in (blurred, other + noise, repeated):
        assert kid(of_real, features_of(worse), seed=0).value > 3 * abs(floor)


def test_cache_returns_stored_features_without_extracting_again(alexnet, grey, tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path / "features")
    first = cache.extract(grey, alexnet, progress=False)
    assert np.array_equal(first, extract(grey, alexnet, progress=False))
    monkeypatch.setattr(
        features, "extract", lambda *_, **__: pytest.fail("extracted again instead of read from the cache")
    )
    assert np.array_equal(cache.extract(grey.copy(), alexnet), first)
    assert {file.suffix for file in (tmp_path / "features").iterdir()} == {".npy", ".sha256"}


def test_cache_key_depends_on_content_extractor_and_weights(grey, tmp_path, monkeypatch):
    extracted = []

    def counted(images, extractor, **_):
        extracted.append(extractor)
        return np.zeros((len(images), EXTRACTORS[extractor].dim), np.float32)

    monkeypatch.setattr(features, "extract", counted)
    cache, changed = FeatureCache(tmp_path), grey.copy()
    changed[0, 0, 0] += 1
    for images, extractor in (
        (grey, "alexnet"),
        (changed, "alexnet"),
        (grey, "vgg16"),
        (grey[:, :32], "alexnet"),
    ):
        cache.extract(images, extractor)
    other = dataclasses.replace(weights.REGISTRY["alexnet"], tensors_sha256="0" * 64)
    monkeypatch.setitem(weights.REGISTRY, "alexnet", other)
    cache.extract(grey, "alexnet")
    assert len(extracted) == 5


def test_damaged_cache_file_is_replaced(grey, tmp_path, monkeypatch):
    vectors = np.ones((len(grey), 2304), np.float32)
    monkeypatch.setattr(features, "extract", lambda *_, **__: vectors)
    cache = FeatureCache(tmp_path)
    cache.extract(grey, "alexnet")
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(cache.extract(grey, "alexnet"), vectors)
    assert np.array_equal(np.load(file), vectors)


def test_features_need_no_torchvision_and_no_lpips():
    code = (
        "import sys; sys.modules['torchvision'] = sys.modules['lpips'] = sys.modules['skimage'] = None; "
        "sys.modules['scipy'] = sys.modules['torch_fidelity'] = sys.modules['timm'] = None; "
        "import slimdiff.weights, slimdiff.evaluation.metrics.features, slimdiff.evaluation.metrics.kid"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
