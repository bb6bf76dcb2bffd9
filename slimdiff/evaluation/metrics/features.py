"""Feature vectors of grey slices from pretrained networks, and their cache.

`alexnet`, `vgg16` and `efficientnet` need torch and numpy only, so that a training can monitor its samples with them;
`inception` needs torch-fidelity and `dinov2` timm.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from slimdiff import weights
from slimdiff.evaluation.metrics.extractors import (
    DINOV2_WIDTH,
    MEAN,
    SD,
    VGG16,
    AlexNet,
    EfficientNetLite0,
    Trunk,
    dinov2,
)
from slimdiff.evaluation.metrics.grey_levels import store_precision, to_uint8
from slimdiff.evaluation.metrics.lpips import lpips_distance
from slimdiff.files import check_seal, replacing, write_seal
from slimdiff.stored_rows import ArrayWriter, Rows, StoredRows, blocks_of, stored_npy

__all__ = [
    "EXTRACTORS",
    "Extractor",
    "FeatureCache",
    "extract",
    "lpips_distance",
    "store_precision",
    "to_uint8",
]

_BLOCK = 2048  # slices that are extracted before their features are written
_HASHED_PX = 2**22  # pixels in memory
_REVISION = 1  # part of every cache key; counts changes of what `extract` computes


@dataclass(frozen=True)
class Extractor:
    """An extractor's features; the results name it beside every number that uses them."""

    name: str
    dim: int
    layer: str
    input_px: int


def _stages(trunk: type[Trunk]) -> Extractor:
    return Extractor(trunk.NAME, 2 * sum(trunk.channels()), "mean and sd of the five LPIPS stages", 224)


EXTRACTORS: dict[str, Extractor] = {
    "alexnet": _stages(AlexNet),
    "vgg16": _stages(VGG16),
    "efficientnet": Extractor(
        "efficientnet", EfficientNetLite0.WIDTH, "pooled features of EfficientNet-Lite0", 224
    ),
    "inception": Extractor("inception", 2048, "2048", 299),
    "dinov2": Extractor("dinov2", DINOV2_WIDTH, "class token of ViT-S/14", 224),
}


def extract(
    images: np.ndarray | Rows,
    extractor: str,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """Feature vectors of grey images.

    `alexnet` and `vgg16`: the slice is repeated to three channels, resized bilinearly (antialiased) to 224
    px, the networks' training size, and normalised as LPIPS does. The vector holds the spatial mean and standard
    deviation of every channel of the five LPIPS stages. (The mean alone changes with noise in the empty background as
    much as with the anatomy, and a deep layer alone does not see contrast.) Activations are of order one in every
    stage, so that x.y/D is of order one in the cubic kernel without weights between stages. A slice that is not square
    is stretched, real and synthetic alike.

    `efficientnet`: the pooled features of EfficientNet-Lite0, of the slice resized as for `alexnet` and normalised as
    its authors do.

    `inception`: torch-fidelity's InceptionV3, layer `2048`, which resizes to 299 x 299 by itself.

    `dinov2`: the class token of DINOv2's ViT-S/14, of the slice in three channels, resized bicubically (antialiased)
    to 224 px and normalised with ImageNet's mean and sd.

    Args:
        images: (N, H, W) uint8, from `to_uint8`.
        extractor: a key of `EXTRACTORS`.
        device: where the network runs.
        batch_size: slices at a time; changes the result by rounding errors only.
        progress: draw a bar on the terminal.

    Returns:
        (N, D) float32, D = `EXTRACTORS[extractor].dim`.

    Raises:
        KeyError: unknown extractor.
        TypeError, ValueError: not uint8, or not (N, H, W).
        WeightsUnavailable: the pretrained weights are not available.
        RuntimeError: the network gave vectors of another size than declared, or values that are not finite.
    """
    declared = _declared(extractor)
    images = _checked(images)
    network = _network(extractor, str(device))
    parts = []
    starts = range(0, len(images), batch_size)
    # TensorFloat and algorithm search would make the numbers depend on the card and on the run
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
    ):
        for start in tqdm(starts, desc=f"{extractor} features", disable=not progress, leave=False):
            # A copy: torch takes no flipped arrays.
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            vectors = network(batch[:, None])
            if vectors.shape != (len(batch), declared.dim):
                raise RuntimeError(
                    f"{extractor} gave features of shape {tuple(vectors.shape)}, "
                    f"layer '{declared.layer}' has {(len(batch), declared.dim)}"
                )
            parts.append(vectors.float().cpu().numpy())
    features = np.concatenate(parts) if parts else np.empty((0, declared.dim), np.float32)
    if not np.isfinite(features).all():
        raise RuntimeError(f"{extractor} gave features that are not finite")
    return features


