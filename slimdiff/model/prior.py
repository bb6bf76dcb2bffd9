"""Anatomical priors: where the brain is expected in each z-bin, as an input of the network."""

import math

import torch
from torch import Tensor, nn

WIDTHS = (32, 64, 128)
TOKEN_WIDTH = 256
GROUPS = 8


class PriorMaps(nn.Module):
    """The prior maps of all z-bins, saved with the weights.

    Args:
        n_bins: number of z-bins.
        size: height and width of a slice, in px.
    """

    maps: Tensor

    def __init__(self, n_bins: int, size: tuple[int, int]):
        super().__init__()
        self.register_buffer("maps", torch.zeros((n_bins, *size), dtype=torch.uint8))

    def forward(self, z_bin: Tensor) -> Tensor:
        """(B, 1, H, W), 1 inside and -1 outside."""
        return self.maps[z_bin][:, None].float() * 2 - 1


def check_priors(maps, n_bins: int, size: tuple[int, int]) -> None:
    """Raise ValueError unless `maps` is (n_bins, H, W), one per z-bin, of the slices' size, and none is empty."""
    if tuple(maps.shape) != (n_bins, *size):
        raise ValueError(
            f"priors: expected {n_bins} z-bins of {size[0]} x {size[1]} px, found shape {tuple(maps.shape)}"
        )
    empty = [str(b) for b in range(n_bins) if not maps[b].any()]
    if empty:
        raise ValueError(f"the prior of z-bin {', '.join(empty)} is empty; check section priors")


class PriorEncoder(nn.Module):
    """Encodes a prior map as tokens for cross-attention, one per square of 8 x 8 px."""

    def __init__(self, width: int = TOKEN_WIDTH):
        super().__init__()
        layers, inputs = [], 1
        for outputs in WIDTHS:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                nn.GroupNorm(GROUPS, outputs),
                nn.SiLU(),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.project = nn.Conv2d(inputs, width, 1)

    def forward(self, prior: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, N, width)."""
        features = self.project(self.layers(prior))
        places = sinusoidal_positions_2d(*features.shape[2:], features.shape[1], features.device)
        return features.flatten(2).transpose(1, 2) + places.to(features.dtype)


def sinusoidal_positions_2d(
    height: int, width: int, channels: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Sinusoidal position encoding of a grid, (height * width, channels).

    The first half of the channels encodes the row, the second the column; sines and cosines alternate (Vaswani et al.
    2017).
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(0, half, 2, device=device) / half)
    axes = []
    for count in (height, width):
        angles = torch.arange(count, device=device)[:, None] * frequencies
        axes.append(torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
    rows, columns = axes
    return torch.cat(
        [
            rows[:, None].expand(height, width, half),
            columns[None].expand(height, width, half),
        ],
        dim=2,
    ).flatten(0, 1)
