"""Training a segmenter: balanced batches, light augmentation, soft Dice and cross-entropy, a fixed number of steps.

The number of steps is the same for every set: were it a number of passes, more data would also mean more training.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from slimdiff.config.utility import UtilityConfig
from slimdiff.evaluation.segmenter import BACKGROUND, SegmentationUNet, Segmenter

LESION_SHARE = 0.5
MAX_SHIFT_MM = 6.0
MAX_LOG_GAMMA = 0.3
WEIGHT_DECAY = 1e-4
GRADIENT_CLIP = 1.0
WARM_UP = 0.1


@dataclass(frozen=True)
class Pairs:
    """Slices with their masks, real or synthetic."""

    images: np.ndarray
    """float16 (N, H, W) in [-1, 1]."""
    masks: np.ndarray
    """bool (N, H, W)."""

    def __post_init__(self):
        if self.images.shape != self.masks.shape or self.masks.dtype != bool:
            raise ValueError(
                f"images {self.images.shape} and masks {self.masks.shape} {self.masks.dtype}; bool masks of the "
                "images' shape are wanted"
            )

    @property
    def with_lesion(self) -> np.ndarray:
        """(N,) bool: slices with a lesion."""
        return self.masks.any(axis=(1, 2))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> "Pairs":
        return Pairs(self.images[rows], self.masks[rows])

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs(*(np.concatenate(parts) for parts in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        return self.images, self.masks


def train_segmenter(
    pairs: Pairs, config: UtilityConfig, spacing_mm: float, device: torch.device
) -> Segmenter:
    """A segmenter of `config.members` networks, trained on these pairs.

    Args:
        pairs: the training set.
        config: size, steps, rate and seed; same seed, device and set give the same weights.
        spacing_mm: side of a pixel, which the shifts are measured by.
        device: where it is trained, and where it stays.

    Raises:
        ValueError: no slice has a lesion.
    """
    if not pairs.with_lesion.any():
        raise ValueError(f"a segmenter wants slices with a lesion, none of {len(pairs)} has one")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        segmenter = Segmenter(config.channels, config.patch, config.members)
    segmenter.to(device)
    images, masks = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in pairs.parts)
    with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
        for number, network in enumerate(segmenter.members):
            _train(network, images, masks, pairs.with_lesion, config, number, spacing_mm)
    return segmenter.eval()


def _train(
    network: SegmentationUNet,
    images: Tensor,
    masks: Tensor,
    with_lesion: np.ndarray,
    config: UtilityConfig,
    number: int,
    spacing_mm: float,
) -> None:
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_share(step, config.steps))
    for step in tqdm(range(config.steps), desc="segmenter", unit="step", mininterval=5):
        chances = np.random.default_rng([config.seed, number, step])
        rows = torch.from_numpy(choose(with_lesion, config.batch_size, chances)).to(images.device)
        x, target = augment(images[rows].float(), masks[rows], spacing_mm, chances)
        loss = segmentation_loss(network(x[:, None])[:, 0], target.float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
        optimiser.step()
        rate.step()


def rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear up over the first tenth, times a cosine down to 0."""
    return min(1.0, (step + 1) / (WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def choose(with_lesion: np.ndarray, size: int, chances: np.random.Generator) -> np.ndarray:
    """Rows (size,) with replacement, half of them with a lesion where both kinds are there.

    Args:
        with_lesion: (N,) bool.
        size: of the batch; of an odd one chance decides the last slice.
        chances: where the draws come from.
    """
    kinds = [np.flatnonzero(with_lesion), np.flatnonzero(~with_lesion)]
    lesions = int(size * LESION_SHARE + chances.random())
    if not len(kinds[1]):
        lesions = size
    counts = (lesions, size - lesions)
    return np.concatenate(
        [
            rows[chances.integers(len(rows), size=count)]
            for rows, count in zip(kinds, counts, strict=True)
            if count
        ]
    )


def augment(
    images: Tensor, masks: Tensor, spacing_mm: float, chances: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Exchange left and right of half of the slices, shift each by whole pixels, and change the images' gamma.

    Args:
        images: (B, H, W) in [-1, 1].
        masks: (B, H, W) bool, flipped and shifted alike.
        spacing_mm: side of a pixel; shifts reach 6 mm along each axis. What comes in from outside is background.
        chances: where the draws come from.
    """
    count, height, width = images.shape
    device, reach = images.device, int(MAX_SHIFT_MM / spacing_mm)
    flip = torch.from_numpy(chances.random(count) < 0.5).to(device)
    shift = torch.from_numpy(chances.integers(-reach, reach + 1, size=(2, count, 1))).to(device)
    gamma = torch.from_numpy(np.exp(chances.uniform(-MAX_LOG_GAMMA, MAX_LOG_GAMMA, count)).astype(np.float32))
    y = torch.arange(height, device=device) - shift[0]
    x = torch.arange(width, device=device) - shift[1]
    x = torch.where(flip[:, None], width - 1 - x, x)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    sample = torch.arange(count, device=device)[:, None, None]
    place = (sample, y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :])
    grey = ((images[place] + 1) / 2).clamp(0, 1).pow(gamma.to(device)[:, None, None])
    return torch.where(inside, grey * 2 - 1, BACKGROUND), masks[place] & inside


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy + 1 - soft Dice over all pixels of the batch (Milletari et al. 2016, linear denominator).

    The Dice of single slices would be undefined where there is no lesion; of the batch it is not.

    Args:
        logits, target: (B, H, W), the target in {0, 1}.
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum()
    dice = (2 * overlap + 1) / (probability.sum() + target.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + 1 - dice
