"""Synthetic slices, lesions and features for timing the metrics, generated from a seed."""

from dataclasses import dataclass

import numpy as np

N_BINS = 30
FEATURES = 2304  # as the AlexNet extractor's
CAUSES = 64
PER_SUBJECT = 50  # slices
_BLOCK = 250


@dataclass(frozen=True)
class Set:
    """Slices of one kind."""

    images: np.ndarray
    """(N, H, W) float16, in [-1, 1]."""
    masks: np.ndarray
    """(N, H, W), float16 in [-1, 1] for samples and uint8 {0, 1} for real slices."""
    features: np.ndarray
    """(N, 2304) float32."""
    z_bin: np.ndarray
    label: np.ndarray
    """(N,) 1 = lesion requested: every second slice."""
    subjects: np.ndarray

    @property
    def megabytes(self) -> float:
        return sum(getattr(self, name).nbytes for name in ("images", "masks", "features")) / 1e6


def made(n: int, side: int, seed: int, continuous: bool, shift: float = 0.0) -> Set:
    """n slices of side x side px; shift changes features, brightness and lesion size relative to shift 0."""
    rng = np.random.default_rng(seed)
    order = np.arange(n)
    z_bin, label = order // 2 % N_BINS, order % 2
    images = np.empty((n, side, side), np.float16)
    masks = np.empty((n, side, side), np.float16 if continuous else np.uint8)
    for start in range(0, n, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n))
        picture, lesion = _slices(z_bin[rows], label[rows], side, shift, rng)
        images[rows], masks[rows] = picture, lesion if continuous else lesion > 0
    return Set(images, masks, _features(n, shift, rng), z_bin, label, order // PER_SUBJECT)


def _slices(
    z_bin: np.ndarray, label: np.ndarray, side: int, shift: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    n, line = len(z_bin), np.linspace(-1, 1, side, dtype=np.float32)
    rows, columns = line[:, None], line
    reach = (0.55 + 0.3 * np.sin(np.pi * (z_bin + 1) / (N_BINS + 1))).astype(np.float32)
    noise = rng.standard_normal((n, side, side), np.float32)
    picture = np.float32(0.25) * _smooth(n, side, side // 10, rng) + np.float32(0.08) * noise
    lesion = np.full((n, side, side), -1, np.float32)
    asked = np.flatnonzero(label)
    lesion[asked] = _lesions(reach[asked], rows, columns, shift, rng)
    picture += np.float32(0.3 * (1 - shift)) * (lesion > 0)
    outside = np.hypot(rows, columns * np.float32(1.2)) > reach[:, None, None]
    np.clip(picture, -0.9, 1, out=picture)
    picture[outside] = -1
    return picture, lesion


def _lesions(
    reach: np.ndarray, rows: np.ndarray, columns: np.ndarray, shift: float, rng: np.random.Generator
) -> np.ndarray:
    """Continuous masks: about two of three slices have one lesion, the others two or three, of varied size."""
    n, side = len(reach), len(columns)
    field = np.full((n, side, side), -np.inf, np.float32)
    for place in range(3):
        there = np.arange(n) if place == 0 else np.flatnonzero(rng.random(n) < 1 / 5)
        angle = rng.uniform(0, 2 * np.pi, len(there)).astype(np.float32)
        far = rng.uniform(0, 0.75, len(there)).astype(np.float32) * reach[there]
        size = rng.lognormal(np.log(0.05 * (1 + shift)), 0.5, len(there)).astype(np.float32)
        row, column = (far * np.sin(angle))[:, None, None], (far * np.cos(angle) / 1.2)[:, None, None]
        blob = 1 - np.hypot(rows - row, columns - column.astype(np.float32)) / size[:, None, None]
        field[there] = np.maximum(field[there], blob)
    edge = np.float32(0.4) * _smooth(n, side, side // 5, rng)
    return np.clip(np.float32(1.5) * (field + edge), -1, 1)


def _smooth(n: int, side: int, coarse: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth fields (n, side, side) of unit variance, linearly interpolated from coarse x coarse noise."""
    at = np.linspace(0, coarse - 1, side)[:, None] - np.arange(coarse)
    weights = np.maximum(1 - np.abs(at), 0).astype(np.float32)
    smooth = weights @ rng.standard_normal((n, coarse, coarse), np.float32) @ weights.T
    return smooth / smooth.std()


def _features(n: int, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Rectified mixtures of few causes with channels of varied scale, similar to pooled network features."""
    shared = np.random.default_rng(0)
    mixing = shared.standard_normal((CAUSES, FEATURES), np.float32) / CAUSES**0.5
    scale = shared.gamma(0.5, 2, FEATURES).astype(np.float32)
    causes = rng.standard_normal((n, CAUSES), np.float32) + np.float32(shift) * (np.arange(CAUSES) < 8)
    noise = rng.standard_normal((n, FEATURES), np.float32) / 2
    return np.maximum(causes.astype(np.float32) @ mixing + noise + np.float32(0.3), 0) * scale
