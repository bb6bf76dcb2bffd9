"""Encoder, middle and decoder of a U-Net, combined by a coupling (Ho et al. 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.model.blocks import (
    CrossAttention,
    GroupNorm,
    NoAttention,
    ResidualBlock,
    SelfAttention,
    Upsample,
)


@dataclass(frozen=True)
class TrunkSpec:
    """Settings shared by the parts of a trunk."""

    channels: tuple[int, ...]
    """Feature channels per level, finest first."""
    res_blocks: int
    """Residual blocks per encoder level; the decoder has one more."""
    attention: tuple[bool, ...]
    """Whether each level has attention; the middle always has it."""
    head_channels: int
    norm_groups: int
    embedding: int
    """Width of the embedding of time and condition."""
    context: int | None = None
    """Width of the context tokens for cross-attention; None: self-attention only."""

    def residual(self, inputs: int, outputs: int) -> ResidualBlock:
        return ResidualBlock(inputs, outputs, self.embedding, self.norm_groups)

    def attend(self, channels: int, wanted: bool = True) -> nn.Module:
        if not wanted:
            return NoAttention()
        if self.context:
            return CrossAttention(channels, self.head_channels, self.norm_groups, self.context)
        return SelfAttention(channels, self.head_channels, self.norm_groups)


class Encoder(nn.Module):
    """Encodes the input; returns the deepest level and the skips, finest first."""

    def __init__(self, shape: TrunkSpec, inputs: int):
        super().__init__()
        width = shape.channels[0]
        self.stem = nn.Conv2d(inputs, width, 3, padding=1)
        self.levels = nn.ModuleList()
        self.skip_widths = [width]
        for level, (outputs, attends) in enumerate(zip(shape.channels, shape.attention, strict=True)):
            blocks, attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(shape.res_blocks):
                blocks.append(shape.residual(width, outputs))
                attentions.append(shape.attend(outputs, attends))
                width = outputs
                self.skip_widths.append(width)
            stage = nn.ModuleDict({"blocks": blocks, "attentions": attentions})
            if level < len(shape.channels) - 1:
                stage["resample"] = nn.Conv2d(width, width, 3, stride=2, padding=1)
                self.skip_widths.append(width)
            self.levels.append(stage)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        hidden = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [hidden]
        for stage in self.levels:
            for block, attention in zip(stage["blocks"], stage["attentions"], strict=True):
                hidden = attention(block(hidden, embedding), context)
                skips.append(hidden)
            if "resample" in stage:
                hidden = stage["resample"](hidden)
                skips.append(hidden)
        return hidden, skips


class Middle(nn.Module):
    """Residual block, attention, and 1 + `extra` residual blocks, all of one width."""

    def __init__(self, shape: TrunkSpec, channels: int, extra: int = 0):
        super().__init__()
        self.before = shape.residual(channels, channels)
        self.attention = shape.attend(channels)
        self.after = nn.ModuleList(shape.residual(channels, channels) for _ in range(extra + 1))

    def forward(self, hidden: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        hidden = self.attention(self.before(hidden, embedding), context)
        for block in self.after:
            hidden = block(hidden, embedding)
        return hidden


class Decoder(nn.Module):
    """Decodes the deepest level and the skips of an encoder to the output."""

    def __init__(self, shape: TrunkSpec, skip_widths: list[int], outputs: int):
        super().__init__()
        width, skips = shape.channels[-1], list(skip_widths)
        self.levels = nn.ModuleList()
        for level in reversed(range(len(shape.channels))):
            blocks, attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(shape.res_blocks + 1):
                blocks.append(shape.residual(width + skips.pop(), shape.channels[level]))
                attentions.append(shape.attend(shape.channels[level], shape.attention[level]))
                width = shape.channels[level]
            stage = nn.ModuleDict({"blocks": blocks, "attentions": attentions})
            if level > 0:
                stage["resample"] = Upsample(width)
            self.levels.append(stage)
        self.norm = GroupNorm(shape.norm_groups, width)
        self.head = nn.Conv2d(width, outputs, 3, padding=1)
        # The network starts with zero output (Ho et al. 2020).
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, hidden: Tensor, skips: list[Tensor], embedding: Tensor, context: Tensor | None
    ) -> Tensor:
        skips = list(skips)
        for stage in self.levels:
            for block, attention in zip(stage["blocks"], stage["attentions"], strict=True):
                hidden = attention(block(torch.cat([hidden, skips.pop()], dim=1), embedding), context)
            if "resample" in stage:
                hidden = stage["resample"](hidden)
        return self.head(F.silu(self.norm(hidden)))
