"""A network from its description, and back from a file.

`model.safetensors` holds the EMA weights; its metadata entry `slimdiff` is the JSON of a `ModelCard`, so that a
checkpoint says by itself what it is and loads without pickle (docs/method.md, F6).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from slimdiff.files import replacing
from slimdiff.model.unet import UNet

FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """Everything that sampling needs to know about a checkpoint."""

    model: dict
    """Section `model` of the study."""
    diffusion: dict
    """Section `diffusion` of the study."""
    training: dict
    """Section `training` of the study."""
    size: tuple[int, int]
    """Height and width of a slice, in px."""
    spacing_mm: float
    z_range: tuple[int, int]
    n_bins: int
    bin_centres: list[float]
    study: str
    variant: str
    fold: int
    step: int
    data_hash: str
    precision: str
    versions: dict
    format: int = FORMAT


def build_network(model: dict, n_bins: int, bin_centres: list[float]) -> nn.Module:
    """The network of a study's `model` section (as a mapping)."""
    settings = {key: value for key, value in model.items() if key != "coupling"}
    if model["coupling"] != "shared":
        raise ValueError(f"model.coupling {model['coupling']!r}: shared is known")
    return UNet(**settings, n_bins=n_bins, bin_centres=bin_centres).to(memory_format=torch.channels_last)


def save_model(path: Path, weights: dict[str, torch.Tensor], card: ModelCard) -> None:
    """Write weights and card atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"slimdiff": json.dumps(asdict(card))})


def read_card(path: Path) -> ModelCard:
    """The card of a checkpoint; raises ValueError where the file is none of slimdiff's."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
    except Exception as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    if "slimdiff" not in metadata:
        raise ValueError(f"{path}: a safetensors file, but without slimdiff's model card")
    values = json.loads(metadata["slimdiff"])
    if values.get("format") != FORMAT:
        raise ValueError(f"{path}: checkpoint format {values.get('format')}; this version reads {FORMAT}")
    return ModelCard(**{**values, "size": tuple(values["size"]), "z_range": tuple(values["z_range"])})


def load_model(path: Path, device: torch.device) -> tuple[nn.Module, ModelCard]:
    """The network with its EMA weights, in evaluation mode on the device, and its card."""
    card = read_card(path)
    network = build_network(card.model, card.n_bins, card.bin_centres)
    with safe_open(path, framework="pt") as archive:
        weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights are not those of its own card: {str(error)[:200]}") from None
    return network.to(device).eval(), card
