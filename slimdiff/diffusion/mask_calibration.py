"""What a network's estimate of the mask means: the chance of a lesion at every pixel."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CLOSEST = 1e-3
"""Estimates are kept this far from certainty, so that their log odds are finite."""


@dataclass(frozen=True)
class MaskCalibration:
    """Calibrates the mask of a denoiser for slices of class 1 (docs/method.md, *Calibrated masks*).

    An exponent below 2, a weight of lesion pixels and a short training each distort the estimate: it is not the chance
    of a lesion, and samples have lesions of a wrong size. Here the log odds of the chance are a linear function of
    those of the estimate (Platt 1999), at each noise level.
    """

    log_sigma: list[float]
    """Noise levels of `slopes` and `offsets`, rising; between them both are linear in log sigma."""
    slopes: list[float]
    offsets: list[float]
    least_px: float
    """Chances of a slice that sum to less are raised by the ratio, so that no lesion is lost."""

    def __call__(self, estimate: Tensor, sigma: float) -> Tensor:
        """Calibrated estimates of slices with a lesion at this noise level, (B, H, W) in [-1, 1]."""
        slope, offset = (
            float(np.interp(math.log(sigma), self.log_sigma, of_levels))
            for of_levels in (self.slopes, self.offsets)
        )
        return 2 * chances(estimate, slope, offset, self.least_px) - 1


def log_odds(estimate: Tensor) -> Tensor:
    """Log odds of a lesion, from an estimate of the mask in [-1, 1]."""
    return torch.logit((estimate + 1) / 2, eps=CLOSEST)


def chances(estimate: Tensor, slope: float, offset: float, least_px: float) -> Tensor:
    """Chance of a lesion at every pixel, (B, H, W) in [0, 1]; see `MaskCalibration`."""
    chance = torch.sigmoid(slope * log_odds(estimate) + offset)
    missing = least_px / chance.sum(dim=(1, 2), keepdim=True)
    return (chance * missing.clamp_min(1)).clamp_max(1)
