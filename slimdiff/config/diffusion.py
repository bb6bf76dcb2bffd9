"""The noise process and the objective."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Fraction, NonNegative, Positive, PositiveInt, Real, Section

WAVELET_WEIGHTS = (6.0, 2.0, 0.7, 0.25)
"""Weights of the Haar wavelets where the study sets none (docs/learning.md)."""


class FocalFrequencyConfig(Section):
    """Focal frequency loss on the image of the x0 estimate (Jiang et al. 2021)."""

    weight: NonNegative = 0.0
    """Weight of the term; 0: off (paper: off)."""
    alpha: NonNegative = 1.3
    """Exponent of the weight of frequencies with a large error (published code: 1.2-1.35)."""
    patches: PositiveInt = 1
    """Patches along each side; each has its own spectrum (published code: 2)."""
    below: Annotated[Fraction, Field(gt=0)] = 1.0
    """Only training times below this fraction of T. The x0 estimate of an epsilon network is not usable above 0.8."""


class PerceptualConfig(Section):
    """LPIPS (VGG16) on the image of the x0 estimate, for training times below T/2 (Zhang et al. 2018)."""

    weight: NonNegative = 0.0
    """Weight of the term; 0: off (published code: 0.1)."""


class LossConfig(Section):
    """The terms of the objective: an Lp loss per channel, and optional terms (docs/method.md)."""

    p_image: Annotated[Real, Field(ge=1, le=4)] = 1.5
    """Exponent of the image channel (paper's best: 1.5)."""
    p_mask: Annotated[Real, Field(ge=1, le=4)] = 2.0
    """Exponent of the mask channel (paper's best: 2.0; the threshold 0 then means P(lesion) > 1/2)."""
    space: Literal["target", "x0", "epsilon", "v"] = "target"
    """Where the difference is taken: the network's own target, or a quantity derived from it (x0 with v: Li & He
    2025)."""
    lesion_weight_image: Positive = 1.0
    """Weight of lesion pixels in the image channel; background has 1. The mean is divided by the sum of weights."""
    lesion_weight_mask: Positive = 1.0
    """Weight of lesion pixels in the mask channel; background has 1."""
    wavelet_weights: tuple[Positive, ...] | None = None
    """Weights of the image's Haar wavelets in the loss: of the details of 2 px, 4 px, ..., and last of the coarse rest.
    Details have little power, so without weights they are learned last. An empty list: pixels, unweighted (paper).
    null: 6, 2, 0.7, 0.25, as far as the sides can be halved, where the difference is taken on x0 and
    `lesion_weight_image` is 1; else pixels."""
    min_snr_gamma: Positive | None = 5.0
    """Maximum of the signal-to-noise weight (Hang et al. 2023: 5); null: all noise levels have the same weight
    (paper)."""
    min_snr_floor: NonNegative = 0.5
    """Minimum of the weight of `min_snr_gamma`, for a loss on x0 (Hang et al. 2023: 0). High noise decides the outline
    of the brain and the lesion."""
    uncertainty: Literal["none", "each", "groups"] = "none"
    """Learned weights of the terms (Kendall et al. 2018). `each`: one per term; `groups`: one for image and mask
    together, one per further term; `none`: the plain sum."""
    focal_frequency: FocalFrequencyConfig = FocalFrequencyConfig()
    perceptual: PerceptualConfig = PerceptualConfig()

    @model_validator(mode="after")
    def _ordered(self):
        if self.min_snr_gamma is not None and self.min_snr_floor > self.min_snr_gamma:
            raise ValueError(
                f"min_snr_floor: expected at most min_snr_gamma ({self.min_snr_gamma}), found {self.min_snr_floor}"
            )
        return self


class DiffusionConfig(Section):
    """Variance-preserving diffusion: discrete training times, continuous sampling times."""

    timesteps: Annotated[int, Field(ge=10)] = 1000
    """Training noise levels T (paper: 1000)."""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """Noise schedule (paper: cosine)."""
    prediction: Literal["x0", "epsilon", "v"] = "x0"
    """What the network predicts (paper's best: x0)."""
    gaussian_above: Annotated[Real, Field(ge=1)] | None = 8.0
    """Noise level sigma above which the estimate of the Gaussian model (`model.gaussian_components`) takes the place of
    the network, in training and sampling: it is as good there and costs next to nothing. null: nowhere. Without effect
    where the network has no Gaussian model."""
    loss: LossConfig = LossConfig()

    @property
    def loss_space(self) -> str:
        """Where the loss is taken: x0, epsilon or v."""
        return self.prediction if self.loss.space == "target" else self.loss.space

    def image_wavelets(self, height: int, width: int) -> tuple[float, ...]:
        """Weights of the image's wavelets on slices of this size in px; none: the loss is taken on pixels."""
        loss = self.loss
        if loss.wavelet_weights is not None:
            return loss.wavelet_weights
        if self.loss_space != "x0" or loss.lesion_weight_image != 1:
            return ()
        halvings = 0
        while halvings < len(WAVELET_WEIGHTS) - 1 and not (height | width) % 2 ** (halvings + 1):
            halvings += 1
        return WAVELET_WEIGHTS[: halvings + 1] if halvings else ()
