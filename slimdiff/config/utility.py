"""Whether synthetic pairs help a segmenter."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from slimdiff.config.base import Device, InheritingSection, Positive, PositiveInt, Real, Seed

Share = Annotated[Real, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=16, multiple_of=16)]


class UtilityConfig(InheritingSection):
    """Small segmenters trained on real slices, on samples and on both, tested on the fold's held-out subjects
    (docs/metrics.md). Every training has the same number of steps, whatever the size of its set."""

    enabled: bool = True
    """Whether segmenters are trained at all."""
    shares: tuple[Share, ...] = Field(default=(0.25, 0.5, 1.0), min_length=1)
    """Shares of the training subjects whose real slices are used, alone and together with all samples, in whole
    percents. The segmenter of the largest share is compared with that of samples alone, and is tested on samples. The
    gain of a share below 1 is optimistic: the samples' generator was trained on all training subjects."""
    synthetic_per_real: Positive | None = None
    """Largest number of samples per real slice of the same class, if both are used; null: all samples."""
    channels: tuple[Width, ...] = Field(default=(32, 64, 128), min_length=1)
    """Feature channels per level of the U-Net, finest first, multiples of 16. Each level has one residual block; only
    the middle has attention."""
    patch: Literal[1, 2, 4] = 1
    """Space-to-depth factor before the first and after the last convolution."""
    steps: PositiveInt = 4000
    """Optimiser steps."""
    batch_size: PositiveInt = 16
    """Slices per step, half of them with a lesion."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW, reached after a tenth of the steps; a cosine reduces it to 0."""
    device: Device | None = None
    """Device of the segmenters; null: the study's."""
    seed: Seed | None = None
    """Seed of shares, weights, batches and augmentation; null: the study's."""

    @field_validator("shares")
    @classmethod
    def _whole_percents(cls, shares):
        for share in shares:
            if abs(100 * share - round(100 * share)) > 1e-6:
                raise ValueError(f"{share} is not a whole number of percents")
        if len({round(100 * share) for share in shares}) < len(shares):
            raise ValueError("duplicate share; remove one")
        return shares

    @property
    def percents(self) -> tuple[int, ...]:
        """The shares in percent, ascending."""
        return tuple(sorted(round(100 * share) for share in self.shares))
