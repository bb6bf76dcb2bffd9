"""KID and LPIPS by the procedures of the published code, only for comparison with its published numbers.

The inputs differ from slimdiff's own metrics (docs/metrics.md): KID uses images with wrapped grey levels (F2), LPIPS
uses pairs of slices of different heights. Random choices are seeded here; in the published code they are not.
"""

import numpy as np
import torch
from torch.nn import functional as F

from slimdiff.evaluation.metrics.features import extract
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.kid import MmdEstimate
from slimdiff.evaluation.metrics.lpips import perceptual_loss
from slimdiff.stored_rows import ConvertedRows, Rows

INCEPTION_PX = 299
SUBSETS = 100
SUBSET_SIZE = 1000
PAIRS = 1000
_BATCH = 16


def wrapped_uint8(images: np.ndarray) -> np.ndarray:
    """Slices as input of the published KID: resized to 299 px, converted to 8 bits, and multiplied by 255 again.

    The second multiplication wraps: grey levels 0, 63, 127, 191, 255 become 0, 193, 129, 65, 1.

    Args:
        images: (N, H, W) float, in [-1, 1].

    Returns:
        (N, 299, 299) uint8.

    Raises:
        TypeError, ValueError: as `store_precision`.
    """
    resized = np.empty((len(images), INCEPTION_PX, INCEPTION_PX), np.uint8)
    for start in range(0, len(images), _BATCH):
        share = torch.from_numpy((store_precision(images[start : start + _BATCH]) + 1) / 2)[:, None]
        share = F.interpolate(share, size=resized.shape[1:], mode="bilinear", align_corners=False)
        resized[start : start + _BATCH] = (share[:, 0] * 255).to(torch.uint8).numpy()
    return (resized.astype(np.uint16) * 255).astype(np.uint8)


def kid_ref(
    real: np.ndarray | Rows,
    synthetic: np.ndarray | Rows,
    extractor: str,
    seed: int,
    device: str | torch.device = "cpu",
) -> MmdEstimate:
    """KID by the published procedure: wrapped images, 100 subsets.

    A subset has 1000 slices of each set, or half of the smaller set if that has fewer than 1000. The estimate within
    a subset is that of torchmetrics (cubic kernel, unbiased); slices are drawn by torch.randperm.

    Args:
        real, synthetic: (N, H, W) and (M, H, W) float, in [-1, 1].
        extractor: network that computes the features; `inception` in the published code.
        seed: seed of the subsets.
        device: where features are computed.

    Returns:
        Mean and sd (ddof 0) over subsets; NaN if a set has fewer slices than a subset.
    """
    side = (INCEPTION_PX, INCEPTION_PX)
    features = [
        torch.from_numpy(
            extract(ConvertedRows(images, wrapped_uint8, np.uint8, side), extractor, device=device)
        )
        for images in (real, synthetic)
    ]
    fewest = min(len(real), len(synthetic))
    size = SUBSET_SIZE if fewest >= SUBSET_SIZE else max(fewest // 2, 10)
    if fewest < size:
        return MmdEstimate(np.nan, np.nan, len(real), len(synthetic), size)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(SUBSETS):
        x, y = (part[torch.randperm(len(part), generator=generator)[:size]].double() for part in features)
        within = sum(_kernel(part, part).sum() - _kernel_diagonal(part).sum() for part in (x, y))
        values.append(float(within / (size * (size - 1)) - 2 * _kernel(x, y).mean()))
    return MmdEstimate(float(np.mean(values)), float(np.std(values)), len(real), len(synthetic), size)


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_diagonal(x: torch.Tensor) -> torch.Tensor:
    return ((x * x).sum(dim=1) / x.shape[1] + 1) ** 3


def lpips_ref(
    real: np.ndarray | Rows, synthetic: np.ndarray | Rows, seed: int, device: str | torch.device = "cpu"
) -> tuple[float, float, int]:
    """LPIPS by the published procedure: VGG, 1000 random pairs of any heights, drawn with replacement.

    Args:
        real, synthetic: (N, H, W) and (M, H, W) float, in [-1, 1].
        seed: seed of the pairs (legacy NumPy generator, real slices first).
        device: where the network runs.

    Returns:
        Mean and sd (ddof 0) over pairs, and the number of pairs.
    """
    n_pairs = min(PAIRS, len(real) * len(synthetic))
    if not n_pairs:
        return np.nan, np.nan, 0
    generator = np.random.RandomState(seed)
    of_real = generator.choice(len(real), n_pairs, replace=True)
    of_synthetic = generator.choice(len(synthetic), n_pairs, replace=True)
    distance, values = perceptual_loss("vgg", device), []
    with torch.inference_mode():
        for start in range(0, n_pairs, _BATCH):
            rows = slice(start, start + _BATCH)
            pair = [
                torch.from_numpy(store_precision(images[chosen[rows]])).to(device)[:, None]
                for images, chosen in ((real, of_real), (synthetic, of_synthetic))
            ]
            values.append(distance(*pair).double().cpu().numpy())
    values = np.concatenate(values)
    return float(values.mean()), float(values.std()), n_pairs
