"""Every sample's own noise (docs/method.md, F4): counter-based, derived from what the sample is, not from its batch."""

import hashlib

import numpy as np


def stream_key(
    seed: int, fold: int, z_bin: int, label: int, replica: int, index: int, variant: str | None = None
) -> str:
    """The readable name of a sample's noise stream; it stands in the manifest."""
    name = f"seed={seed}/fold={fold}/zbin={z_bin}/class={label}/replica={replica}/index={index}"
    return f"{name}/variant={variant}" if variant else name


def normal(keys: list[str], draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal draw number `draw` of each stream, float32 (len(keys), *shape).

    Philox (Salmon et al. 2011) with the key's hash as key and the draw as counter: draws can be made in any order.
    """
    return np.stack([_stream(key, draw).standard_normal(shape, dtype=np.float32) for key in keys])


def uniform(keys: list[str]) -> np.ndarray:
    """One number in [0, 1) of each stream, float64 (len(keys),), apart from all its normal draws."""
    return np.array([_stream(key, 0, purpose=1).random() for key in keys])


def _stream(key: str, draw: int, purpose: int = 0) -> np.random.Generator:
    words = np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], np.uint64)
    return np.random.Generator(np.random.Philox(key=words, counter=[0, 0, draw, purpose]))
