"""A trained network as the denoiser of the samplers' coordinates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from slimdiff.diffusion.mask_calibration import MaskCalibration
from slimdiff.diffusion.prediction import to_x0_epsilon
from slimdiff.diffusion.schedule import Schedule

HINT_SIGMA = 1.0
"""Noise level down to which a lesion is hinted at: lower values keep the hint's shape, higher ones lose the lesion."""

Network = Callable[[Tensor, Tensor, Any, Tensor | None], Tensor]
"""(x_t, timestep (B,), condition, previous or None) -> prediction (B, 2, H, W)."""


@dataclass(frozen=True)
class Denoiser:
    """x / sqrt(alpha_bar) at noise level sigma -> estimate of x0, clipped to [-1, 1].

    With a `guide` (the same network without its condition, Ho & Salimans 2022) the prediction becomes
    guide + scale (network - guide), but only at noise levels low < sigma <= high (Kynkäänniemi et al. 2024).

    With a `calibration` the mask of samples of class 1 is calibrated, after guidance.

    With a `gaussian` model its estimates take the place of both networks' above `gaussian_above` (docs/learning.md).
    """

    network: Network
    schedule: Schedule
    prediction: str
    clip: bool = True
    guide: Network | None = None
    scale: float = 1.0
    low: float = 0.0
    high: float = float("inf")
    condition: Any = None
    """Of the batch; passed on to the network."""
    guide_condition: Any = None
    """Passed on to the guide."""
    gaussian: Callable[[Tensor, Tensor, Any], Tensor] | None = None
    """(x_t, timestep (B,), condition) -> estimate of x0 in [-1, 1] (`GaussianEstimate`)."""
    gaussian_above: float | None = None
    """Noise level above which it is used; None: nowhere."""
    calibration: MaskCalibration | None = None
    """Of the mask of slices with a lesion; needs a `Condition`."""

    def __call__(self, x: Tensor, sigma: float, previous: Tensor | None) -> Tensor:
        signal = 1 / (1 + sigma**2) ** 0.5
        noise = sigma * signal
        time = torch.full(
            (x.shape[0],), float(self.schedule.time_at(sigma)), dtype=torch.float32, device=x.device
        )
        x_t = x * signal
        if self.is_gaussian_at(sigma):
            estimate = self.gaussian(x_t, time, self.condition)
            if self._guided(sigma):
                plain = self.gaussian(x_t, time, self.guide_condition)
                estimate = (plain + self.scale * (estimate - plain)).clamp(-1, 1)
            return estimate
        output = self.network(x_t, time, self.condition, previous).float()
        if self._guided(sigma):
            # x0, epsilon and v are one affine map of each other, so any of them can be guided.
            plain = self.guide(x_t, time, self.guide_condition, previous).float()
            output = plain + self.scale * (output - plain)
        x0, _ = to_x0_epsilon(self.prediction, output, x_t, torch.tensor(signal), torch.tensor(noise))
        x0 = x0.clamp(-1, 1) if self.clip else x0
        if self.calibration is None:
            return x0
        lesion = self.condition.label == 1
        if self.condition.null is not None:
            lesion = lesion & ~self.condition.null
        mask = torch.where(lesion[:, None, None], self.calibration(x0[:, 1], sigma), x0[:, 1])
        return torch.stack([x0[:, 0], mask], dim=1)

    def is_gaussian_at(self, sigma: float) -> bool:
        """Whether the Gaussian model estimates at this noise level."""
        return self.gaussian is not None and self.gaussian_above is not None and sigma > self.gaussian_above

    def _guided(self, sigma: float) -> bool:
        return self.guide is not None and self.scale != 1 and self.low < sigma <= self.high


@dataclass(frozen=True)
class Inpainted:
    """A denoiser of pairs of which a part is known: there its estimate is the known value.

    Every sampler then keeps that part of x at known + sigma times its noise, as the network saw it in training, and
    draws the rest around it (the replacement of Song et al. 2021, section 5 and appendix I.2, in coordinates in which
    the samplers need no change).
    """

    denoiser: Callable[[Tensor, float, Tensor | None], Tensor]
    known: Tensor
    """(B, 2, H, W) in [-1, 1]."""
    where: Tensor
    """bool (B, 2, H, W)."""
    hinted: Tensor | None = None
    """bool (B, 2, H, W): where the estimate is set to 1 while the noise level exceeds HINT_SIGMA."""

    def __call__(self, x: Tensor, sigma: float, previous: Tensor | None) -> Tensor:
        estimate = torch.where(self.where, self.known, self.denoiser(x, sigma, previous))
        if self.hinted is not None and sigma > HINT_SIGMA:
            estimate = torch.where(self.hinted, torch.ones_like(estimate), estimate)
        return estimate


def lesion_hint(where: Tensor, margin: int = 2) -> Tensor:
    """Where a lesion is hinted at: in the mask channel, in the region where neither image nor mask is known, `margin`
    px inside its border (the whole region where that leaves nothing). bool (B, 2, H, W), as `where`.

    Surroundings without a lesion suggest that there is none: without a hint most regions stay empty (docs/sampling.md).
    At low noise the hint is off, and the lesion takes its own shape.
    """
    region = ~where.any(dim=1, keepdim=True)
    side = 2 * margin + 1
    core = max_pool2d((~region).float(), side, stride=1, padding=margin) == 0
    hint = torch.where(core.any(dim=(2, 3), keepdim=True), core, region)
    return torch.cat([torch.zeros_like(hint), hint], dim=1)
