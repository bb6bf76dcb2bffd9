"""The noise of each sample (docs/method.md, F4): counter-based, from the sample's name, whatever its batch.

Philox 4x64 with ten rounds (Salmon et al. 2011), keyed by the hash of the sample's name, with the draw as counter: any
draw of any sample can be computed alone. NumPy computes it on the host; on a GPU tensor operations give the same words
for all samples of a batch at once, so that a stochastic sampler does not wait for the host at every step. Box and
Muller (1958) make them normal: two words of 32 bits give two values, so the largest value is 6.66.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

HOST = torch.device("cpu")


def normal(keys: list[str], draw: int, shape: tuple[int, ...], device: torch.device = HOST) -> Tensor:
    """Standard normal draw number `draw` of each stream, float32 (len(keys), *shape) on the device.

    The same on every device up to the rounding of its logarithm and cosine; on a CPU the same bits always.
    """
    count = math.prod(shape)
    blocks = -(-count // 8)  # a counter gives eight words of 32 bits
    if device.type == "cpu":
        values = np.empty((len(keys), count), np.float32)
        for row, key in zip(values, keys, strict=True):
            words = _stream(key, draw).random_raw(4 * blocks).view(np.uint32)
            row[:] = _box_muller(words.astype(np.float32), np)[:count]
        return torch.from_numpy(values).reshape(-1, *shape)
    words = philox([_words(key) for key in keys], draw, blocks, device)
    return _box_muller(words.float(), torch)[:, :count].reshape(-1, *shape)


def uniform(keys: list[str]) -> np.ndarray:
    """One number in [0, 1) of each stream, float64 (len(keys),), apart from all its normal draws."""
    return np.array([np.random.Generator(_stream(key, 0, purpose=1)).random() for key in keys])


def _box_muller(words, library):
    """Normal values from 32-bit words as float32 (..., 2 n): every even word is a radius, every odd one an angle."""
    # Never 0, so that the logarithm is finite.
    radius = library.sqrt(-2 * library.log((words[..., 0::2] + 1) * 2.0**-32))
    angle = words[..., 1::2] * (2 * math.pi * 2.0**-32)
    halves = radius * library.cos(angle), radius * library.sin(angle)
    return np.concatenate(halves, -1) if library is np else torch.cat(halves, -1)


def _words(key: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], "<u8")


def _stream(key: str, draw: int, purpose: int = 0) -> np.random.Philox:
    return np.random.Philox(key=_words(key), counter=[0, 0, draw, purpose])


_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def philox(keys: list[np.ndarray], draw: int, blocks: int, device: torch.device) -> Tensor:
    """The words that `numpy.random.Philox(key, counter=[0, 0, draw, 0])` gives, for all keys at once.

    Args:
        keys: two uint64 each.
        draw: third word of the counter.
        blocks: counters a key; each gives four words of 64 bits.
        device: where they are computed. int64 holds the bits of uint64: sums and products wrap alike.

    Returns:
        int64 (len(keys), 8 blocks): the words' 32-bit halves, the low one first.
    """
    # NumPy raises the counter before the first block.
    counter = torch.arange(1, blocks + 1, device=device).expand(len(keys), blocks)
    words = [counter, torch.zeros_like(counter), torch.full_like(counter, draw), torch.zeros_like(counter)]
    key = torch.from_numpy(np.stack(keys).view(np.int64)).to(device)[:, :, None]
    for turn in range(_ROUNDS):
        high_0, low_0 = _product(words[0], _MULTIPLIERS[0])
        high_1, low_1 = _product(words[2], _MULTIPLIERS[1])
        first, second = (key[:, i] + _signed(turn * _WEYL[i]) for i in (0, 1))
        words = [high_1 ^ words[1] ^ first, low_1, high_0 ^ words[3] ^ second, low_0]
    halves = [half for word in words for half in (word & _LOW, word >> 32 & _LOW)]
    return torch.stack(halves, -1).flatten(1)


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of the 128-bit product of unsigned 64-bit numbers."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> 32 & _LOW, b & _LOW, b >> 32
    middle = a_high * b_low + (a_low * b_low >> 32 & _LOW)
    carry = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> 32 & _LOW) + (carry >> 32 & _LOW), a * _signed(b)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned number taken modulo 2^64."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value
