"""How samples are drawn."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Fraction, NonNegative, Positive, PositiveInt, Real, Section, Seed


class GenerationConfig(Section):
    """Sampler and amount."""

    sampler: Literal["dpmpp_2m", "dpmpp_2m_sde", "unipc", "ddim", "ddpm", "ddim_ref"] = "dpmpp_2m"
    """`dpmpp_2m`: DPM-Solver++(2M), `dpmpp_2m_sde` its stochastic form; `unipc`: UniPC-2; `ddim`: DDIM with `eta`;
    `ddpm`: ancestral; `ddim_ref`: DDIM from the reference's own noise levels, which may start where the data still
    shows (docs/method.md, F1): only to compare with its numbers. docs/sampling.md measures them."""
    evaluations: Annotated[int, Field(ge=2, le=1000)] = 25
    """Network evaluations a sample."""
    spacing: Literal["trailing", "leading", "log_snr"] = "trailing"
    """Noise levels: equal steps in training time, down from the noisiest (`trailing`) or up from the cleanest
    (`leading`, refused where the chain would then start with signal left), or in log signal-to-noise."""
    eta: Fraction = 0.0
    """DDIM's stochasticity (reference: 0.2)."""
    guidance: NonNegative = 1.0
    """Guidance: how far from the guide's prediction (0) through the network's own (1) and beyond; other than 1 it
    doubles the cost. The guide is the network without its condition (classifier-free, needs `model.null_token`), or
    `guide`."""
    guidance_interval: tuple[NonNegative, Positive] | None = None
    """Noise levels sigma between which guidance acts (Kynkäänniemi et al. 2024); `null`: everywhere."""
    guide: PositiveInt | None = None
    """Autoguidance (Karras et al. 2024): the step of `training.snapshots` whose earlier network is the guide, under the
    same condition; `null`: classifier-free."""
    acquisition: str = "mix"
    """With `model.acquisition`: the name of one, or `mix` for the training slices' own shares in each class."""
    per_bin_and_class: PositiveInt = 100
    """Samples of each z-bin and class."""
    counts: str | None = None
    """Instead: a TSV or CSV with the columns z_bin, class and n, or with one row a slice and no n (a study's
    slices.tsv); z-bins and classes that it does not name get none."""
    replicas: PositiveInt = 1
    """Independent repetitions of the whole set."""
    batch_size: PositiveInt = 32
    """Samples a network evaluation on a GPU; on a CPU every sample is drawn alone, one a core, which keeps its bits."""
    compile: bool | None = None
    """Whether the network goes through torch.compile (a minute at the start, then faster evaluations); `null`: on CUDA
    where 5,000 samples or more are drawn at once."""
    seed: Seed = 0
    """Study seed of the per-sample noise streams."""
    variant_in_key: bool = False
    """Whether the variant is part of a sample's noise key; if not, variants start from the same noise."""
    tau: Annotated[Real, Field(gt=-1, lt=1)] = 0.0
    """Mask threshold of the manifest's lesion_px, and of `binary`."""
    background: Literal["drawn", "prior"] = "drawn"
    """`prior`: what lies outside the z-bin prior of the fold becomes background (image and mask -1)."""
    binary: bool = False
    """Whether masks are written as -1 and 1, cut at `tau`, instead of continuous."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: CUDA, else MPS, else CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """float32 keeps samples independent of the batch bit for bit on CPU."""

    @model_validator(mode="after")
    def _has_effect(self):
        if self.guidance_interval and self.guidance == 1:
            raise ValueError("guidance_interval has no effect with guidance 1")
        if self.guide and self.guidance == 1:
            raise ValueError("guide has no effect with guidance 1")
        if self.sampler == "ddim_ref" and self.spacing != "trailing":
            raise ValueError(f"spacing {self.spacing} has no effect with sampler ddim_ref, which has its own")
        if self.eta and self.sampler not in ("ddim", "ddim_ref"):
            raise ValueError(f"eta {self.eta} has no effect with sampler {self.sampler}; ddim takes it")
        if self.counts and self.per_bin_and_class != 100:
            raise ValueError("counts and per_bin_and_class exclude each other; give one")
        return self

    @model_validator(mode="after")
    def _rising(self):
        if self.guidance_interval and not self.guidance_interval[0] < self.guidance_interval[1]:
            low, high = self.guidance_interval
            raise ValueError(f"guidance_interval {low}, {high}: the first has to be the smaller")
        return self
