"""How samples are drawn."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import (
    Device,
    Fraction,
    InheritingSection,
    NonNegative,
    PathText,
    Positive,
    PositiveInt,
    Seed,
    Tau,
)


class GenerationConfig(InheritingSection):
    """Sampler, number of samples, and how they are written."""

    sampler: Literal["dpmpp_2m", "dpmpp_2m_sde", "unipc", "ddim", "ddpm", "ddim_ref"] = "dpmpp_2m"
    """`dpmpp_2m`: DPM-Solver++(2M); `dpmpp_2m_sde`: its stochastic form; `unipc`: UniPC-2; `ddim`: DDIM with `eta`;
    `ddpm`: ancestral sampling; `ddim_ref`: DDIM from the published code's own noise levels, which can start with signal
    left (docs/method.md, F1); use it only to compare with its numbers. docs/sampling.md compares the samplers."""
    evaluations: Annotated[int, Field(ge=2, le=1000)] = 10
    """Network evaluations per sample; those of the Gaussian model (`diffusion.gaussian_above`) do not count."""
    spacing: Literal["trailing", "leading", "log_snr"] = "log_snr"
    """Spacing of the noise levels. `trailing`: equal steps in training time, down from the noisiest; `leading`: up from
    the cleanest (an error if the chain would start with signal left); `log_snr`: equal steps in the log of the
    signal-to-noise ratio."""
    calibrate_masks: bool = True
    """Whether the masks of class 1 are calibrated on the training slices, so that lesions have the right size and are
    not lost (docs/method.md). Without effect on checkpoints without calibration."""
    eta: Fraction = 0.0
    """Stochasticity of DDIM (published code: 0.2)."""
    guidance: NonNegative = 1.0
    """Guidance strength. 0: the guide's prediction; 1: the network's own (off); above 1: away from the guide. Other
    than 1 it doubles the cost. The guide is the network without its condition (classifier-free, requires
    `model.null_token`), or `guide`."""
    guidance_interval: tuple[NonNegative, Positive] | None = None
    """Noise levels sigma between which guidance is applied (Kynkäänniemi et al. 2024); null: all."""
    guide: PositiveInt | None = None
    """Autoguidance (Karras et al. 2024): the step of `training.snapshots` whose weights are the guide, with the same
    condition; null: classifier-free."""
    acquisition: str = "mix"
    """With `model.acquisition`: the name of one acquisition, or `mix`: each class has its shares in the training
    slices."""
    per_bin_and_class: PositiveInt = 100
    """Samples per z-bin and class."""
    counts: PathText | None = None
    """Number of samples, instead of `per_bin_and_class`: a TSV or CSV with the columns z_bin, class and n, or without n
    and one row per slice (such as a study's slices.tsv). z-bins and classes that are not listed have no samples."""
    where: Literal["seen", "everywhere"] = "seen"
    """z-bins in which class-1 samples are drawn: `seen`: only those in which at least two training subjects have a
    lesion, because lesions drawn elsewhere copy one subject or those of other z-bins; `everywhere`: all (paper). No
    effect on `counts`, specifications, `--mask` and `--region`, and on checkpoints imported or of earlier versions."""
    replicas: PositiveInt = 1
    """Independent repetitions of the whole set."""
    batch_size: PositiveInt = 32
    """Samples per network evaluation on a GPU. On a CPU each sample is drawn alone, one per core, which keeps its
    bits."""
    compile: bool | None = None
    """Whether to use torch.compile (a minute at the start, then faster evaluations); null: on CUDA for 5,000 samples or
    more."""
    seed: Seed | None = None
    """Seed of the per-sample noise streams; null: the study's."""
    variant_in_key: bool = False
    """Whether the variant is part of a sample's noise key; if not, all variants start from the same noise."""
    tau: Tau | None = None
    """Mask threshold of lesion_px in the manifest and of `binary`; null: the study's."""
    background: Literal["drawn", "prior", "outside"] = "outside"
    """`drawn`: as the network draws it (paper); `prior`: pixels outside the fold's z-bin prior become background (image
    and mask -1). `outside`: the faint glow and the frayed border that a network leaves around the brain become
    background (image -1): pixels in mostly dark surroundings that are connected to the border of the slice by such
    pixels."""
    binary: bool = False
    """Whether to write masks as -1 and 1, thresholded at `tau`, instead of continuous."""
    device: Device | None = None
    """Device of the sampling; null: the study's."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """With float32, samples on a CPU are bit-identical in any batch."""

    @model_validator(mode="after")
    def _has_effect(self):
        if self.guidance_interval and self.guidance == 1:
            raise ValueError("guidance_interval has no effect with guidance 1")
        if self.guide and self.guidance == 1:
            raise ValueError("guide has no effect with guidance 1")
        if self.sampler == "ddim_ref" and "spacing" not in self.model_fields_set:
            # It has its own levels. Recorded settings say so as before, whatever the default of the other samplers.
            self.__dict__["spacing"] = "trailing"
        if self.sampler == "ddim_ref" and self.spacing != "trailing":
            raise ValueError(
                f"spacing {self.spacing} has no effect with sampler ddim_ref, which has its own; remove it"
            )
        if self.eta and self.sampler not in ("ddim", "ddim_ref"):
            raise ValueError(
                f"eta {self.eta} has no effect with sampler {self.sampler}; use ddim, or remove it"
            )
        if self.counts and self.per_bin_and_class != 100:
            raise ValueError("counts and per_bin_and_class exclude each other; remove one")
        return self

    @model_validator(mode="after")
    def _rising(self):
        if self.guidance_interval and not self.guidance_interval[0] < self.guidance_interval[1]:
            low, high = self.guidance_interval
            raise ValueError(f"guidance_interval: expected the smaller number first, found {low}, {high}")
        return self
