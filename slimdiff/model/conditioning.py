"""The condition of a sample, and its vector that is added to the time embedding."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from slimdiff.model.blocks import sinusoid


@dataclass(frozen=True)
class Condition:
    """The inputs that condition the network besides the noisy pair. None: not conditioned on."""

    z_bin: Tensor
    """int64 (B,)."""
    label: Tensor
    """int64 (B,): class 0 = no lesion, 1 = lesion."""
    acquisition: Tensor | None = None
    """int64 (B,): index into the acquisitions of the training set."""
    augmentation: Tensor | None = None
    """(B, n) augmentation labels, the first above 0 where left and right are exchanged; None or zeros: not
    augmented."""
    null: Tensor | None = None
    """bool (B,): where true, position and class are dropped (Ho & Salimans 2022); a prior map is kept."""
    prior: Tensor | None = None
    """(B, 1, H, W) in {-1, 1}, the prior of an augmented sample; None: the network's own map of the z-bin."""

    def __len__(self) -> int:
        return len(self.z_bin)

    def __getitem__(self, rows: slice | Tensor) -> "Condition":
        return Condition(**{name: value[rows] for name, value in self._items()})

    def to(self, device: torch.device) -> "Condition":
        """This condition on another device."""
        return Condition(**{name: value.to(device) for name, value in self._items()})

    def unconditional(self) -> "Condition":
        """This condition without position and class, for guidance."""
        return replace(self, null=torch.ones_like(self.z_bin, dtype=torch.bool))

    def _items(self) -> list[tuple[str, Tensor]]:
        pairs = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in pairs if value is not None]


class Conditioning(nn.Module):
    """z = Linear([bin embedding, sinusoid of the bin's centre slice]); c = Linear([class embedding, z]).

    Embeddings of acquisition and augmentation are added to c if the network is conditioned on them. A dropped condition
    replaces c by a learned null vector.

    Args:
        n_bins: number of z-bins.
        bin_centres: centre of each bin (n_bins,), as a slice number, in mm, or in per cent of the brain's height; its
            floor enters the sinusoid.
        width: length of c and of the time embedding.
        null_token: whether position and class can be dropped.
        acquisitions: number of acquisition labels; 0 = not conditioned on acquisition.
        augmentations: number of augmentation labels; 0 = not conditioned on augmentation.
    """

    def __init__(
        self,
        n_bins: int,
        bin_centres: list[float],
        width: int,
        null_token: bool = False,
        acquisitions: int = 0,
        augmentations: int = 0,
        classes: int = 2,
    ):
        super().__init__()
        if len(bin_centres) != n_bins:
            raise ValueError(f"expected {n_bins} bin centres, one per z-bin, found {len(bin_centres)}")
        self.bins = nn.Embedding(n_bins, width)
        self.classes = nn.Embedding(classes, width)
        self.position = nn.Linear(2 * width, width)
        self.merge = nn.Linear(2 * width, width)
        self.null = nn.Parameter(torch.randn(width) * 0.02) if null_token else None
        self.acquisitions = nn.Embedding(acquisitions, width) if acquisitions else None
        # No bias: the zero labels of an unaugmented sample add nothing (Karras et al. 2022).
        self.augmentations = nn.Linear(augmentations, width, bias=False) if augmentations else None
        centres = torch.tensor([math.floor(centre) for centre in bin_centres], dtype=torch.float32)
        self.register_buffer("sinusoids", sinusoid(centres, width), persistent=False)

    def forward(self, condition: Condition) -> Tensor:
        """Returns (B, width). Raises ValueError if a required condition is missing."""
        position = self.position(
            torch.cat([self.bins(condition.z_bin), self.sinusoids[condition.z_bin]], dim=1)
        )
        c = self.merge(torch.cat([self.classes(condition.label), position], dim=1))
        if condition.null is not None:
            if self.null is None:
                raise ValueError("this network has no null token; train it with model.null_token: true")
            c = torch.where(condition.null[:, None], self.null.to(c.dtype), c)
        if self.acquisitions is not None:
            if condition.acquisition is None:
                raise ValueError("this network requires an acquisition for every sample, found None")
            c = c + self.acquisitions(condition.acquisition)
        if self.augmentations is not None and condition.augmentation is not None:
            c = c + self.augmentations(condition.augmentation.to(c.dtype))
        return c
