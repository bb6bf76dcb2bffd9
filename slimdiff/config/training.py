"""How the network is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Count, Fraction, NonNegative, Positive, PositiveInt, Real, Section, Seed
from slimdiff.config.evaluation import Extractor

Decay = Annotated[Real, Field(ge=0, lt=1)]


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


class ValidationConfig(Section):
    """Rounds of watching on the fold's validation subjects. They change nothing of what is learnt, but may end the
    training early and choose its weights. Off where the fold has no validation subject."""

    every: Count = 5000
    """Steps between rounds; the last step has one too. 0: off."""
    slices: PositiveInt = 256
    """Most slices of the validation subjects that a round's losses are taken of."""
    samples: Count = 128
    """Samples a round that are judged by KID and memorisation ratio R; 0: losses only."""
    evaluations: Annotated[int, Field(ge=2, le=1000)] = 15
    """Network evaluations of each of these samples."""
    extractor: Extractor = "alexnet"
    """Whose features KID and R are taken of; without its weights a round has losses only, and says so."""
    patience: Count = 0
    """Rounds on end without a lower KID after which training stops; 0: never."""
    lowest_ratio: NonNegative = 0.0
    """Training stops where R of two rounds on end lies below this, and weights of such a round are never chosen;
    0: off. 1: samples are as far from the training slices as unseen subjects are."""
    select: Literal["last", "kid"] = "last"
    """The model's weights: `last`, those of the last step averaged by `ema_decay`; `kid`, those of the round and decay
    with the lowest KID."""

    @property
    def decides(self) -> bool:
        """Whether the rounds may end the training or choose its weights."""
        return bool(self.patience or self.lowest_ratio or self.select != "last")

    @model_validator(mode="after")
    def _has_effect(self):
        judged = bool(self.every and self.samples)
        for key, wanted in (
            ("patience", self.patience > 0),
            ("lowest_ratio", self.lowest_ratio > 0),
            ("select", self.select == "kid"),
        ):
            if wanted and not judged:
                raise ValueError(f"{key} needs samples to judge: set every and samples above 0")
        return self


class TrainingConfig(Section):
    """AdamW with a cosine learning rate, EMA weights, balanced lesion sampling."""

    steps: Count = 100_000
    """Optimiser steps; 0 writes the untrained network (a control)."""
    batch_size: PositiveInt = 16
    """Slices a step (paper: 16-32)."""
    accumulate: PositiveInt = 1
    """Parts a batch is taken in, one after the other, where memory does not hold it whole: the same step up to
    rounding."""
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
    ema_decay: Decay = 0.999
    """Decay of the weights' moving average; early on it is min(decay, (1 + step) / (10 + step)) (paper: 0.999)."""
    further_ema_decays: tuple[Decay, ...] = ()
    """More moving averages to keep beside it: each is watched too, can be chosen, and is written as
    `ema-{decay}.safetensors`."""
    snapshots: tuple[PositiveInt, ...] = ()
    """Steps after which the averaged weights are kept too, as `snapshot-{step}.safetensors`: guides for
    `generation.guide`. No part of what is learnt."""
    self_conditioning: Fraction = 0.5
    """Probability, per sample, of seeing the previous estimate (paper: 0.5)."""
    condition_dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Probability, per sample, that position and class are withheld (with `model.null_token`; reference: 0.1)."""
    lesion_share: Fraction = 0.5
    """Share of lesion slices in a batch (paper: 0.5)."""
    augmentation: AugmentationConfig = AugmentationConfig()
    validation: ValidationConfig = ValidationConfig()
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
    """`auto`: bfloat16 autocast on a GPU that has it; on a CPU only where a timed step is faster than in float32."""
    compile: bool | None = None
    """Whether the network goes through torch.compile (a minute at the start, then faster steps); `null`: on CUDA."""
    slices_on: Literal["auto", "device", "disk"] = "auto"
    """Where the training slices lie: on the device (3 bytes a pixel), or in the slice store, read ahead step by step;
    `auto`: on the device where they take no more than half of its free memory. The batches are the same."""
    tensorboard: bool = True
    """Whether history, validation and previews are also written for TensorBoard, in `tensorboard/` beside the model."""
    wandb_project: str | None = None
    """Also log to this project of Weights & Biases (`pip install slimdiff[wandb]`); its environment variables hold,
    `WANDB_MODE=offline` for example."""
