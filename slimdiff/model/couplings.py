"""How image and mask share a network (docs/method.md): four couplings with one signature.

forward(known, prior, embedding, context) -> (B, 2 * patch^2, h, w). `known` holds maps (B, 2, H, W) of [image, mask]:
the noisy pair and, where the network has them, the previous and the Gaussian estimate. `prior` is a map (B, 1, H, W) or
None.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.model.trunk import Decoder, Encoder, Middle, TrunkSpec


class Shared(nn.Module):
    """One trunk: both modalities through one encoder, one middle, one decoder.

    Args:
        shape: specification of the trunk.
        patch: side in px of the squares that become channels before the first convolution.
        maps: number of maps per modality: the noisy pair, and each estimate that is an input.
        prior: whether there is a prior map.
    """

    def __init__(self, shape: TrunkSpec, patch: int, maps: int, prior: bool):
        super().__init__()
        self.patch = patch
        self.encoder = Encoder(shape, (2 * maps + prior) * patch**2)
        self.middle = self._middle(shape)
        self.decoder = Decoder(shape, self.encoder.skip_widths, 2 * patch**2)

    def _middle(self, shape: TrunkSpec) -> nn.Module:
        return Middle(shape, shape.channels[-1])

    def forward(
        self, known: Sequence[Tensor], prior: Tensor | None, embedding: Tensor, context: Tensor | None
    ) -> Tensor:
        hidden, skips = self.encoder(_space_to_depth([*known, prior], self.patch), embedding, context)
        return self.decoder(self.middle(hidden, embedding, context), skips, embedding, context)


class ParallelMiddle(nn.Module):
    """Two middles of half the width, each two residual blocks deeper, split and merged by 1 x 1 convolutions."""

    def __init__(self, shape: TrunkSpec):
        super().__init__()
        width = shape.channels[-1]
        self.split = nn.ModuleList(nn.Conv2d(width, width // 2, 1) for _ in range(2))
        self.paths = nn.ModuleList(Middle(shape, width // 2, extra=2) for _ in range(2))
        self.merge = nn.Conv2d(width, width, 1)

    def forward(self, hidden: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        parts = [
            path(split(hidden), embedding, context)
            for split, path in zip(self.split, self.paths, strict=True)
        ]
        return self.merge(torch.cat(parts, dim=1))


class Decoupled(Shared):
    """One encoder and one decoder around two parallel middles."""

    def _middle(self, shape: TrunkSpec) -> nn.Module:
        return ParallelMiddle(shape)


class Independent(nn.Module):
    """Two U-Nets of one modality each; only the embedding of time and condition is shared."""

    def __init__(self, shape: TrunkSpec, patch: int, maps: int, prior: bool):
        super().__init__()
        self.patch = patch
        inputs = (maps + prior) * patch**2
        self.encoders = nn.ModuleList(Encoder(shape, inputs) for _ in range(2))
        self.middle = self._middle(shape)
        self.decoders = nn.ModuleList(
            Decoder(shape, encoder.skip_widths, patch**2) for encoder in self.encoders
        )

    def _middle(self, shape: TrunkSpec) -> nn.Module:
        return nn.ModuleList(Middle(shape, shape.channels[-1]) for _ in range(2))

    def _join(self, hidden: list[Tensor], embedding: Tensor, context: Tensor | None) -> list[Tensor]:
        return [middle(part, embedding, context) for middle, part in zip(self.middle, hidden, strict=True)]

    def forward(
        self, known: Sequence[Tensor], prior: Tensor | None, embedding: Tensor, context: Tensor | None
    ) -> Tensor:
        hidden, skips = [], []
        for modality, encoder in enumerate(self.encoders):
            own = [x[:, modality : modality + 1] for x in known]
            deepest, kept = encoder(_space_to_depth([*own, prior], self.patch), embedding, context)
            hidden.append(deepest)
            skips.append(kept)
        hidden = self._join(hidden, embedding, context)
        parts = [
            decoder(part, kept, embedding, context)
            for decoder, part, kept in zip(self.decoders, hidden, skips, strict=True)
        ]
        return torch.cat(parts, dim=1)


class Bottleneck(Independent):
    """Two encoders and two decoders around one middle of the joint width."""

    def _middle(self, shape: TrunkSpec) -> nn.Module:
        return Middle(shape, 2 * shape.channels[-1])

    def _join(self, hidden: list[Tensor], embedding: Tensor, context: Tensor | None) -> list[Tensor]:
        return list(self.middle(torch.cat(hidden, dim=1), embedding, context).chunk(2, dim=1))


def _space_to_depth(maps: Sequence[Tensor | None], patch: int) -> Tensor:
    stacked = torch.cat([x for x in maps if x is not None], dim=1)
    return F.pixel_unshuffle(stacked, patch) if patch > 1 else stacked


COUPLINGS: dict[str, type[nn.Module]] = {
    "shared": Shared,
    "decoupled": Decoupled,
    "independent": Independent,
    "bottleneck": Bottleneck,
}
