"""The noise process and the objective."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import Fraction, NonNegative, Positive, PositiveInt, Real, Section


class FocalFrequencyConfig(Section):
    """Focal frequency loss on the image of the x0 estimate (Jiang et al. 2021)."""

    weight: NonNegative = 0.0
    """Weight of the term; 0: off (paper's runs: off)."""
    alpha: NonNegative = 1.3
    """How much more the frequencies that are far off weigh (reference: 1.2-1.35)."""
    patches: PositiveInt = 1
    """Pieces along each side whose spectra are taken apart (reference: 2)."""
    below: Annotated[Fraction, Field(gt=0)] = 1.0
    """Only for training times below this share of T; an epsilon network has no useful x0 estimate above 0.8."""


class PerceptualConfig(Section):
    """LPIPS on the image of the x0 estimate (Zhang et al. 2018); needs the pretrained weights of its backbone."""

    weight: NonNegative = 0.0
    """Weight of the term; 0: off (reference: 0.1)."""
    net: Literal["vgg", "alex"] = "vgg"
    """Backbone (reference: vgg)."""
    below: Annotated[Fraction, Field(gt=0)] = 0.5
    """Only for training times below this share of T (reference: 0.5)."""


class LossConfig(Section):
    """The terms of the objective: per-channel Lp, and what is switched on beside it (docs/method.md)."""

    p_image: Annotated[Real, Field(ge=1, le=4)] = 1.5
    """Exponent on the image channel (paper's best: 1.5)."""
    p_mask: Annotated[Real, Field(ge=1, le=4)] = 2.0
    """Exponent on the mask channel (paper's best: 2.0; threshold 0 is then P(lesion) > 1/2)."""
    space: Literal["target", "x0", "epsilon", "v"] = "target"
    """Where the difference is taken: the network's own target, or what follows from it (x0 with v: Li & He 2025)."""
    lesion_weight_image: Positive = 1.0
    """Weight of lesion pixels in the image channel, background 1; a slice's mean divides by the sum of its weights."""
    lesion_weight_mask: Positive = 1.0
    """Weight of lesion pixels in the mask channel, background 1."""
    min_snr_gamma: Positive | None = None
    """Cut of the signal-to-noise weight (Hang et al. 2023: 5); `null`: every noise level weighs the same."""
    uncertainty: Literal["none", "each", "groups"] = "none"
    """Learned weights of the terms (Kendall et al. 2018): one each, or image and mask together and one each further
    term; `none`: their plain sum."""
    focal_frequency: FocalFrequencyConfig = FocalFrequencyConfig()
    perceptual: PerceptualConfig = PerceptualConfig()


class DiffusionConfig(Section):
    """Variance-preserving diffusion in discrete training time, continuous at inference."""

    timesteps: Annotated[int, Field(ge=10)] = 1000
    """Training noise levels T (paper: 1000)."""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """Noise schedule (paper: cosine)."""
    prediction: Literal["x0", "epsilon", "v"] = "x0"
    """What the network predicts (paper's best: x0)."""
    loss: LossConfig = LossConfig()
