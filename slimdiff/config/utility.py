"""Whether synthetic pairs help a segmenter."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from slimdiff.config.base import Positive, PositiveInt, Real, Section, Seed

Share = Annotated[Real, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=16, multiple_of=16)]


class UtilityConfig(Section):
    """Small segmenters trained on real slices, on samples and on both, judged on the fold's held-out subjects
    (docs/method.md). Every training takes the same number of steps, whatever its set's size."""

    enabled: bool = True
    """Whether segmenters are trained at all."""
    shares: tuple[Share, ...] = Field(default=(0.25, 0.5, 1.0), min_length=1)
    """Shares of the training subjects whose real slices are used, alone and together with all samples; whole percents.
    The largest also stands beside the segmenter of samples alone, and is the one that is tested on samples."""
    synthetic_per_real: Positive | None = None
    """Real and synthetic together: most samples of each class a real slice of it; `null`: all samples."""
    channels: tuple[Width, ...] = Field(default=(32, 64, 128), min_length=1)
    """Feature channels a level of the U-Net, finest first, multiples of 16; one residual block a level, attention in
    the middle only."""
    patch: Literal[1, 2, 4] = 1
    """Space-to-depth factor before the first and after the last convolution."""
    members: PositiveInt = 1
    """Networks of a segmenter, from further seeds each, whose probabilities are averaged: more of them take the chance
    of a single training out of the comparison."""
    steps: PositiveInt = 4000
    """Optimiser steps of each network."""
    batch_size: PositiveInt = 16
    """Slices a step, half of them with a lesion."""
    learning_rate: Positive = 1e-3
    """AdamW's peak rate, after a tenth of the steps; a cosine brings it down to 0."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: CUDA, else MPS, else CPU."""
    seed: Seed = 0
    """Seed of shares, weights, batches and augmentation."""

    @field_validator("shares")
    @classmethod
    def _whole_percents(cls, shares):
        for share in shares:
            if abs(100 * share - round(100 * share)) > 1e-6:
                raise ValueError(f"{share} is no whole number of percents")
        if len({round(100 * share) for share in shares}) < len(shares):
            raise ValueError("a share stands there twice")
        return shares

    @property
    def percents(self) -> tuple[int, ...]:
        """The shares in percent, ascending."""
        return tuple(sorted(round(100 * share) for share in self.shares))
