"""The published procedures against independent computations, written from docs/metrics.md alone."""

import numpy as np
import pytest
import torch

from slimdiff.evaluation.metrics.as_published import kid_ref, lpips_ref, wrapped_uint8
from slimdiff.evaluation.metrics.features import extract
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.kid import kid


def test_f2_grey_levels_wrap_as_in_the_published_code():
    levels = np.array([0, 63, 127, 191, 255])
    # Resizing does not change a slice of one grey level; 0.25 is added because values are truncated.
    flat = np.clip((levels + 0.25) / 127.5 - 1, -1, 1)[:, None, None] * np.ones((1, 40, 40))
    wrapped = wrapped_uint8(flat.astype(np.float32))
    assert wrapped.shape == (5, 299, 299)
    assert [np.unique(image).tolist() for image in wrapped] == [[0], [193], [129], [65], [1]]


def test_f2_to_uint8_does_not_wrap(slice_pairs):
    images = slice_pairs[0][:2]
    plain = to_uint8(images).astype(int)
    assert np.abs(plain - (images.astype(np.float32) + 1) * 127.5).max() <= 0.51
    assert np.abs(wrapped_uint8(images).astype(int).mean() - plain.mean()) > 20


def test_kid_ref_agrees_with_an_independent_computation(alexnet, slice_pairs, make_pairs):
    real, synthetic = slice_pairs[0], make_pairs(26, seed=7, contrast=0.1)[0]

    def features(images):
        share = torch.from_numpy((images.astype(np.float32) + 1) / 2)[:, None]
        large = torch.nn.functional.interpolate(share, (299, 299), mode="bilinear", align_corners=False)
        bytes_ = (large[:, 0] * 255).numpy().astype(np.uint8)
        return extract(((256 - bytes_.astype(int)) % 256).astype(np.uint8), alexnet, progress=False).astype(
            float
        )

    x, y = features(real), features(synthetic)
    size, dim = 13, x.shape[1]  # half of the smaller set, which has fewer than 1000
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(100):
        a, b = (f[torch.randperm(len(f), generator=generator)[:size].numpy()] for f in (x, y))

        def k(u, v):
            return (np.dot(u, v) / dim + 1) ** 3

        within = sum(k(s[i], s[j]) for s in (a, b) for i in range(size) for j in range(size) if i != j)
        across = sum(k(u, v) for u in a for v in b)
        values.append(within / (size * (size - 1)) - 2 * across / size**2)
    found = kid_ref(real, synthetic, alexnet, seed=5)
    assert found.subset_size == size
    assert found.value == pytest.approx(np.mean(values), rel=1e-6)
    assert found.sd == pytest.approx(np.std(values), rel=1e-5)
    assert found.value != pytest.approx(kid(x, y, seed=5).value, rel=1e-3)


def test_kid_ref_of_too_few_slices_is_nan(alexnet, slice_pairs):
    assert np.isnan(kid_ref(slice_pairs[0], slice_pairs[0][:9], alexnet, seed=0).value)


def test_lpips_ref_averages_a_thousand_pairs_of_any_z(vgg16, slice_pairs, make_pairs, monkeypatch):
    from slimdiff.evaluation.metrics import as_published

    real, synthetic = slice_pairs[0][:9], make_pairs(12, seed=3)[0]
    distance = as_published.perceptual_loss("vgg", "cpu")
    table = np.empty((9, 12))
    with torch.inference_mode():
        for i, image in enumerate(real):
            pair = torch.from_numpy(image.astype(np.float32))[None, None].expand(12, -1, -1, -1)
            table[i] = distance(pair, torch.from_numpy(synthetic.astype(np.float32))[:, None]).numpy()
    assert table.std() > 0.01
    generator = np.random.RandomState(4)
    n = min(1000, 9 * 12)
    chosen = table[generator.choice(9, n, replace=True), generator.choice(12, n, replace=True)]
    mean, sd, count = lpips_ref(real, synthetic, seed=4)
    assert count == n
    assert (mean, sd) == pytest.approx((chosen.mean(), chosen.std()), rel=1e-4)
