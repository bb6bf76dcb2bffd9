"""The joint network of image and mask: time, condition and prior around one of the couplings (docs/method.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.model.blocks import sinusoid
from slimdiff.model.conditioning import Condition, Conditioning
from slimdiff.model.couplings import COUPLINGS
from slimdiff.model.prior import TOKEN_WIDTH, PriorEncoder, PriorMaps
from slimdiff.model.trunk import TrunkSpec

PRIORS = ("none", "concat", "cross_attention")


class JointUNet(nn.Module):
    """Predicts the diffusion target of [image, mask] from its noisy version.

    Args:
        coupling: shared, decoupled, independent or bottleneck.
        channels: feature channels a level of each trunk, finest first.
        res_blocks: residual blocks a level of the encoder; the decoder has one more.
        attention: attention a level; the middle always has it.
        head_channels: channels of an attention head.
        norm_groups: groups of the group normalisation.
        self_conditioning: whether the previous estimate is seen too.
        patch: side of the squares, in px, that become channels before the first convolution and pixels again
            after the last (1: none).
        prior: none, concat (one more input map) or cross_attention (every attention also attends to its tokens).
        size: height and width of a slice, in px; only a prior needs it.
        n_bins, bin_centres, null_token, acquisitions, augmentations: see `Conditioning`.
    """

    def __init__(
        self,
        coupling: str,
        channels: Sequence[int],
        res_blocks: int,
        attention: Sequence[bool],
        head_channels: int,
        norm_groups: int,
        self_conditioning: bool,
        patch: int,
        n_bins: int,
        bin_centres: list[float],
        prior: str = "none",
        size: tuple[int, int] = (0, 0),
        null_token: bool = False,
        acquisitions: int = 0,
        augmentations: int = 0,
    ):
        super().__init__()
        if coupling not in COUPLINGS:
            raise ValueError(f"model.coupling {coupling!r}; {', '.join(COUPLINGS)} are known")
        if prior not in PRIORS:
            raise ValueError(f"model.prior {prior!r}; {', '.join(PRIORS)} are known")
        self.patch = patch
        self.self_conditioning = self_conditioning
        self.time_width = channels[0]
        width = 4 * channels[0]
        self.time = nn.Sequential(nn.Linear(self.time_width, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = Conditioning(n_bins, bin_centres, width, null_token, acquisitions, augmentations)
        self.priors = PriorMaps(n_bins, size) if prior != "none" else None
        self.prior_encoder = PriorEncoder() if prior == "cross_attention" else None
        shape = TrunkSpec(
            tuple(channels),
            res_blocks,
            tuple(attention),
            head_channels,
            norm_groups,
            embedding=width,
            context=TOKEN_WIDTH if prior == "cross_attention" else None,
        )
        maps = 2 if self_conditioning else 1
        self.trunk = COUPLINGS[coupling](shape, patch, maps, prior == "concat")

    def forward(
        self, x: Tensor, timestep: Tensor, condition: Condition, previous: Tensor | None = None
    ) -> Tensor:
        """Predict the target.

        Args:
            x: noisy [image, mask] (B, 2, H, W).
            timestep: (B,), real, in 0 ... T - 1.
            condition: what the network is told, (B,) each.
            previous: the last x0 estimate (B, 2, H, W), or None for none (zeros).
        """
        embedding = self.time(sinusoid(timestep, self.time_width)) + self.condition(condition)
        known = [x]
        if self.self_conditioning:
            known.append(torch.zeros_like(x) if previous is None else previous)
        prior = context = None
        if self.priors is not None:
            prior = self.priors(condition.z_bin) if condition.prior is None else condition.prior
            if self.prior_encoder is not None:
                prior, context = None, self.prior_encoder(prior)
        out = self.trunk(known, prior, embedding, context)
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out
