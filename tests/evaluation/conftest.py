"""Slices and masks that resemble real ones, and the pretrained weights if they are available."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from slimdiff import weights


def require(name: str) -> str:
    try:
        weights.path(name)
    except weights.WeightsUnavailable as error:
        pytest.skip(f"the pretrained weights '{name}' are not available here: {error}")
    return name


@pytest.fixture(scope="session")
def alexnet() -> str:
    return require("alexnet")


@pytest.fixture(scope="session")
def vgg16() -> str:
    return require("vgg16")


@pytest.fixture(scope="session")
def efficientnet() -> str:
    return require("efficientnet")


@pytest.fixture(scope="session")
def open_ms() -> Path:
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("SLIMDIFF_TEST_DATA", root.parent / "shared" / "data")) / "open_ms"
    if not folder.is_dir():
        pytest.skip(f"no real volumes at {folder}; set SLIMDIFF_TEST_DATA to the folder that holds open_ms")
    return folder


def pairs(n: int, seed: int, side: int = 64, contrast: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """n float16 slices in [-1, 1] of a textured round brain, and masks of lesions brighter by `contrast`."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    images, masks = [], []
    for _ in range(n):
        brain = np.hypot(x / generator.uniform(0.8, 1), y) < 0.42 * side
        texture = ndimage.gaussian_filter(generator.standard_normal((side, side)), 3)
        image = np.where(brain, -0.2 + 0.15 * texture / texture.std(), -1.0)
        angle, away = generator.uniform(0, 2 * np.pi), generator.uniform(0.05, 0.25) * side
        radius = generator.uniform(2.5, 5)
        shape = np.hypot(
            (x - away * np.cos(angle)) * generator.uniform(0.6, 1), y - away * np.sin(angle)
        ) + 0.7 * ndimage.gaussian_filter(generator.standard_normal((side, side)), 1.5)
        mask = shape < radius
        images.append(np.clip(image + contrast * ndimage.gaussian_filter(mask.astype(float), 0.7), -1, 1))
        masks.append(mask)
    return np.array(images, np.float16), np.array(masks)


@pytest.fixture(scope="session")
def make_pairs():
    return pairs


@pytest.fixture(scope="session")
def slice_pairs() -> tuple[np.ndarray, np.ndarray]:
    return pairs(40, seed=1)
