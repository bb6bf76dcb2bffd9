"""A small segmenter of lesions: a 2-D U-Net of the parts that the diffusion network is made of.

A segmenter is a few networks whose probabilities are averaged. Its file, `segmenter-{percent}.safetensors`, holds the
weights; the metadata entry `segmenter` is the JSON of what the networks look like and of what they were trained on.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from slimdiff.config.utility import UtilityConfig
from slimdiff.files import replacing
from slimdiff.model.trunk import Decoder, Encoder, Middle, TrunkSpec

BACKGROUND = -1.0
NORM_GROUPS = 8
MEMBERS = 1
"""Networks of a segmenter, whose probabilities are averaged."""
HEAD_CHANNELS = 16
# What a pixel is worth before anything was learnt: few are lesion (Lin et al. 2017, section 3.3).
LESION_PRIOR = 0.02


class SegmentationUNet(nn.Module):
    """Logit of lesion of every pixel of an image.

    Args:
        channels: feature channels a level, finest first, multiples of 16.
        patch: side of the squares, in px, that become channels before the first convolution and pixels again after
            the last (1: none).
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
        # There is no time and no condition: of every block's embedding only its bias is left.
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
    """Networks of one kind, trained on the same slices from different seeds.

    Args:
        channels, patch: of every `SegmentationUNet`.
        members: how many.
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
    """Where a lesion is more likely than not.

    Args:
        segmenter: on the device where the work is done.
        images: (N, H, W) float in [-1, 1].
        batch_size: slices at a time; no slice's answer depends on the others.

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
    """Write weights and facts (what JSON can hold) atomically."""
    shape = {
        "channels": segmenter.channels,
        "patch": segmenter.patch,
        "members": len(segmenter.members),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in segmenter.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"segmenter": json.dumps({**facts, "network": shape})})


def load_segmenter(path: Path, device: torch.device) -> tuple[Segmenter, dict]:
    """The segmenter of a file on the device, and its facts.

    Raises FileNotFoundError where there is none, ValueError where the file is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such segmenter; run slimdiff-metrics segmenter first")
    with safe_open(path, framework="pt") as archive:
        facts = json.loads((archive.metadata() or {}).get("segmenter", "null"))
        if facts is None:
            raise ValueError(f"{path}: a safetensors file, but not of a segmenter")
        weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    segmenter = Segmenter(**facts.pop("network"))
    segmenter.load_state_dict(weights)
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
    pairs: Pairs, config: UtilityConfig, spacing_mm: float, device: torch.device, members: int = MEMBERS
) -> Segmenter:
    """A segmenter of one or more networks, trained on these pairs.

    Args:
        pairs: the training set.
        config: size, steps, rate and seed; same seed, device and set give the same weights.
        spacing_mm: side of a pixel, which the shifts are measured by.
        device: where it is trained, and where it stays.
        members: networks whose probabilities are averaged.

    Raises:
        ValueError: no slice has a lesion.
    """
    if not pairs.with_lesion.any():
        raise ValueError(f"a segmenter wants slices with a lesion, none of {len(pairs)} has one")
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
