"""LPIPS, the learned perceptual distance between two slices (Zhang et al. 2018, version 0.1), by the package `lpips`.

All weights come from `slimdiff.weights`, so that machines without network work.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from slimdiff import weights
from slimdiff.evaluation.metrics.grey_levels import to_uint8

if TYPE_CHECKING:
    from lpips import LPIPS

SMALLEST_PX = 32
UPSAMPLE_BELOW_PX = 64
BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}
"""LPIPS net: name of its backbone in `slimdiff.weights`."""


def lpips_distance(
    a: np.ndarray,
    b: np.ndarray,
    net: str = "alex",
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """LPIPS between a[i] and b[i].

    Both are first rounded to 256 grey levels, as images read from files are, so that the distance does not depend on
    their floating-point precision. Slices with a side of 32 to 63 px are upsampled bilinearly by two: AlexNet strides
    by 16 and would leave one or two positions in its last stages.

    Args:
        a, b: (N, H, W) float, in [-1, 1].
        net: `alex` or `vgg`.
        batch_size: pairs at a time; changes the result by rounding errors only.
        device: where the network runs.

    Returns:
        (N,) float64, 0 for equal slices.

    Raises:
        KeyError: unknown net.
        TypeError, ValueError: as `to_uint8`; or shapes that differ, or a side under 32 px.
        WeightsUnavailable: the pretrained weights are not available.
    """
    if net not in BACKBONES:
        raise KeyError(f"LPIPS net: expected one of {', '.join(BACKBONES)}, found {net!r}")
    a, b = to_uint8(a), to_uint8(b)
    if a.shape != b.shape:
        raise ValueError(f"LPIPS: expected pairs of slices of one shape, found {a.shape} and {b.shape}")
    if min(a.shape[1:]) < SMALLEST_PX:
        raise ValueError(
            f"LPIPS: expected slices of at least {SMALLEST_PX} px a side, found {a.shape[1]} x {a.shape[2]} px"
        )
    network = _network(net, str(device))
    distances = []
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
    ):
        for start in range(0, len(a), batch_size):
            rows = slice(start, start + batch_size)
            pair = [_prepared(images[rows], device) for images in (a, b)]
            distances.append(network(*pair).flatten().double().cpu().numpy())
    return np.concatenate(distances) if distances else np.empty(0)


def perceptual_loss(
    net: str, device: str | torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """LPIPS as a training loss: a function of two (B, 1, H, W) in [-1, 1] that returns (B,), with gradients.

    Nothing is rounded to grey levels, and small slices are upsampled as in `lpips_distance`. float32 throughout.

    Raises:
        WeightsUnavailable: the pretrained weights, or the package `lpips`, are not available.
    """
    network = _network(net, str(device))

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return network(_channels(a.float()), _channels(b.float())).flatten()

    return distance


def _prepared(images: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return _channels(torch.from_numpy(images).to(device)[:, None].float() / 127.5 - 1)


def _channels(grey: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) of grey images (B, 1, H, W), small ones upsampled by two."""
    if min(grey.shape[2:]) < UPSAMPLE_BELOW_PX:
        grey = F.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    return grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def _network(net: str, device: str) -> "LPIPS":
    # Imported here: a bare training node needs `lpips` only for the perceptual loss.
    try:
        from lpips import LPIPS, ScalingLayer
    except ImportError as error:
        raise weights.WeightsUnavailable(
            f"LPIPS needs the package lpips: {error}; pip install lpips"
        ) from error

    tensors = weights.load(BACKBONES[net])
    # Without memory for its parameters: the package would fill VGG16 with its classifier, 0.5 GB of random numbers.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the package's outdated arguments
        network = LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = ScalingLayer()
    convolutions = [
        name for name, module in network.net.named_modules() if isinstance(module, torch.nn.Conv2d)
    ]
    state = {
        f"net.{name}.{part}": tensors[f"conv{i}.{part}"]
        for i, name in enumerate(convolutions)
        for part in ("weight", "bias")
    }
    for stage, layer in enumerate(network.lins):
        (name,) = layer.state_dict()
        # The package holds each linear layer under two names.
        state |= {
            f"{prefix}.{name}": tensors[f"lin{stage}.weight"] for prefix in (f"lin{stage}", f"lins.{stage}")
        }
    state |= {f"scaling_layer.{name}": value for name, value in network.scaling_layer.state_dict().items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False).to(device, memory_format=torch.channels_last)


def matched_pairs(
    bins_a: np.ndarray,
    bins_b: np.ndarray,
    n_pairs: int,
    seed: int,
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs of slices from the same z-bin, drawn with replacement; LPIPS is averaged over them.

    Args:
        bins_a, bins_b: (N,) and (M,) z-bin of each slice.
        n_pairs: number of pairs.
        seed: of the random pairs.
        groups_a, groups_b: subject (or sample id, within one set) of each slice; it differs within every pair.

    Returns:
        Two (n_pairs,) index arrays; empty if no two slices fit.
    """
    bins_a, bins_b = np.asarray(bins_a), np.asarray(bins_b)
    # How many of b fit is counted: a table of all pairs of 100,000 samples would need 10 GB.
    _, bins = np.unique(np.concatenate([bins_a, bins_b]), return_inverse=True)
    a, b = bins[: len(bins_a)], bins[len(bins_a) :]
    fitting = np.bincount(b, minlength=len(bins) + 1)[a]
    groups = None
    if groups_a is not None and groups_b is not None:
        _, groups = np.unique(np.concatenate([groups_a, groups_b]), return_inverse=True)
        cells, of_cell = np.unique(bins * (len(bins) + 1) + groups, return_inverse=True)
        own = np.bincount(of_cell[len(a) :], minlength=len(cells))
        fitting = fitting - own[of_cell[: len(a)]]
    rows = np.flatnonzero(fitting > 0)
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    generator = np.random.default_rng(seed)
    first = generator.choice(rows, n_pairs)
    second = np.empty(n_pairs, np.int64)
    for pair, row in enumerate(first):
        allowed = b == a[row]
        if groups is not None:
            allowed &= groups[len(a) :] != groups[row]
        second[pair] = generator.choice(np.flatnonzero(allowed))
    return first, second
