"""An embedding that is learnt from the training slices of a fold: altered copies of a slice are close in it.

A small network is trained by contrast: it must recognise a slice from an altered copy of it among other slices of the
same height (the loss is that of Chen et al. 2020, SimCLR; the search for copies of medical images in such a space
follows Dar et al. 2025). It sees training slices alone; held-out slices only give the threshold.
Needs only torch and numpy.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from slimdiff.evaluation.copies.alterations import altered
from slimdiff.files import check_seal, replacing, write_seal
from slimdiff.stored_rows import Rows

SIDE = 64
"""Longest side of the images that the network sees, in px; larger ones are reduced."""
STEPS, FEWEST_STEPS, BATCH, RATE = 400, 20, 64, 4e-3
"""A step for each training slice, within these limits; slices in a step; largest learning rate (AdamW)."""
WIDTHS, DIM = (16, 32, 64, 128), 128
TEMPERATURE = 0.1
FEWEST_SLICES = 16
"""Slices of a z-bin for a batch of its own; with fewer, the batch has slices of all z-bins."""
_EMBEDDED = 256  # images at once
_REVISION = 1  # of the network and its training; another one is learnt again


class Embedding(nn.Module):
    """(N, 1, H, W) in [-1, 1] to (N, 128) of norm 1; about 0.4 M parameters."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        height, width = (-(-side // 2 ** len(WIDTHS)) for side in size)
        self.head = nn.Linear(WIDTHS[-1] * height * width, DIM)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Without mean and spread, a gain has little effect.
        spread, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
        found = self.body((images - mean) / (spread + 1e-3))
        return functional.normalize(self.head(found.flatten(1)), dim=1)


def reduced(images: np.ndarray | Rows) -> np.ndarray:
    """(N, H, W) float16, averaged to a longest side of at most 64 px.

    Args:
        images: (N, H, W) in [-1, 1].
    """
    size = small_size(images.shape[1:])
    result = np.empty((len(images), *size), np.float16)
    for rows in _blocks(len(images)):
        part = torch.from_numpy(np.asarray(images[rows], np.float32))
        if part.shape[1:] != size:
            part = functional.adaptive_avg_pool2d(part[:, None], size)[:, 0]
        result[rows] = part.numpy()
    return result


def small_size(size: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) after `reduced`."""
    scale = max(1.0, max(size) / SIDE)
    height, width = (max(1, round(side / scale)) for side in size)
    return height, width


def trained_embedding(images: np.ndarray, z_bin: np.ndarray, seed: int, device: torch.device) -> Embedding:
    """An embedding trained on these slices.

    Args:
        images: (N, H, W) from `reduced`.
        z_bin: (N,) z-bin of each slice.
        seed: seed of the first weights, the batches and the alterations.
        device: where the network is trained.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Embedding(images.shape[1:])
    network.to(device).train()
    steps = min(STEPS, max(FEWEST_STEPS, len(images)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        rows = _batch(z_bin, rng)
        shown = torch.from_numpy(images[rows].astype(np.float32))[:, None].to(device)
        views = torch.cat([altered(shown, generator), altered(shown, generator)])
        loss = contrast(*network(views).chunk(2))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def contrast(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of finding the other view of a slice among the other views of all slices.

    Args:
        first, second: (N, D) embeddings of norm 1, two views of the same slices.
    """
    score = first @ second.T / TEMPERATURE
    own = torch.arange(len(first), device=first.device)
    return (functional.cross_entropy(score, own) + functional.cross_entropy(score.T, own)) / 2


def _batch(z_bin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most 64 different slices, of the z-bin of one random slice where it has enough."""
    own = np.flatnonzero(z_bin == z_bin[rng.integers(len(z_bin))])
    own = own if len(own) >= FEWEST_SLICES else np.arange(len(z_bin))
    return rng.choice(own, min(BATCH, len(own)), replace=False)


@torch.inference_mode()
def embedded(network: Embedding, images: np.ndarray, device: torch.device) -> np.ndarray:
    """(N, 128) float32 of norm 1.

    Args:
        images: (N, H, W) from `reduced`.
    """
    result = np.empty((len(images), DIM), np.float32)
    for rows in _blocks(len(images)):
        part = torch.from_numpy(images[rows].astype(np.float32))[:, None].to(device)
        result[rows] = network(part).cpu().numpy()
    return result


def learnt_once(
    folder: Path, images: np.ndarray, z_bin: np.ndarray, seed: int, device: torch.device
) -> Embedding:
    """As `trained_embedding`, but an embedding of the same slices and seed is read from the folder."""
    digest = hashlib.sha256(f"{_REVISION} {images.shape} {seed} {device.type}\n".encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.asarray(z_bin, np.int64).tobytes())
    file = folder / f"copies-{digest.hexdigest()[:32]}.npy"
    network = Embedding(images.shape[1:]).to(device)
    # A missing file, or one that is damaged, is made again; .npy has no checksum.
    with suppress(OSError, ValueError, EOFError):
        check_seal(file)
        values = np.load(file, allow_pickle=False)
        if values.shape == (sum(weights.numel() for weights in network.parameters()),):
            vector_to_parameters(torch.from_numpy(values).to(device), network.parameters())
            return network.eval()
    network = trained_embedding(images, z_bin, seed, device)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, parameters_to_vector(network.parameters()).detach().cpu().numpy())
    write_seal(file)
    return network


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _EMBEDDED) for start in range(0, n, _EMBEDDED))
