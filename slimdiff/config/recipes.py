"""Named recipes: what a study's `recipe` sets wherever the study itself sets nothing."""

from collections.abc import Mapping
from typing import Any

PUBLISHED = {
    "model": {"gaussian_components": 0},
    "diffusion": {"loss": {"p_mask": 1.5}},
    "training": {"optimiser": "adamw"},
    "generation": {"sampler": "ddim", "evaluations": 300, "eta": 0.2},
}
"""The paper's values (arXiv 2602.03372) of all keys whose default is another one."""
RECIPES: dict[str, Mapping[str, Any]] = {"default": {}, "published": PUBLISHED}


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """A study's mapping with the values of its recipe where it has none; unchanged where there is no such recipe."""
    recipe = values.get("recipe", "default")
    below = RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}
    return _under(below, values)


def _under(below: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in below.items():
        own = merged.get(key)
        if key not in merged:
            merged[key] = value
        elif isinstance(own, Mapping) and isinstance(value, Mapping):
            merged[key] = _under(value, own)
    return merged
