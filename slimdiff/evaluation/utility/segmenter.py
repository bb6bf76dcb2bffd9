"""A small lesion segmenter: a 2-D U-Net from the same blocks as the diffusion network.

A segmenter is one or more networks whose probabilities are averaged. Its file, `segmenter-{percent}.safetensors`,
contains the weights. The metadata entry `segmenter` is a JSON description of the architecture and the training set.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from slimdiff.config.utility import UtilityConfig
from slimdiff.files import CHECKSUM, require_file
from slimdiff.model.archive import read_record, read_tensors, write_archive
from slimdiff.model.trunk import Decoder, Encoder, Middle, TrunkSpec

BACKGROUND = -1.0
NORM_GROUPS = 8
MEMBERS = 1
"""Default number of networks of a segmenter, whose probabilities are averaged."""
HEAD_CHANNELS = 16
# Lesion probability of a pixel before training (Lin et al. 2017, section 3.3).
LESION_PRIOR = 0.02


class SegmentationUNet(nn.Module):
    """U-Net that predicts the lesion logit of every pixel of an image.

    Args:
        channels: feature channels per level, finest first, multiples of 16.
        patch: side, in px, of the square patches that are unshuffled to channels before the first convolution and
            shuffled back after the last; 1: no patches.
    """

    def __init__(self, channels: tuple[int, ...], patch: int = 1):
        super().__init__()
        shape = TrunkSpec(
            tuple(channels),
            res_blocks=1,
            attention=(False,) * len(channels),
            head_channels=HEAD_CHANNELS,
            norm_groups=NORM_GROUPS,
            embedding=1,
        )
        self.patch = patch
        self.divisor = patch * 2 ** (len(channels) - 1)
        self.encoder = Encoder(shape, patch**2)
        self.middle = Middle(shape, channels[-1])
        self.decoder = Decoder(shape, self.encoder.skip_widths, patch**2)
        # Without time and condition, only the bias of the embedding layer in every block has an effect.
        self.register_buffer("embedding", torch.zeros(1, 1), persistent=False)
        nn.init.constant_(self.decoder.head.bias, float(np.log(LESION_PRIOR / (1 - LESION_PRIOR))))

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 1, H, W) in [-1, 1] of any size -> logits (B, 1, H, W)."""
        height, width = images.shape[2:]
        below, right = -height % self.divisor, -width % self.divisor
        x = F.pad(images, (0, right, 0, below), value=BACKGROUND)
        x = F.pixel_unshuffle(x, self.patch)
        embedding = self.embedding.expand(len(x), 1)
        hidden, skips = self.encoder(x, embedding, None)
        logits = self.decoder(self.middle(hidden, embedding, None), skips, embedding, None)
        return F.pixel_shuffle(logits, self.patch)[:, :, :height, :width]


class Segmenter(nn.Module):
    """Networks of one architecture, trained on the same slices with different seeds.

    Args:
        channels, patch: see `SegmentationUNet`.
        members: number of networks.
    """

    def __init__(self, channels: tuple[int, ...], patch: int, members: int):
        super().__init__()
        self.channels, self.patch = tuple(channels), patch
        self.members = nn.ModuleList(SegmentationUNet(channels, patch) for _ in range(members))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 1, H, W) in [-1, 1] -> mean probability of lesion (B, 1, H, W)."""
        return torch.stack([network(images).sigmoid() for network in self.members]).mean(dim=0)


@torch.no_grad()
def predict(segmenter: Segmenter, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Predict lesion masks at a threshold of 0.5.

    Args:
        segmenter: the segmenter; its device is used.
        images: (N, H, W) float in [-1, 1].
        batch_size: slices per batch; it does not change the result.

    Returns:
        (N, H, W) bool.
    """
    device = next(segmenter.parameters()).device
    segmenter.eval()
    parts = [np.zeros((0, *images.shape[1:]), bool)]
    for start in range(0, len(images), batch_size):
        block = np.asarray(images[start : start + batch_size], np.float32)
        parts.append((segmenter(torch.from_numpy(block)[:, None].to(device)) > 0.5)[:, 0].cpu().numpy())
    return np.concatenate(parts)


