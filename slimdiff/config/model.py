"""The network."""

from typing import Literal

from pydantic import Field, model_validator

from slimdiff.config.base import PositiveInt, Section


class ModelConfig(Section):
    """A 2-D U-Net on [image, mask] (docs/method.md)."""

    coupling: Literal["shared"] = "shared"
    """`shared`: one trunk, both modalities through one bottleneck."""
    channels: tuple[PositiveInt, ...] = Field(default=(64, 128, 256, 256), min_length=1)
    """Feature channels a level, finest first (paper: 64, 128, 256, 256)."""
    res_blocks: PositiveInt = 2
    """Residual blocks a level of the encoder; the decoder has one more (paper: 2)."""
    attention: tuple[bool, ...] = (False, False, True, True)
    """Self-attention a level (paper: the two lowest; the middle always has it)."""
    head_channels: PositiveInt = 32
    """Channels of an attention head (paper: 32)."""
    norm_groups: PositiveInt = 32
    """Groups of the group normalisation (paper: 32)."""
    self_conditioning: bool = True
    """Whether the network also sees its previous estimate (two more input channels)."""
    patch: Literal[1, 2, 4] = 1
    """Space-to-depth factor before the first and after the last convolution (paper: 1)."""

    @model_validator(mode="after")
    def _fits(self):
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries, channels has {len(self.channels)}"
            )
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(f"channels {width} cannot be divided into norm_groups {self.norm_groups}")
        for width, attends in zip(self.channels, (*self.attention[:-1], True), strict=True):
            if attends and width % self.head_channels:
                raise ValueError(
                    f"channels {width} cannot be divided into heads of head_channels {self.head_channels}"
                )
        return self

    @property
    def divisor(self) -> int:
        """Slice sides must be a multiple of it, in px."""
        return self.patch * 2 ** (len(self.channels) - 1)
