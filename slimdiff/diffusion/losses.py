"""The terms of the objective: pure functions that can be combined freely (docs/method.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimdiff.diffusion.prediction import PREDICTIONS

LOG_VARIANCE_LIMIT = 5.0


def lp_per_channel(
    prediction: Tensor, target: Tensor, exponents: Tensor, weights: Tensor | None = None
) -> Tensor:
    """mean |prediction - target|^p per sample and channel, without the 1/p root.

    Args:
        prediction, target: (B, C, H, W).
        exponents: p of each channel (C,).
        weights: pixel weights (B, C, H, W), or None for 1; the mean divides by their sum.
    Returns:
        (B, C) in float32 (float64 stays).
    """
    # float32: a bf16 difference has too few digits where the estimate is already close.
    powered = _powered(_full(prediction) - _full(target), exponents.view(1, -1, 1, 1))
    if weights is None:
        return powered.mean(dim=(2, 3))
    return (powered * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))


def lesion_weights(x0: Tensor, image: float, mask: float) -> Tensor:
    """Pixel weights (B, 2, H, W): `image` and `mask` on lesion pixels of that channel, 1 elsewhere."""
    lesion = (x0[:, 1:2] > 0).float()
    return torch.cat([1 + lesion * (image - 1), 1 + lesion * (mask - 1)], dim=1)


def haar_lp(error: Tensor, exponent: Tensor, weights: Sequence[float]) -> Tensor:
    """mean weight * |coefficient|^p over the orthonormal Haar transform of an error (Haar 1910).

    The best estimate is the same with any weights, since each coefficient has its own: the posterior mean for p = 2.

    Args:
        error: (B, H, W); H and W are multiples of 2^(len(weights) - 1).
        exponent: p, a scalar.
        weights: of the details of squares of 2 px, 4 px, ..., and last of the coarse rest.
    Returns:
        (B,) in float32 (float64 stays).
    """
    rest = _full(error)
    count, total = rest[0].numel(), 0
    for weight in weights[:-1]:
        a, b, c, d = (rest[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
        details = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 2
        total = total + weight * _powered(details, exponent).sum(dim=(1, 2, 3))
        rest = (a + b + c + d) / 2
    return (total + weights[-1] * _powered(rest, exponent).sum(dim=(1, 2))) / count


def focal_frequency(prediction: Tensor, target: Tensor, alpha: float, patches: int = 1) -> Tensor:
    """Focal frequency loss of a sample (Jiang et al. 2021, eq. 8-10): frequencies with a large error weigh more.

    mean over frequencies of (|dF| / max |dF|)^alpha * |dF|^2 with dF the difference of orthonormal 2-D spectra. The
    weight is a constant to the gradient.

    Args:
        prediction, target: (B, H, W).
        alpha: exponent of that weight; 0: all frequencies weigh the same.
        patches: pieces along each side with a spectrum each; the sides must be multiples of it.
    Returns:
        (B,).
    """
    difference = _full(prediction) - _full(target)
    height, width = difference.shape[1:]
    if height % patches or width % patches:
        raise ValueError(f"slices of {height} x {width} px cannot be cut into {patches} x {patches} patches")
    pieces = difference.unflatten(2, (patches, -1)).unflatten(1, (patches, -1)).transpose(2, 3)
    # The transform is linear: one instead of two.
    spectrum = torch.fft.fft2(pieces, norm="ortho")
    power = spectrum.real.square() + spectrum.imag.square()
    with torch.no_grad():
        size = power.sqrt()
        largest = size.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
        weight = (size / largest).pow(alpha)
    return (weight * power).mean(dim=(1, 2, 3, 4))


def min_snr_weight(space: str, signal: Tensor, noise: Tensor, gamma: float, floor: float = 0.0) -> Tensor:
    """Weight of a sample by its signal-to-noise ratio, clipped at gamma (Hang et al. 2023, section 3.4).

    Args:
        space: where the loss is taken: x0, epsilon or v.
        signal, noise: sqrt(alpha_bar), sqrt(1 - alpha_bar), any shape.
        gamma: 5 in the paper.
        floor: smallest ratio that counts; 0 in the paper.
    """
    snr = (signal / noise).square()
    cut = snr.clamp(floor, gamma)
    if space == "x0":
        return cut
    if space == "epsilon":
        return cut / snr
    if space == "v":
        return cut / (snr + 1)
    raise ValueError(f"loss space: expected {', '.join(PREDICTIONS)}, found {space!r}")


class Uncertainty(nn.Module):
    """Learned weights of loss terms: sum over groups of exp(-s) L + s / 2 (Kendall et al. 2018, eq. 7), |s| <= 5.

    Args:
        groups: the group of every term; terms of one group are summed and share s = log variance.
    """

    def __init__(self, groups: list[int]):
        super().__init__()
        membership = torch.zeros((max(groups) + 1, len(groups)))
        membership[groups, range(len(groups))] = 1
        self.register_buffer("membership", membership, persistent=False)
        self.log_variances = nn.Parameter(torch.zeros(len(membership)))

    def forward(self, terms: Tensor) -> Tensor:
        """terms: (n,). Returns their weighted sum."""
        with torch.no_grad():
            # In place: a clamp within the graph has no gradient outside, and s would never come back.
            self.log_variances.clamp_(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        s = self.log_variances
        sums = self.membership.to(terms.dtype) @ terms
        return ((-s).exp() * sums + s / 2).sum()


def _powered(error: Tensor, exponent: Tensor) -> Tensor:
    # |e|^p has no finite second derivative at 0 for p < 2; the tiny offset keeps its gradient defined.
    return (error.abs() + 1e-12).pow(exponent)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
