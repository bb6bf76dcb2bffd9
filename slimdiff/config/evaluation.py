"""How samples are judged."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import NonNegative, Positive, PositiveInt, Real, Section, Seed

Extractor = Literal["alexnet", "vgg16", "inception"]


class EvaluationConfig(Section):
    """Metrics, their constants and their resampling (docs/method.md)."""

    extractors: tuple[Extractor, ...] = Field(default=("alexnet",), min_length=1)
    """Pretrained feature extractors of KID, FID, precision and recall; the first also serves memorisation."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """Backbone of LPIPS."""
    lpips_pairs: PositiveInt = 300
    """z-matched pairs of each LPIPS number."""
    tau: Annotated[Real, Field(gt=-1, lt=1)] = 0.0
    """Mask threshold."""
    min_component_mm2: NonNegative = 7.8125
    """Smallest lesion component, in mm2 (5 px of the paper's grid)."""
    ring_mm: Positive = 6.25
    """Width of the ring around a lesion in MMD-PL, in mm (5 px of the paper's grid)."""
    subsets: PositiveInt = 100
    """Seeded subsets that an MMD averages."""
    bootstrap: PositiveInt = 1000
    """Resamplings of the held-out subjects behind every interval."""
    seed: Seed = 0
    """Seed of subsets, pairs and resampling."""
