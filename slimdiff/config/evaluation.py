"""How samples are judged."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import NonNegative, Positive, PositiveInt, Real, Section, Seed

Extractor = Literal["alexnet", "vgg16", "inception", "dinov2"]
Tau = Annotated[Real, Field(gt=-1, lt=1)]


class EvaluationConfig(Section):
    """Metrics, their constants and their resampling (docs/method.md)."""

    extractors: tuple[Extractor, ...] = Field(default=("alexnet",), min_length=1)
    """Pretrained feature extractors of KID, FID, precision and recall; the first also serves memorisation. `dinov2`
    wants its weights put into the weights folder by hand."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where extractors, kernels and nearest neighbours run. Numbers differ between devices by rounding errors."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """Backbone of LPIPS."""
    lpips_pairs: PositiveInt = 300
    """z-matched pairs of each LPIPS number."""
    tau: Tau = 0.0
    """Mask threshold."""
    taus: tuple[Tau, ...] = (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)
    """Thresholds at which the mask metrics are repeated (tau_sweep.tsv)."""
    min_component_mm2: NonNegative = 7.8125
    """Smallest lesion component, in mm2 (5 px of the paper's grid)."""
    ring_mm: Positive = 6.25
    """Width of the ring around a lesion in MMD-PL, in mm (5 px of the paper's grid)."""
    subsets: PositiveInt = 100
    """Seeded subsets that an MMD averages."""
    bootstrap: PositiveInt = 1000
    """Resamplings of the held-out subjects behind every interval."""
    bootstrap_slow: PositiveInt = 100
    """The same, of FID, precision and recall: each costs a decomposition or a look at all distances."""
    permutations: PositiveInt = 500
    """Permutations behind the p of the robust MMD."""
    reference: bool = False
    """Whether the reference's own procedures are repeated beside ours, as `*_ref` (docs/metrics.md)."""
    seed: Seed = 0
    """Seed of subsets, pairs and resampling."""
