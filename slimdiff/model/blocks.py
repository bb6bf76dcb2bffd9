"""Parts of the U-Net: sinusoids, residual block, attention, resampling."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _GroupNorm(torch.autograd.Function):
    """torch's forward pass with a faster backward pass (Wu & He 2018, eq. 1-3, differentiated).

    dx = r (w g - mean(w g) - x' mean(w g x')), with x' = (x - m) r the normalised value, w the weight of its channel,
    g the gradient of the output, and means over the group.
    """

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        count, channels, height, width = x.shape
        out, mean, scale = torch.native_group_norm(
            x, weight, bias, count, channels, height * width, groups, eps
        )
        context.save_for_backward(x, weight, mean.float(), scale.float())
        return out

    @staticmethod
    def backward(context, gradient: Tensor):
        x, weight, mean, scale = context.saved_tensors
        count, channels = x.shape[:2]
        groups = mean.shape[1]

        def of_channel(values: Tensor) -> Tensor:
            return values[:, :, None].expand(-1, -1, channels // groups).reshape(count, channels)

        def of_group(values: Tensor) -> Tensor:
            return values.view(count, groups, -1).sum(dim=2) / (x[0].numel() / groups)

        # Sums in float32; maps keep their type.
        sum_g = gradient.sum(dim=(2, 3), dtype=torch.float32)
        sum_gx = (gradient * x).sum(dim=(2, 3), dtype=torch.float32)
        m, r = of_channel(mean), of_channel(scale)
        of_weight = (sum_gx - m * sum_g) * r
        along = of_channel(of_group(of_weight * weight)) * r * r
        constant = of_channel(of_group(sum_g * weight)) * r - along * m
        for_g, for_x, rest = (
            values[:, :, None, None].to(x.dtype) for values in (r * weight, along, constant)
        )
        dx = (gradient * for_g).addcmul_(x, for_x, value=-1).sub_(rest)
        return dx, of_weight.sum(dim=0), sum_g.sum(dim=0), None, None


def group_norm_bfloat16(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`torch.nn.functional.group_norm` for x (B, C, H, W) in bfloat16 and parameters in float32."""
    return _GroupNorm.apply(x, weight, bias, groups, eps)


NORM_EPS = 1e-6


def sinusoid(positions: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosine-sine features of real positions (B,) as (B, width) in float32 (Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=positions.device))
    angles = positions.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class GroupNorm(nn.GroupNorm):
    """Group norm with statistics in float32 and output in the input's type, also under autocast."""

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.dim() == 4:
            return group_norm_bfloat16(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ResidualBlock(nn.Module):
    """Twice GroupNorm, SiLU and convolution; the embedding is added in between; a skip around both."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, outputs)
        self.norm2 = GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        # Zero, so that the block starts as its skip (Ho et al. 2020).
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.embed(F.silu(embedding))[:, :, None, None].to(hidden.dtype)
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.skip(x) + hidden


class MultiHeadAttention(nn.Module):
    """Multi-head attention of tokens (B, N, width) on themselves or on a context (B, M, context width)."""

    def __init__(self, width: int, head_channels: int, context: int | None = None, bias: bool = True):
        super().__init__()
        self.heads = width // head_channels
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(context or width, width, bias=bias)
        self.value = nn.Linear(context or width, width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        source = tokens if context is None else context
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, tokens), (self.key, source), (self.value, source))
        )
        # On CPUs bfloat16 speeds up matrix products, but not the fused kernel (docs/performance.md).
        plain = query.device.type == "cpu" and query.dtype == torch.bfloat16
        attend = plain_attention if plain else F.scaled_dot_product_attention
        return self.out(attend(query, key, value).transpose(1, 2).flatten(2))


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key' / sqrt(C)) value as two matrix products in the arguments' type; (B, heads, N, C) each."""
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value


class NoAttention(nn.Module):
    """A level without attention."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x


class SelfAttention(nn.Module):
    """Multi-head self-attention over all pixels, with a skip."""

    def __init__(self, channels: int, head_channels: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.attend = MultiHeadAttention(channels, head_channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attend(tokens).transpose(1, 2).reshape(x.shape)


class CrossAttention(nn.Module):
    """Self-attention, cross-attention to a context, and a gated layer, with a skip around all (Rombach et al. 2022).

    Replaces `SelfAttention` in a network with encoded priors.
    """

    def __init__(self, channels: int, head_channels: int, groups: int, context: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.attend = MultiHeadAttention(channels, head_channels, bias=False)
        self.cross = MultiHeadAttention(channels, head_channels, context, bias=False)
        self.feed_forward_in = nn.Linear(channels, 8 * channels)
        self.feed_forward_out = nn.Linear(4 * channels, channels)
        self.project_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None:
            # Otherwise the layer would silently attend to its own pixels (docs/method.md, F9).
            raise ValueError("cross-attention requires the encoded prior, found None")
        tokens = self.project_in(self.norm(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attend(self.norms[0](tokens))
        tokens = tokens + self.cross(self.norms[1](tokens), context)
        # GEGLU (Shazeer 2020).
        values, gates = self.feed_forward_in(self.norms[2](tokens)).chunk(2, dim=-1)
        tokens = tokens + self.feed_forward_out(values * F.gelu(gates))
        return x + self.project_out(tokens.transpose(1, 2).reshape(x.shape))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # Both together equal one transposed convolution with a 4 x 4 kernel, whose entries are sums over 2 x 2 squares
        # of the 3 x 3 kernel. An output pixel then needs 4 products per channel instead of 9.
        kernel = F.pad(self.conv.weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[..., 1:] + kernel[..., :-1]
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)
