"""The network."""

from typing import Literal

from pydantic import Field, model_validator

from slimdiff.config.base import PositiveInt, Section

# Channels a trunk, channels a head and groups with which every coupling has the paper's number of parameters.
PAPER_TRUNK = {
    "shared": ((64, 128, 256, 256), 32, 32),
    "decoupled": ((64, 128, 256, 256), 32, 32),
    "independent": ((48, 96, 180, 180), 20, 12),
    "bottleneck": ((48, 96, 168, 168), 12, 12),
}


class ModelConfig(Section):
    """A 2-D U-Net on [image, mask] (docs/method.md)."""

    coupling: Literal["shared", "decoupled", "independent", "bottleneck"] = "shared"
    """`shared`: one trunk, both modalities through one bottleneck; `decoupled`: one trunk with two paths in the middle;
    `independent`: two networks that share the embedding of position and class; `bottleneck`: two encoders and decoders
    with one middle."""
    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Feature channels a level of each trunk, finest first; `null`: the paper's for the coupling (shared, decoupled:
    64, 128, 256, 256; independent: 48, 96, 180, 180; bottleneck: 48, 96, 168, 168)."""
    res_blocks: PositiveInt = 2
    """Residual blocks a level of the encoder; the decoder has one more (paper: 2)."""
    attention: tuple[bool, ...] = (False, False, True, True)
    """Attention a level (paper: the two lowest; the middle always has it)."""
    head_channels: PositiveInt | None = None
    """Channels of an attention head; `null`: the paper's for the coupling (32, 32, 20, 12)."""
    norm_groups: PositiveInt | None = None
    """Groups of the group normalisation; `null`: the paper's for the coupling (32, 32, 12, 12)."""
    self_conditioning: bool = True
    """Whether the network also sees its previous estimate (two more input channels)."""
    patch: Literal[1, 2, 4] = 1
    """Space-to-depth factor before the first and after the last convolution (paper: 1)."""
    prior: Literal["none", "concat", "cross_attention"] = "none"
    """Whether the network sees where the brain is in the z-bin: as one more input channel, or by attending to its
    encoded squares of 8 px."""
    acquisition: bool = False
    """Whether the network is told with which protocol a slice was acquired (without it, class and scanner are one
    where they go together in the data); wants every slice's protocol, and two at least."""
    null_token: bool = False
    """Whether position and class can be withheld: needed for guidance, with `training.condition_dropout`."""

    @model_validator(mode="after")
    def _fits(self):
        if len(self.attention) != len(self.widths):
            raise ValueError(f"attention has {len(self.attention)} entries, channels has {len(self.widths)}")
        two_paths = self.coupling == "decoupled"
        if two_paths and self.widths[-1] % 2:
            raise ValueError(f"channels {self.widths[-1]} cannot be divided into two paths")
        middle = self.widths[-1] // 2 if two_paths else self.widths[-1]
        for width in (*self.widths, middle):
            if width % self.groups:
                raise ValueError(f"channels {width} cannot be divided into norm_groups {self.groups}")
        attended = [width for width, attends in zip(self.widths, self.attention, strict=True) if attends]
        for width in (*attended, middle):
            if width % self.heads:
                raise ValueError(
                    f"channels {width} cannot be divided into heads of head_channels {self.heads}"
                )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature channels a level of each trunk."""
        return self.channels or PAPER_TRUNK[self.coupling][0]

    @property
    def heads(self) -> int:
        """Channels of an attention head."""
        return self.head_channels or PAPER_TRUNK[self.coupling][1]

    @property
    def groups(self) -> int:
        """Groups of the group normalisation."""
        return self.norm_groups or PAPER_TRUNK[self.coupling][2]

    def settings(self) -> dict:
        """The section as a mapping, with nothing left to the coupling."""
        chosen = {"channels": self.widths, "head_channels": self.heads, "norm_groups": self.groups}
        return self.model_copy(update=chosen).model_dump(mode="json")

    @property
    def divisor(self) -> int:
        """Slice sides must be a multiple of it, in px."""
        return self.patch * 2 ** (len(self.widths) - 1)
