"""Random alterations that the embedding of `copies.contrastive` learns to ignore. Needs only torch."""

import math

import torch
from torch.nn import functional

SHIFT, DEGREES = 0.06, 7.0
"""Largest shift, as a share of the side of the image, and largest rotation."""
NOISE, BLUR_PX = 0.12, 1.2
"""Largest standard deviation of noise, for images in [-1, 1], and of the Gaussian blur."""
GAIN, GAMMA = 0.15, 0.3
"""Largest relative change of intensity, and largest |log gamma|."""
OFTEN = 0.6
"""Probability of each of noise and blur."""
_RADIUS = 4  # of the kernel of the blur, in px


def altered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image shifted, rotated, with another gain and gamma, and often blurred and noisy.

    Args:
        images: (N, 1, H, W) float32 in [-1, 1]; -1 is the background.
        generator: source of all random numbers, on the CPU.

    Returns:
        (N, 1, H, W) float32 in [-1, 1].
    """
    n = len(images)

    def drawn(low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand(n, generator=generator)).to(images.device)

    def sometimes(value: torch.Tensor) -> torch.Tensor:
        return value * (torch.rand(n, generator=generator) < OFTEN).to(images.device)

    level = moved(
        (images + 1) / 2,
        drawn(-DEGREES, DEGREES) * math.pi / 180,
        torch.stack([drawn(-SHIFT, SHIFT), drawn(-SHIFT, SHIFT)], dim=1),
    )
    level = blurred(level, sometimes(drawn(0.2, BLUR_PX)))
    gain, gamma = (
        (1 + drawn(-GAIN, GAIN))[:, None, None, None],
        drawn(-GAMMA, GAMMA).exp()[:, None, None, None],
    )
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    level = level.clamp(min=1e-6) ** gamma * gain
    sd = sometimes(drawn(0, NOISE))[:, None, None, None]
    return (2 * level - 1 + sd * noise).clamp(-1, 1)


def moved(level: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, H, W) rotated about their centre, then shifted, bilinearly; 0 enters at the borders.

    Args:
        angle: (N,) in radians.
        shift: (N, 2) along columns and rows, as a share of the side.
    """
    cos, sin = angle.cos(), angle.sin()
    ratio = level.shape[2] / level.shape[3]  # so that a rotation keeps its angle where H and W differ
    rows = [torch.stack([cos, -sin * ratio, 2 * shift[:, 0]], dim=1)]
    rows.append(torch.stack([sin / ratio, cos, 2 * shift[:, 1]], dim=1))
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(level.shape), align_corners=False)
    return functional.grid_sample(level, grid, padding_mode="zeros", align_corners=False)


def blurred(level: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, H, W), each convolved with a Gaussian of its own standard deviation (N,) in px; 0: unchanged."""
    places = torch.arange(-_RADIUS, _RADIUS + 1, device=level.device, dtype=level.dtype)
    kernel = torch.exp(-(places**2) / (2 * sd.clamp(min=1e-3)[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    n, _, height, width = level.shape
    level = level.reshape(1, n, height, width)
    for shape in ((n, 1, -1, 1), (n, 1, 1, -1)):
        padding = [0, 0, _RADIUS, _RADIUS] if shape[2] == -1 else [_RADIUS, _RADIUS, 0, 0]
        padded = functional.pad(level, padding, mode="replicate")
        level = functional.conv2d(padded, kernel.reshape(shape), groups=n)
    return level.reshape(n, 1, height, width)
