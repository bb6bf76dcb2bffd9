"""Noise streams: standard normal, independent, identical in any order and batch and on any device."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from slimdiff.generation import noise as streams
from slimdiff.generation.noise import normal, philox, uniform
from slimdiff.generation.requests import stream_key

KEYS = [
    stream_key(0, 0, z_bin, label, 0, index) for z_bin in range(4) for label in (0, 1) for index in range(8)
]


def test_noise_is_standard_normal():
    noise = normal(KEYS, 0, (2, 24, 24)).double().numpy().ravel()
    n = noise.size
    assert abs(noise.mean()) < 4 / math.sqrt(n)
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((noise**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((noise**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert stats.kstest(noise, "norm").pvalue > 1e-3


def test_noise_of_keys_draws_and_pixels_is_independent():
    draws = np.stack([normal(KEYS, draw, (2, 24, 24)).double().numpy() for draw in range(3)])
    streams = draws.reshape(3 * len(KEYS), -1)
    n = streams.shape[1]
    correlation = np.corrcoef(streams)
    off = correlation[~np.eye(len(correlation), dtype=bool)]
    # The largest of m normal values of SD 1 / sqrt(n) is about sqrt(2 log m) SDs.
    assert np.abs(off).max() < 1.3 * math.sqrt(2 * math.log(off.size) / n)
    assert off.std() == pytest.approx(1 / math.sqrt(n), rel=0.05)
    # No repeated values and no correlation of neighbours.
    assert len(np.unique(streams)) > 0.99 * streams.size
    neighbours = (streams[:, 1:] * streams[:, :-1]).mean()
    assert abs(neighbours) < 4 / math.sqrt(streams.size)


@pytest.mark.parametrize("shape", [(2, 5), (7,), (2, 24, 24)])
def test_noise_is_the_same_in_any_order_and_batch(shape):
    whole = normal(KEYS, 2, shape)
    assert whole.shape == (len(KEYS), *shape)
    assert whole.dtype == torch.float32
    assert torch.equal(normal(KEYS[::-1], 2, shape).flip(0), whole)
    assert torch.equal(normal(KEYS[7:8], 2, shape), whole[7:8])
    normal(KEYS, 0, (3,))
    assert torch.equal(normal(KEYS, 2, shape), whole)


@pytest.mark.parametrize("draw", [0, 3, 999])
def test_philox_matches_numpy(draw):
    """Word for word equal to the generator of NumPy."""
    keys = [streams._words(key) for key in KEYS[:6]]
    found = philox(keys, draw, 50, torch.device("cpu")).numpy()
    for row, key in zip(found, keys, strict=True):
        words = np.random.Philox(key=key, counter=[0, 0, draw, 0]).random_raw(200)
        np.testing.assert_array_equal(row, words.view("<u4").astype(np.int64))


def test_products_of_unsigned_words_keep_their_highest_bit():
    rng = np.random.default_rng(0)
    words = np.concatenate(
        [rng.integers(0, 2**64, 200, np.uint64), np.array([0, 1, 2**63, 2**64 - 1], np.uint64)]
    )
    for factor in (0xD2E7470EE14C6C93, 0xCA5A826395121157, 2**64 - 1, 1):
        high, low = streams._product(torch.from_numpy(words.view(np.int64)), factor)
        for word, up, down in zip(
            words, high.numpy().view(np.uint64), low.numpy().view(np.uint64), strict=True
        ):
            assert int(word) * factor == int(up) * 2**64 + int(down)


def of_device(keys, draw, shape, device):
    """The code path of non-CPU devices, on any device."""
    count = math.prod(shape)
    words = philox([streams._words(key) for key in keys], draw, -(-count // 8), device)
    return streams._box_muller(words.float(), torch)[:, :count].reshape(-1, *shape)


def test_the_device_code_draws_the_same_as_the_cpu():
    found = of_device(KEYS, 4, (2, 24, 24), torch.device("cpu"))
    torch.testing.assert_close(found, normal(KEYS, 4, (2, 24, 24)), rtol=1e-5, atol=2e-6)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_as_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = normal(KEYS, 4, (2, 24, 24), torch.device("cuda")).cpu()
    torch.testing.assert_close(found, normal(KEYS, 4, (2, 24, 24)), rtol=1e-4, atol=1e-5)


def test_the_logarithm_of_zero_never_occurs():
    for word in (0, 2**32 - 1):
        words = np.full((1, 8), word, np.float32)
        assert np.isfinite(streams._box_muller(words, np)).all()


def test_uniform_numbers_are_uniform_and_independent_of_the_normal_ones():
    found = uniform([f"{key}/{i}" for key in KEYS for i in range(20)])
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert found[:3].tolist() == uniform([f"{KEYS[0]}/{i}" for i in range(3)]).tolist()
