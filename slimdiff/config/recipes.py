"""Named recipes: what a study's `recipe` sets wherever the study itself sets nothing."""

from collections.abc import Mapping
from typing import Any

from slimdiff.config.base import merged

PUBLISHED = {
    "model": {"gaussian_components": 0, "self_conditioning": True},
    "diffusion": {"loss": {"p_mask": 1.5, "wavelet_weights": (), "min_snr_gamma": None}},
    "training": {"optimiser": "adamw", "rate_decay": "cosine", "self_conditioning": 0.5},
    "generation": {
        "sampler": "ddim",
        "evaluations": 300,
        "spacing": "trailing",
        "eta": 0.2,
        "calibrate_masks": False,
        "background": "drawn",
        "where": "everywhere",
    },
}
"""The paper's values (arXiv 2602.03372) of all keys whose default is another one."""


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """A study's mapping, over the values of its recipe."""
    return merged(PUBLISHED if values.get("recipe") == "published" else {}, values)
