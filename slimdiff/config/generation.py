"""How samples are drawn."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import Fraction, PositiveInt, Real, Section, Seed


class GenerationConfig(Section):
    """Sampler and amount."""

    sampler: Literal["dpmpp_2m", "ddim"] = "dpmpp_2m"
    """`dpmpp_2m`: DPM-Solver++(2M); `ddim`: DDIM with `eta`."""
    evaluations: Annotated[int, Field(ge=2, le=1000)] = 25
    """Network evaluations a sample."""
    spacing: Literal["time", "log_snr"] = "time"
    """Noise levels: equal steps in training time (trailing), or in log signal-to-noise."""
    eta: Fraction = 0.0
    """DDIM's stochasticity (reference: 0.2)."""
    per_bin_and_class: PositiveInt = 100
    """Samples of each z-bin and class."""
    replicas: PositiveInt = 1
    """Independent repetitions of the whole set."""
    batch_size: PositiveInt = 32
    """Samples a network evaluation on a GPU; on a CPU every sample is drawn alone, one a core, which keeps its bits."""
    seed: Seed = 0
    """Study seed of the per-sample noise streams."""
    variant_in_key: bool = False
    """Whether the variant is part of a sample's noise key; if not, variants start from the same noise."""
    tau: Annotated[Real, Field(gt=-1, lt=1)] = 0.0
    """Mask threshold of the manifest's lesion_px."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: CUDA, else MPS, else CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """float32 keeps samples independent of the batch bit for bit on CPU."""
