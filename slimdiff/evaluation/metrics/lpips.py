"""LPIPS, the learned perceptual distance between two slices (Zhang et al. 2018, version 0.1)."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from slimdiff import weights
from slimdiff.evaluation.metrics.extractors import VGG16, AlexNet, Trunk
from slimdiff.evaluation.metrics.grey_levels import to_uint8

SMALLEST_PX = 32
UPSAMPLE_BELOW_PX = 64
_TRUNKS = {"alex": AlexNet, "vgg": VGG16}
_EPSILON = 1e-10  # added to the norm of a position's channels, as the authors do


def lpips_distance(
    a: np.ndarray,
    b: np.ndarray,
    net: str = "alex",
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """LPIPS between a[i] and b[i].

    Both are rounded to 256 grey levels first, as images read from files are, so that neither carries its
    precision. Slices with a side of 32 to 63 px are upsampled bilinearly by two: AlexNet strides by 16 and
    would leave one or two positions in its last stages.

    Args:
        a, b: (N, H, W) float, in [-1, 1].
        net: `alex` or `vgg`.
        batch_size: pairs at a time; no influence beyond rounding errors.
        device: where the network runs.

    Returns:
        (N,) float64, 0 for equal slices.

    Raises:
        KeyError: unknown net.
        TypeError, ValueError: as `to_uint8`; or shapes that differ, or a side under 32 px.
        WeightsUnavailable: the pretrained weights cannot be had.
    """
    if net not in _TRUNKS:
        raise KeyError(f"no LPIPS net is called {net!r}; known: {', '.join(_TRUNKS)}")
    a, b = to_uint8(a), to_uint8(b)
    if a.shape != b.shape:
        raise ValueError(f"pairs of slices are wanted, found shapes {a.shape} and {b.shape}")
    if min(a.shape[1:]) < SMALLEST_PX:
        raise ValueError(
            f"slices of {a.shape[1]} x {a.shape[2]} px are too small for LPIPS; at least {SMALLEST_PX} px"
        )
    trunk, linear = _lpips_network(net, str(device))
    distances = []
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
    ):
        for start in range(0, len(a), batch_size):
            rows = slice(start, start + batch_size)
            pair = [_prepared(images[rows], device) for images in (a, b)]
            distances.append(stage_distances(trunk, linear, *pair).double().cpu().numpy())
    return np.concatenate(distances) if distances else np.empty(0)


def perceptual_loss(
    net: str, device: str | torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """LPIPS as a training loss: a function of two (B, 1, H, W) in [-1, 1] that gives (B,), with gradients.

    Nothing is rounded to grey levels, and small slices are upsampled as in `lpips_distance`. float32 throughout.

    Raises:
        WeightsUnavailable: the pretrained weights cannot be had.
    """
    trunk, linear = _lpips_network(net, str(device))

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return stage_distances(trunk, linear, _enlarged(a.float()), _enlarged(b.float()))

    return distance


def stage_distances(
    trunk: Trunk, linear: list[torch.Tensor], a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """Sum over stages of the spatial mean of the weighted squared difference of unit activations (eq. 1).

    Args:
        trunk: the backbone.
        linear: five tensors (1, channels, 1, 1), non-negative.
        a, b: (B, 1, H, W) in [-1, 1].

    Returns:
        (B,).
    """
    total = torch.zeros(len(a), device=a.device)
    for weight, of_a, of_b in zip(linear, trunk(a), trunk(b), strict=True):
        difference = _unit(of_a) - _unit(of_b)
        total = total + (weight * difference**2).sum(dim=1).mean(dim=(1, 2))
    return total


def _unit(activation: torch.Tensor) -> torch.Tensor:
    # A position where nothing fires has no direction; the square root's gradient there would be infinite.
    squared = activation.pow(2).sum(dim=1, keepdim=True)
    length = torch.where(squared > 0, squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt(), 0)
    return activation / (length + _EPSILON)


def _prepared(images: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return _enlarged(torch.from_numpy(images).to(device)[:, None].float() / 127.5 - 1)


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    if min(x.shape[2:]) < UPSAMPLE_BELOW_PX:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x


@lru_cache(maxsize=2)
def _lpips_network(net: str, device: str) -> tuple[Trunk, list[torch.Tensor]]:
    trunk = _TRUNKS[net].pretrained().to(device)
    tensors = weights.load(trunk.NAME)
    return trunk, [tensors[f"lin{stage}.weight"].to(device) for stage in range(5)]


def matched_pairs(
    bins_a: np.ndarray,
    bins_b: np.ndarray,
    n_pairs: int,
    seed: int,
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs of slices from the same z-bin, drawn with replacement; what LPIPS is averaged over.

    Args:
        bins_a, bins_b: (N,) and (M,) z-bin of each slice.
        n_pairs: how many pairs.
        seed: of the draws.
        groups_a, groups_b: subject (or sample id, within one set) of each slice; a pair joins no equal ones.

    Returns:
        Two (n_pairs,) index arrays; empty where no two slices fit.
    """
    bins_a, bins_b = np.asarray(bins_a), np.asarray(bins_b)
    allowed = bins_a[:, None] == bins_b[None]
    if groups_a is not None and groups_b is not None:
        allowed &= np.asarray(groups_a)[:, None] != np.asarray(groups_b)[None]
    rows = np.flatnonzero(allowed.any(axis=1))
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    generator = np.random.default_rng(seed)
    first = generator.choice(rows, n_pairs)
    return first, np.array([generator.choice(np.flatnonzero(allowed[row])) for row in first], np.int64)
