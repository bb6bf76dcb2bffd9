"""The noise process and the objective."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import Positive, Real, Section


class LossConfig(Section):
    """Per-channel Lp in the target's own space (docs/method.md)."""

    p_image: Annotated[Real, Field(ge=1, le=4)] = 1.5
    """Exponent on the image channel (paper's best: 1.5)."""
    p_mask: Annotated[Real, Field(ge=1, le=4)] = 2.0
    """Exponent on the mask channel (paper's best: 2.0; threshold 0 is then P(lesion) > 1/2)."""
    lesion_weight: Positive = 1.0
    """Weight of lesion pixels in the mask channel, background 1."""


class DiffusionConfig(Section):
    """Variance-preserving diffusion in discrete training time, continuous at inference."""

    timesteps: Annotated[int, Field(ge=10)] = 1000
    """Training noise levels T (paper: 1000)."""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """Noise schedule (paper: cosine)."""
    prediction: Literal["x0", "epsilon", "v"] = "x0"
    """What the network predicts (paper's best: x0)."""
    loss: LossConfig = LossConfig()
