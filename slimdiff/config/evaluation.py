"""How samples are evaluated."""

from typing import Literal

from pydantic import Field

from slimdiff.config.base import InheritingSection, NonNegative, Positive, PositiveInt, Seed, Tau

Extractor = Literal["alexnet", "vgg16", "efficientnet", "inception", "dinov2"]


class EvaluationConfig(InheritingSection):
    """Metrics, their constants and their resampling (docs/metrics.md)."""

    extractors: tuple[Extractor, ...] = Field(default=("alexnet",), min_length=1)
    """Pretrained feature extractors of KID, FID, precision and recall; the first also serves the memorisation metrics.
    `dinov2` needs timm (the extra `dinov2`), and its weights in the weights folder."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of extractors, kernels and nearest neighbours. It does not follow the study's device: on a CPU the metrics
    are the same on every machine, on other devices they differ by rounding."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """Backbone of LPIPS."""
    lpips_pairs: PositiveInt = 300
    """z-matched pairs of slices behind each LPIPS value."""
    tau: Tau | None = None
    """Mask threshold; null: the study's."""
    taus: tuple[Tau, ...] = (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)
    """Thresholds at which the mask metrics are repeated (tau_sweep.tsv)."""
    min_component_mm2: NonNegative = 7.8125
    """Smallest lesion component, in mm2 (5 px of the paper's grid)."""
    ring_mm: Positive = 6.25
    """Width of the ring around a lesion in MMD-PL, in mm (5 px of the paper's grid)."""
    bootstrap: PositiveInt = 1000
    """Bootstrap resamples of the held-out subjects behind each interval; at most 100 for FID, precision and recall,
    which are slow."""
    reference: bool = False
    """Whether to repeat the published code's own procedures as metrics `*_ref` (docs/metrics.md)."""
    copies: bool = False
    """Whether to search for altered copies, means of two training slices and copied lesions, too (docs/metrics.md). It
    trains a small network for each fold: up to a minute of a core. Off by default: it was tried on planted copies only,
    not yet on the samples of trained models."""
    seed: Seed | None = None
    """Seed of subsets, pairs and resampling; null: the study's."""
