"""The reference's own procedures, to compare with its printed numbers: not what slimdiff believes in.

They differ from ours in what they are fed (docs/metrics.md): images whose grey levels have wrapped (F2), pairs of
slices of different heights. What the reference leaves to an unseeded generator is seeded here.
"""

import numpy as np
import torch
from torch.nn import functional as F

from slimdiff.evaluation.metrics.features import extract
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.evaluation.metrics.lpips import perceptual_loss
from slimdiff.evaluation.metrics.mmd import MmdEstimate

INCEPTION_PX = 299
SUBSETS = 100
SUBSET_SIZE = 1000
PAIRS = 1000
_BATCH = 16


def wrapped_uint8(images: np.ndarray) -> np.ndarray:
    """Slices as the reference's KID sees them: resized to 299 px, cut to 8 bits, times 255 once more, which wraps.

    Grey levels 0, 63, 127, 191, 255 become 0, 193, 129, 65, 1.

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
    real: np.ndarray, synthetic: np.ndarray, extractor: str, seed: int, device: str | torch.device = "cpu"
) -> MmdEstimate:
    """KID by the reference's procedure: wrapped images, 100 subsets of 1000, or of half the smaller set below that.

    The estimate within a subset is torchmetrics': cubic kernel, unbiased; rows are drawn as torch.randperm does.

    Args:
        real, synthetic: (N, H, W) and (M, H, W) float, in [-1, 1].
        extractor: whose features; the reference's is `inception`.
        seed: of the subsets.
        device: where features are computed.

    Returns:
        Mean and sd (ddof 0) over subsets; NaN where a set has fewer slices than a subset.
    """
    features = [
        torch.from_numpy(extract(wrapped_uint8(images), extractor, device=device)).double()
        for images in (real, synthetic)
    ]
    fewest = min(len(real), len(synthetic))
    size = SUBSET_SIZE if fewest >= SUBSET_SIZE else max(fewest // 2, 10)
    if fewest < size:
        return MmdEstimate(np.nan, np.nan, len(real), len(synthetic), size)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(SUBSETS):
        x, y = (part[torch.randperm(len(part), generator=generator)[:size]] for part in features)
        within = sum(_kernel(part, part).sum() - _kernel_diagonal(part).sum() for part in (x, y))
        values.append(float(within / (size * (size - 1)) - 2 * _kernel(x, y).mean()))
    return MmdEstimate(float(np.mean(values)), float(np.std(values)), len(real), len(synthetic), size)


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_diagonal(x: torch.Tensor) -> torch.Tensor:
    return ((x * x).sum(dim=1) / x.shape[1] + 1) ** 3


def lpips_ref(
    real: np.ndarray, synthetic: np.ndarray, seed: int, device: str | torch.device = "cpu"
) -> tuple[float, float, int]:
    """LPIPS by the reference's procedure: VGG, 1000 random pairs drawn with replacement, at whatever heights they lie.

    Args:
        real, synthetic: (N, H, W) and (M, H, W) float, in [-1, 1].
        seed: of the pairs (legacy NumPy generator, real slices first).
        device: where the network runs.

    Returns:
        Mean and sd (ddof 0) over pairs, and how many.
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
