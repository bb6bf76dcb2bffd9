"""The shared U-Net: one trunk that sees image and mask together (docs/method.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.model.blocks import NORM_EPS, ResidualBlock, SelfAttention, Upsample, sinusoid
from slimdiff.model.conditioning import Conditioning

MODALITIES = 2  # image, mask


class UNet(nn.Module):
    """Predicts the diffusion target of [image, mask] from its noisy version.

    Args:
        channels: feature channels a level, finest first.
        res_blocks: residual blocks a level of the encoder; the decoder has one more.
        attention: self-attention a level; the middle always has it.
        head_channels: channels of an attention head.
        norm_groups: groups of the group normalisation.
        self_conditioning: whether the previous estimate is a second input.
        patch: side of the squares, in px, that become channels before the first convolution and pixels again
            after the last (1: none).
        n_bins, bin_centres: see `Conditioning`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        res_blocks: int,
        attention: Sequence[bool],
        head_channels: int,
        norm_groups: int,
        self_conditioning: bool,
        patch: int,
        n_bins: int,
        bin_centres: list[float],
    ):
        super().__init__()
        self.patch = patch
        self.self_conditioning = self_conditioning
        first, deepest = channels[0], channels[-1]
        embedding = 4 * first
        self.time = nn.Sequential(nn.Linear(first, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.time_width = first
        self.condition = Conditioning(n_bins, bin_centres, embedding)

        def residual(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, norm_groups)

        def attend(width: int, wanted: bool) -> nn.Module:
            return SelfAttention(width, head_channels, norm_groups) if wanted else nn.Identity()

        inputs = MODALITIES * (2 if self_conditioning else 1) * patch**2
        self.stem = nn.Conv2d(inputs, first, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [first], first
        last = len(channels) - 1
        for level, (outputs, attends) in enumerate(zip(channels, attention, strict=True)):
            blocks, attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(res_blocks):
                blocks.append(residual(width, outputs))
                attentions.append(attend(outputs, attends))
                width = outputs
                skips.append(width)
            stage = nn.ModuleDict({"blocks": blocks, "attentions": attentions})
            if level < last:
                stage["resample"] = nn.Conv2d(width, width, 3, stride=2, padding=1)
                skips.append(width)
            self.down.append(stage)
        self.middle = nn.ModuleList(
            [residual(deepest, deepest), attend(deepest, True), residual(deepest, deepest)]
        )
        for level in reversed(range(len(channels))):
            blocks, attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(res_blocks + 1):
                blocks.append(residual(width + skips.pop(), channels[level]))
                attentions.append(attend(channels[level], attention[level]))
                width = channels[level]
            stage = nn.ModuleDict({"blocks": blocks, "attentions": attentions})
            if level > 0:
                stage["resample"] = Upsample(width)
            self.up.append(stage)
        self.norm = nn.GroupNorm(norm_groups, first, eps=NORM_EPS)
        self.head = nn.Conv2d(first, MODALITIES * patch**2, 3, padding=1)
        # Starting from zero output, the first gradients already point at the data (Ho et al. 2020).
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Tensor, timestep: Tensor, z_bin: Tensor, label: Tensor, previous: Tensor | None = None
    ) -> Tensor:
        """Predict the target.

        Args:
            x: noisy [image, mask] (B, 2, H, W).
            timestep: (B,), real, in 0 ... T - 1.
            z_bin, label: int64 (B,).
            previous: the last x0 estimate (B, 2, H, W), or None for none (zeros).
        """
        if self.self_conditioning:
            x = torch.cat([x, torch.zeros_like(x) if previous is None else previous], dim=1)
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)
        embedding = self.time(sinusoid(timestep, self.time_width)) + self.condition(z_bin, label)
        hidden = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [hidden]
        for stage in self.down:
            for block, attention in zip(stage["blocks"], stage["attentions"], strict=True):
                hidden = attention(block(hidden, embedding))
                skips.append(hidden)
            if "resample" in stage:
                hidden = stage["resample"](hidden)
                skips.append(hidden)
        before, attention, after = self.middle
        hidden = after(attention(before(hidden, embedding)), embedding)
        for stage in self.up:
            for block, attention in zip(stage["blocks"], stage["attentions"], strict=True):
                hidden = attention(block(torch.cat([hidden, skips.pop()], dim=1), embedding))
            if "resample" in stage:
                hidden = stage["resample"](hidden)
        out = self.head(F.silu(self.norm(hidden)))
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out
