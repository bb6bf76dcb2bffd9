"""The network."""

from typing import Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Count, PositiveInt, Section

# Channels a trunk, channels a head and groups with which every coupling has the paper's number of parameters.
PAPER_TRUNK = {
    "shared": ((64, 128, 256, 256), 32, 32),
    "decoupled": ((64, 128, 256, 256), 32, 32),
    "independent": ((48, 96, 180, 180), 20, 12),
    "bottleneck": ((48, 96, 168, 168), 12, 12),
}

COMPONENTS = 48
"""Principal components of the Gaussian model (docs/learning.md)."""


class ModelConfig(Section):
    """A 2-D U-Net on [image, mask] (docs/method.md)."""

    coupling: Literal["shared", "decoupled", "independent", "bottleneck"] = "shared"
    """How image and mask share the network. `shared`: one trunk; `decoupled`: one trunk with two paths in the middle;
    `independent`: two networks with one embedding of time, position and class; `bottleneck`: two encoders and decoders
    with one middle."""
    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Feature channels per level of each trunk, finest first. null: the paper's number of parameters for the coupling
    (shared, decoupled: 64, 128, 256, 256; independent: 48, 96, 180, 180; bottleneck: 48, 96, 168, 168)."""
    res_blocks: PositiveInt = 2
    """Residual blocks per level of the encoder (paper: 2); the decoder has one more."""
    attention: tuple[bool, ...] = (False, False, True, True)
    """Whether each level has attention, finest first (paper: the two lowest); the middle always has it."""
    head_channels: PositiveInt | None = None
    """Channels per attention head; null: 32 for shared and decoupled, 20 for independent, 12 for bottleneck."""
    norm_groups: PositiveInt | None = None
    """Groups of the group normalisation; null: 32 for shared and decoupled, 12 for the other couplings."""
    self_conditioning: bool = False
    """Whether the previous estimate is an input (two more channels); requires `training.self_conditioning` above 0."""
    patch: Literal[1, 2, 4] = 1
    """Space-to-depth factor before the first and after the last convolution (paper: 1)."""
    gaussian_components: Count | None = None
    """Principal components of the Gaussian model of the training slices. Its estimate of the clean pair is an input of
    the network (docs/method.md). 0: no such input (paper). null: 48, and 0 for `independent`, whose networks may not
    see each other's modality."""
    prior: Literal["none", "concat", "cross_attention"] = "none"
    """Whether the z-bin prior (where the brain is) is an input: as one more channel, or as encoded tokens of 8 x 8 px
    for cross-attention."""
    acquisition: bool = False
    """Whether the acquisition protocol is an input. Without it class and scanner may be confounded. Requires the
    protocol of every participant, and at least two protocols."""
    null_token: bool = False
    """Whether position and class can be hidden: required by classifier-free guidance, with
    `training.condition_dropout`."""

    @model_validator(mode="after")
    def _fits(self):
        if len(self.attention) != len(self.widths):
            raise ValueError(
                f"attention has {len(self.attention)} entries, channels has {len(self.widths)}; both need one per level"
            )
        if self.coupling == "independent" and self.gaussian:
            raise ValueError(
                f"gaussian_components: expected 0 or null with coupling independent, found {self.gaussian}; the "
                "Gaussian model would show each network the other's modality"
            )
        two_paths = self.coupling == "decoupled"
        if two_paths and self.widths[-1] % 2:
            raise ValueError(
                f"channels: the last level has {self.widths[-1]} channels, which cannot be divided into two paths; "
                "set it to an even number"
            )
        middle = self.widths[-1] // 2 if two_paths else self.widths[-1]
        for width in (*self.widths, middle):
            if width % self.groups:
                raise ValueError(
                    f"channels {width} cannot be divided into norm_groups {self.groups}; change one"
                )
        attended = [width for width, attends in zip(self.widths, self.attention, strict=True) if attends]
        for width in (*attended, middle):
            if width % self.heads:
                raise ValueError(
                    f"channels {width} cannot be divided into heads of head_channels {self.heads}; change one"
                )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature channels per level of each trunk."""
        return self.channels or PAPER_TRUNK[self.coupling][0]

    @property
    def heads(self) -> int:
        """Channels per attention head."""
        return self.head_channels or PAPER_TRUNK[self.coupling][1]

    @property
    def groups(self) -> int:
        """Groups of the group normalisation."""
        return self.norm_groups or PAPER_TRUNK[self.coupling][2]

    @property
    def gaussian(self) -> int:
        """Principal components of the Gaussian model."""
        if self.gaussian_components is not None:
            return self.gaussian_components
        return 0 if self.coupling == "independent" else COMPONENTS

    def settings(self) -> dict:
        """The section as a mapping, with the values of the coupling in place of null."""
        chosen = {"channels": self.widths, "head_channels": self.heads, "norm_groups": self.groups}
        chosen["gaussian_components"] = self.gaussian
        return self.model_copy(update=chosen).model_dump(mode="json")

    @property
    def divisor(self) -> int:
        """Slice sides must be a multiple of it, in px."""
        return self.patch * 2 ** (len(self.widths) - 1)
