"""A tiny phantom study, and samples of a known kind for it: grey blobs, or copies of training slices."""

import numpy as np
from helpers.synthetic import SMALL_NETWORK

FOLDS = 2
PER_CELL = 6
PHANTOM = {
    "study": "phantom",
    "data": {"source": "phantom", "phantom": {"patients": 12, "controls": 2, "seed": 3}},
    "preprocess": {"spacing_mm": 6.25, "grid": [32, 32, 32]},
    "slices": {"z_range": [12, 23], "n_bins": 3, "min_lesion_mm2": 78.0},
    "folds": {"k": FOLDS},
    "model": SMALL_NETWORK,
    "evaluation": {
        "extractors": ["alexnet"],
        "lpips_pairs": 20,
        "bootstrap": 100,
        "device": "cpu",
        "min_component_mm2": 78.0,
        "ring_mm": 12.5,
    },
    "utility": {"enabled": False},
    "report": {"title": "Phantom & blobs", "notice": "phantom data, no patients"},
}


def grey_blobs(store, rows, rng):
    """Blobs of one grey instead of slices: a soft ellipse, and a disc as the lesion."""
    y, x = np.indices(store.size)
    middle = (np.array(store.size) - 1) / 2
    images, masks = [], []
    for row in rows:
        radius = np.hypot((y - middle[0]) / 12, (x - middle[1]) / 10) + rng.normal(0, 0.02)
        images.append(np.clip(1.2 / (1 + np.exp(12 * (radius - 1))) - 1, -1, 1))
        disc = np.hypot(y - rng.integers(10, 22), x - rng.integers(12, 20)) < 3
        masks.append(np.where(disc & (store.label[row] == 1), 1, -1))
    return np.array(images, np.float16), np.array(masks, np.float16)


def real_slices(store, rows, rng):
    """Slices of training subjects: what a perfect model could draw, and a copying one."""
    return np.asarray(store.images[rows]), 2 * np.asarray(store.masks[rows], np.float16) - 1
