"""Position and class as one vector that is added to the time embedding."""

import math

import torch
from torch import Tensor, nn

from slimdiff.model.blocks import sinusoid


class Conditioning(nn.Module):
    """z = Linear([bin embedding, sinusoid of the bin's centre slice]); c = Linear([class embedding, z]).

    Args:
        n_bins: number of z-bins.
        bin_centres: slice index at the centre of each bin (n_bins,); its floor enters the sinusoid.
        width: length of c, that of the time embedding.
    """

    def __init__(self, n_bins: int, bin_centres: list[float], width: int, classes: int = 2):
        super().__init__()
        if len(bin_centres) != n_bins:
            raise ValueError(f"{len(bin_centres)} bin centres for {n_bins} z-bins")
        self.bins = nn.Embedding(n_bins, width)
        self.classes = nn.Embedding(classes, width)
        self.position = nn.Linear(2 * width, width)
        self.merge = nn.Linear(2 * width, width)
        centres = torch.tensor([math.floor(centre) for centre in bin_centres], dtype=torch.float32)
        self.register_buffer("sinusoids", sinusoid(centres, width), persistent=False)

    def forward(self, z_bin: Tensor, label: Tensor) -> Tensor:
        """z_bin, label: int64 (B,). Returns (B, width)."""
        position = self.position(torch.cat([self.bins(z_bin), self.sinusoids[z_bin]], dim=1))
        return self.merge(torch.cat([self.classes(label), position], dim=1))
