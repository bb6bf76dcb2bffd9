"""The joint network of image and mask: a coupling with embeddings of time, condition and prior (docs/method.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.model.blocks import sinusoid
from slimdiff.model.conditioning import Condition, Conditioning
from slimdiff.model.couplings import COUPLINGS
from slimdiff.model.gaussian import GaussianEstimate
from slimdiff.model.prior import TOKEN_WIDTH, PriorEncoder, PriorMaps
from slimdiff.model.trunk import TrunkSpec

PRIORS = ("none", "concat", "cross_attention")


class JointUNet(nn.Module):
    """Predicts the diffusion target of [image, mask] from its noisy version.

    Args:
        coupling: shared, decoupled, independent or bottleneck.
        channels: feature channels per level of each trunk, finest first.
        res_blocks: residual blocks per encoder level; the decoder has one more.
        attention: whether each level has attention; the middle always has it.
        head_channels: channels per attention head.
        norm_groups: groups of the group normalisation.
        self_conditioning: whether the previous estimate is an input.
        patch: side in px of the squares that become channels before the first convolution and pixels again
            after the last one (1 = none).
        prior: none, concat (one more input map) or cross_attention (every attention also attends to its tokens).
        size: height and width of a slice, in px; required with a prior.
        gaussian_components: principal components of the Gaussian model whose estimate is an input; 0: no such input.
        n_bins, bin_centres, null_token, acquisitions, augmentations: see `Conditioning`.
    """

    priors: PriorMaps | None
    gaussian: GaussianEstimate | None

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
        gaussian_components: int = 0,
    ):
        super().__init__()
        if coupling not in COUPLINGS:
            raise ValueError(f"model.coupling: expected {', '.join(COUPLINGS)}, found {coupling!r}")
        if prior not in PRIORS:
            raise ValueError(f"model.prior: expected {', '.join(PRIORS)}, found {prior!r}")
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
        self.gaussian = GaussianEstimate() if gaussian_components else None
        maps = 1 + self_conditioning + (self.gaussian is not None)
        self.trunk = COUPLINGS[coupling](shape, patch, maps, prior == "concat")

    def forward(
        self, x: Tensor, timestep: Tensor, condition: Condition, previous: Tensor | None = None
    ) -> Tensor:
        """Predict the diffusion target.

        Args:
            x: noisy [image, mask] (B, 2, H, W).
            timestep: (B,), real, in 0 ... T - 1.
            condition: the condition, (B,) each.
            previous: the previous x0 estimate (B, 2, H, W); None: zeros.
        """
        embedding = self.time(sinusoid(timestep, self.time_width)) + self.condition(condition)
        known = [x]
        if self.self_conditioning:
            known.append(torch.zeros_like(x) if previous is None else previous)
        if self.gaussian is not None:
            known.append(self.gaussian(x, timestep, condition).to(x.dtype))
        prior = context = None
        if self.priors is not None:
            prior = self.priors(condition.z_bin) if condition.prior is None else condition.prior
            if self.prior_encoder is not None:
                prior, context = None, self.prior_encoder(prior)
        out = self.trunk(known, prior, embedding, context)
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out
