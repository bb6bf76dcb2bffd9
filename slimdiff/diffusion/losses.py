"""The objective."""

import torch
from torch import Tensor


def lp_per_channel(
    prediction: Tensor, wanted: Tensor, exponents: Tensor, weights: Tensor | None = None
) -> Tensor:
    """mean |prediction - target|^p a sample and channel, without the 1/p root.

    Args:
        prediction, wanted: (B, C, H, W).
        exponents: p of each channel (C,).
        weights: pixel weights (B, C, H, W), or None for 1; the mean divides by their sum.
    Returns:
        (B, C) in float32.
    """
    # float32: a bf16 difference has too few digits where the estimate is already close.
    error = (prediction.float() - wanted.float()).abs()
    # |e|^p has no finite second derivative at 0 for p < 2; the tiny offset keeps its gradient defined.
    powered = (error + 1e-12).pow(exponents.view(1, -1, 1, 1))
    if weights is None:
        return powered.mean(dim=(2, 3))
    return (powered * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))


def lesion_weights(x0: Tensor, weight: float) -> Tensor:
    """Pixel weights (B, 2, H, W): `weight` on lesion pixels of the mask channel, 1 elsewhere."""
    weights = torch.ones_like(x0, dtype=torch.float32)
    weights[:, 1] += (weight - 1) * (x0[:, 1] > 0)
    return weights
