"""A small segmenter of lesions: a 2-D U-Net of the parts that the diffusion network is made of.

A segmenter is a few networks whose probabilities are averaged. Its file, `segmenter-{percent}.safetensors`, holds the
weights; the metadata entry `segmenter` is the JSON of what the networks look like and of what they were trained on.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.files import replacing
from slimdiff.model.trunk import Decoder, Encoder, Middle, TrunkSpec

BACKGROUND = -1.0
NORM_GROUPS = 8
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
