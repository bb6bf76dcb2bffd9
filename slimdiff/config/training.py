"""How the network is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import (
    Count,
    Device,
    Fraction,
    InheritingSection,
    NonNegative,
    PathText,
    Positive,
    PositiveInt,
    Real,
    Section,
    Seed,
)

Decay = Annotated[Real, Field(ge=0, lt=1)]


class AugmentationConfig(Section):
    """Augmentation with its parameters as network input, so that samples do not show it (Karras et al. 2022)."""

    probability: Fraction = 0.0
    """Probability, per sample, of each of: flip, move (rotation up to 8 degrees, scaling up to 8 %, shift up to 5 mm),
    gamma, bias field; 0: off."""
    flip: bool = True
    """Whether left and right may be exchanged."""


class ValidationConfig(Section):
    """Validation rounds on the fold's validation subjects: losses, KID and memorisation ratio R. They do not change
    what is learned, but can end the training early and select its weights. Without validation subjects there are
    none."""

    every: Count = 5000
    """Steps between rounds; the last step also has one. 0: off."""
    samples: Count = 128
    """Samples per round for KID and R (features of AlexNet); 0: losses only."""
    evaluations: Annotated[int, Field(ge=2, le=1000)] = 10
    """Network evaluations per sample."""
    patience: Count = 0
    """Stop after this many consecutive rounds without improvement in KID; 0: never."""
    lowest_ratio: NonNegative = 0.0
    """Stop if R is below this in two consecutive rounds, and never select weights of such a round; 0: off. At 1,
    samples are as far from the training slices as unseen subjects are."""
    select: Literal["last", "kid"] = "last"
    """The model's weights. `last`: those of the last step, averaged by `ema_decay`; `kid`: those of the round and decay
    with the lowest KID."""

    @property
    def decides(self) -> bool:
        """Whether the rounds can end the training or select its weights."""
        return bool(self.patience or self.lowest_ratio or self.select != "last")

    @model_validator(mode="after")
    def _has_effect(self):
        measured = bool(self.every and self.samples)
        for key, active in (
            ("patience", self.patience > 0),
            ("lowest_ratio", self.lowest_ratio > 0),
            ("select", self.select == "kid"),
        ):
            if active and not measured:
                raise ValueError(
                    f"{key} requires samples in each round: set validation.every and validation.samples above 0"
                )
        return self


class TrainingConfig(InheritingSection):
    """Muon or AdamW with a falling learning rate, EMA weights, and a fixed share of lesion slices."""

    steps: Count = 100_000
    """Optimiser steps; 0 writes the untrained network (a control)."""
    init: PathText | None = None
    """A model to start from: model.safetensors of a study, or an imported one (docs/pretraining.md); null: random
    weights."""
    init_sha256: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{8,64}$")] | None = None
    """sha256 of that file, or its first characters (8 or more): another file is an error; null: any."""
    init_missing: Literal["error", "random"] = "error"
    """What becomes of layers that have no weights in that file: an error, or random values."""
    batch_size: PositiveInt = 16
    """Slices per step (paper: 16-32)."""
    accumulate: PositiveInt = 1
    """Parts into which a batch is split if memory does not hold it; the step is the same up to rounding."""
    optimiser: Literal["muon", "adamw"] = "muon"
    """`muon`: Muon for the matrices and convolutions of the trunk, with 7 times the learning rate, and AdamW for the
    rest; `adamw`: AdamW for all (paper)."""
    learning_rate: Positive = 1e-4
    """Peak learning rate (paper: 1e-4)."""
    warmup_steps: Count = 0
    """Steps in which the rate rises linearly to its peak."""
    rate_decay: Literal["linear", "cosine"] = "linear"
    """How the rate falls after the warm-up. `linear`: to 0; `cosine`: to 1e-6 (paper)."""
    ema_decay: Decay = 0.999
    """Decay of the weights' moving average (paper: 0.999); at first it is min(decay, (1 + step) / (10 + step))."""
    further_ema_decays: tuple[Decay, ...] = ()
    """Decays of additional moving averages. Each is validated, can be selected, and is written as
    `ema-{decay}.safetensors`."""
    snapshots: tuple[PositiveInt, ...] = ()
    """Steps whose averaged weights are also written, as `snapshot-{step}.safetensors`: guides for
    `generation.guide`."""
    self_conditioning: Fraction = 0.0
    """Probability, per sample, that the network sees its previous estimate (paper: 0.5); requires
    `model.self_conditioning`."""
    condition_dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Probability, per sample, that position and class are hidden (published code: 0.1); requires
    `model.null_token`."""
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
    keep_state: bool = True
    """Whether the state of a finished training stays in `state/`, so that a larger `steps` resumes from it
    (docs/method.md). It takes 3 times the model's disk space with Muon, 4 times with AdamW, and once more for each
    further average: 325 or 431 MB per variant and fold for the paper's network."""
    seed: Seed | None = None
    """Seed of weights, batches, times and noise; null: the study's."""
    device: Device | None = None
    """Device of the training; null: the study's."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast on a GPU that has it, else float32. On processors with AMX bfloat16 may be faster
    (docs/performance.md)."""
    compile: bool | None = None
    """Whether to use torch.compile (a minute at the start, then faster steps); null: on CUDA. Without a compiler a line
    says so, and the training runs without it."""
    tensorboard: bool = True
    """Whether to write history, validation and previews also for TensorBoard, into `tensorboard/` beside the model."""
    wandb_project: str | None = None
    """Project of Weights & Biases to log to (`pip install slimdiff[wandb]`); null: none. Its environment variables
    apply, for example `WANDB_MODE=offline`; without a key or network it is offline."""