class FeatureCache:
    """Features in a folder, under a key of the images' content, the extractor and its weights."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def extract(self, images: np.ndarray | Rows, extractor: str, **settings) -> np.ndarray:
        """As the function `extract`, but reads the vectors of images whose features are in the folder.

        Device and batch size are not part of the key: they change rounding errors only.
        """
        return self.stored(images, extractor, **settings)[:]

    def stored(self, images: np.ndarray | Rows, extractor: str, **settings) -> StoredRows:
        """As `extract`, but the vectors stay in the folder; in memory are those of one block of slices."""
        images = _checked(images)
        file = self.folder / f"{extractor}-{self._key(images, extractor)}.npy"
        dim = _declared(extractor).dim
        # A missing file, or one that is damaged, is made again; .npy has no checksum.
        with suppress(OSError, ValueError, EOFError):
            check_seal(file)
            features = stored_npy(file)
            if features.shape == (len(images), dim) and features.dtype == np.float32:
                return features
        with replacing(file) as temporary, ArrayWriter(temporary, (dim,), np.float32) as writer:
            for start in range(0, len(images), _BLOCK):
                for vector in extract(images[start : start + _BLOCK], extractor, **settings):
                    writer.append(vector)
        write_seal(file)
        return stored_npy(file)

    @staticmethod
    def _key(images: np.ndarray | Rows, extractor: str) -> str:
        header = f"{_REVISION} {extractor} {weights.fingerprint(extractor)} {images.shape}\n"
        digest = hashlib.sha256(header.encode())
        for block in blocks_of(images, _HASHED_PX):
            digest.update(np.ascontiguousarray(images[block]))
        return digest.hexdigest()[:32]


def _declared(extractor: str) -> Extractor:
    if extractor not in EXTRACTORS:
        raise KeyError(f"extractor: expected one of {', '.join(EXTRACTORS)}, found {extractor!r}")
    return EXTRACTORS[extractor]


def _checked(images: np.ndarray | Rows) -> np.ndarray | Rows:
    images = images if isinstance(images, Rows) else np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images: expected uint8 (from to_uint8), found {images.dtype}")
    if images.ndim != 3 or 0 in images.shape[1:]:
        raise ValueError(f"images: expected the shape (N, H, W), found {images.shape}")
    return images


@lru_cache(maxsize=2)
def _network(extractor: str, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from (B, 1, H, W) uint8 on `device` to (B, D) features."""
    if extractor == "inception":
        return _inception(device)
    if extractor == "dinov2":
        return _dinov2(device)
    if extractor == "efficientnet":
        return _efficientnet(device)
    trunk = {"alexnet": AlexNet, "vgg16": VGG16}[extractor].pretrained().to(device)
    side = EXTRACTORS[extractor].input_px

    def vectors(grey: torch.Tensor) -> torch.Tensor:
        x = grey.float() / 127.5 - 1
        x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        means_and_sds = []
        for activation in trunk(x):  # (B, C, h, w)
            variance, mean = torch.var_mean(activation, dim=(2, 3), correction=0)
            means_and_sds += [mean, variance.sqrt()]
        return torch.cat(means_and_sds, dim=1)

    return vectors


def _efficientnet(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    side = EXTRACTORS["efficientnet"].input_px
    network = EfficientNetLite0.pretrained().to(device)

    def vectors(grey: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(grey.float(), size=(side, side), mode="bilinear", antialias=True)
        # The activations of 64 slices do not fit into a CPU's cache: twice the time, and 1 GB more memory.
        return torch.cat([network(part) for part in x.split(8)])

    return vectors


def _dinov2(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    side = EXTRACTORS["dinov2"].input_px
    network = dinov2(side).to(device)
    mean, sd = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, SD))

    def vectors(grey: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(grey.float() / 255, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return network((x - mean) / sd)

    return vectors


def _inception(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    # imported here: it imports torchvision, which a bare training node may lack
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise weights.WeightsUnavailable(f"inception needs the package torch-fidelity: {error}") from error

    file = weights.path("inception")
    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file)).to(
        device
    )

    def vectors(grey: torch.Tensor) -> torch.Tensor:
        return network(grey.expand(-1, 3, -1, -1))[0]

    return vectors
