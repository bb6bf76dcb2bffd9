"""How the network is trained."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import Count, Fraction, NonNegative, Positive, PositiveInt, Real, Section, Seed


class AugmentationConfig(Section):
    """Augmentation whose parameters the network is told, so that samples show none of it (Karras et al. 2022)."""

    probability: Fraction = 0.0
    """Probability, per sample, of each of: flip, move (rotation, scale, shift together), gamma, bias field; 0: off."""
    flip: bool = True
    """Whether left and right may be exchanged."""
    max_rotation_deg: Annotated[Real, Field(ge=0, le=180)] = 8.0
    """Largest in-plane rotation, in degrees."""
    max_scale: Annotated[Real, Field(ge=0, lt=1)] = 0.08
    """Largest change of size, as a share."""
    max_shift_mm: NonNegative = 5.0
    """Largest shift along each axis, in mm."""
    max_log_gamma: NonNegative = 0.2
    """Largest |log gamma| of the image's grey values."""
    max_bias: NonNegative = 0.2
    """Largest |log| amplitude of each of three smooth fields over the image."""


class TrainingConfig(Section):
    """AdamW with a cosine learning rate, EMA weights, balanced lesion sampling."""

    steps: Count = 100_000
    """Optimiser steps; 0 writes the untrained network (a control)."""
    batch_size: PositiveInt = 16
    """Slices a step (paper: 16-32)."""
    accumulate: PositiveInt = 1
    """Parts a batch is taken in, one after the other, where memory does not hold it whole: the same step up to
    rounding, but terms with `below` are means over each part."""
    learning_rate: Positive = 1e-4
    """AdamW's peak learning rate (paper: 1e-4)."""
    final_learning_rate: NonNegative = 1e-6
    """Where the cosine ends (paper: 1e-6)."""
    warmup_steps: Count = 0
    """Linear warm-up before the cosine."""
    weight_decay: NonNegative = 1e-4
    """AdamW's weight decay (paper: 1e-4)."""
    gradient_clip: Positive = 1.0
    """Largest gradient norm (paper: 1.0)."""
    ema_decay: Annotated[Real, Field(ge=0, lt=1)] = 0.999
    """Decay of the weights' moving average; early on it is min(decay, (1 + step) / (10 + step)) (paper: 0.999)."""
    self_conditioning: Fraction = 0.5
    """Probability, per sample, of seeing the previous estimate (paper: 0.5)."""
    condition_dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Probability, per sample, that position and class are withheld (with `model.null_token`; reference: 0.1)."""
    lesion_share: Fraction = 0.5
    """Share of lesion slices in a batch (paper: 0.5)."""
    augmentation: AugmentationConfig = AugmentationConfig()
    preview_every: Count = 5000
    """Steps between previews of samples; 0: only at the end."""
    log_every: PositiveInt = 50
    """Steps between rows of history.tsv."""
    save_every: PositiveInt = 1000
    """Steps between saved resume states."""
    seed: Seed = 0
    """Seed of weights, batches, times and noise."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: CUDA, else MPS, else CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 autocast only where a timed step is faster than in float32."""
