"""A store, a network and a device small enough to train in a test."""

import numpy as np
import torch

from slimdiff.config.model import ModelConfig
from slimdiff.data.store import SliceStore
from slimdiff.model.build import DataSpec

CPU = torch.device("cpu")
DATA_SPEC = DataSpec(size=(8, 8), n_bins=3, bin_centres=[0.5, 1.5, 2.5])
MODEL = ModelConfig(channels=(16,), res_blocks=1, attention=(False,), head_channels=16, norm_groups=8)
PARTICIPANTS = ["sub-0", "sub-1", "sub-2"]


def tiny_store(tmp_path, count=24, side=8) -> SliceStore:
    """Discs of three sizes, half of them with a lesion; four participants."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    bins, label = np.arange(count) % 3, np.arange(count) // 3 % 2
    images = np.stack([np.where(np.hypot(x, y) < 2 + b, 0.2, -1.0) for b in bins])
    masks = np.zeros(images.shape, np.uint8)
    masks[label == 1, 3:5, 3:6] = 1
    images = np.clip(images + 0.6 * masks + rng.normal(0, 0.05, images.shape), -1, 1).astype(np.float16)
    facts = {
        "n_bins": 3,
        "spacing_mm": 6.0,
        "z_range": [0, 2],
        "bin_centres": [0.5, 1.5, 2.5],
        "sha256": {"images": "a" * 64, "masks": "b" * 64, "slices": "c" * 64},
    }
    names = np.array([f"sub-{i % 4}" for i in np.arange(count) // 6])
    acquisition = np.where(np.arange(count) % 4 == 0, "T2sel", "tse3dvfl")
    return SliceStore(tmp_path, images, masks, names, bins.copy(), bins, label, acquisition, facts)