def save_segmenter(path: Path, segmenter: Segmenter, facts: dict) -> None:
    """Write weights and facts (serialisable to JSON) atomically."""
    shape = {
        "channels": segmenter.channels,
        "patch": segmenter.patch,
        "members": len(segmenter.members),
    }
    write_archive(path, segmenter.state_dict(), "segmenter", {**facts, "network": shape})


def load_segmenter(path: Path, device: torch.device) -> tuple[Segmenter, dict]:
    """Load a segmenter to the device, with its facts.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not contain a segmenter, or it is damaged.
    """
    path = Path(path)
    require_file(path, "expected a segmenter, found no file; run slimdiff-segmenter first")
    remedy = "delete it and run slimdiff-segmenter again"
    facts, _ = read_record(path, "segmenter", "segmenter", remedy)
    weights = read_tensors(path, facts, remedy)
    facts.pop(CHECKSUM, None)
    try:
        segmenter = Segmenter(**facts.pop("network"))
        segmenter.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: not readable as a segmenter: {error}; {remedy}") from None
    return segmenter.to(device), facts


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
                f"expected bool masks of the shape of the images, {self.images.shape}, found {self.masks.dtype} "
                f"masks of shape {self.masks.shape}"
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
    pairs: Pairs, config: UtilityConfig, spacing_mm: float, device: torch.device, members: int = MEMBERS
) -> Segmenter:
    """Train a segmenter of one or more networks on these pairs.

    Args:
        pairs: the training set.
        config: size, steps, learning rate and seed. The same seed, device and training set give the same weights.
        spacing_mm: side of a pixel, for the shifts of the augmentation.
        device: device of the training and of the returned segmenter.
        members: number of networks whose probabilities are averaged.

    Raises:
        ValueError: no slice has a lesion.
    """
    if not pairs.with_lesion.any():
        raise ValueError(
            f"expected training slices with a lesion, found none among {len(pairs)}; add subjects with lesions"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        segmenter = Segmenter(config.channels, config.patch, members)
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
        rng = np.random.default_rng([config.seed, number, step])
        rows = torch.from_numpy(choose(with_lesion, config.batch_size, rng)).to(images.device)
        x, target = augment(images[rows].float(), masks[rows], spacing_mm, rng)
        loss = segmentation_loss(network(x[:, None])[:, 0], target.float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
        optimiser.step()
        rate.step()


def rate_share(step: int, steps: int) -> float:
    """Learning rate at a step relative to its peak: linear warm-up over the first tenth, times cosine decay to 0."""
    return min(1.0, (step + 1) / (WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def choose(with_lesion: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw (size,) rows with replacement, half of them with a lesion if both kinds of slices exist.

    Args:
        with_lesion: (N,) bool.
        size: batch size; if it is odd, the kind of the last slice is random.
        chances: random generator.
    """
    kinds = [np.flatnonzero(with_lesion), np.flatnonzero(~with_lesion)]
    lesions = int(size * LESION_SHARE + rng.random())
    if not len(kinds[1]):
        lesions = size
    counts = (lesions, size - lesions)
    return np.concatenate(
        [
            rows[rng.integers(len(rows), size=count)]
            for rows, count in zip(kinds, counts, strict=True)
            if count
        ]
    )


def augment(
    images: Tensor, masks: Tensor, spacing_mm: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror half of the slices left to right, shift each by whole pixels, and change the gamma of the images.

    Args:
        images: (B, H, W) in [-1, 1].
        masks: (B, H, W) bool, mirrored and shifted with their images.
        spacing_mm: side of a pixel. Shifts are at most 6 mm along each axis; new pixels are background.
        chances: random generator.
    """
    count, height, width = images.shape
    device, reach = images.device, int(MAX_SHIFT_MM / spacing_mm)
    flip = torch.from_numpy(rng.random(count) < 0.5).to(device)
    shift = torch.from_numpy(rng.integers(-reach, reach + 1, size=(2, count, 1))).to(device)
    gamma = torch.from_numpy(np.exp(rng.uniform(-MAX_LOG_GAMMA, MAX_LOG_GAMMA, count)).astype(np.float32))
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

    Dice is computed over the batch, because it is undefined for a single slice without a lesion.

    Args:
        logits: (B, H, W).
        target: (B, H, W) in {0, 1}.
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum()
    dice = (2 * overlap + 1) / (probability.sum() + target.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + 1 - dice
