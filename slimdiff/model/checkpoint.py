"""Build a network, save it with its model card, and load it.

`model.safetensors` holds the EMA weights. Its metadata entry `slimdiff` is the JSON of a `ModelCard`, so that a
checkpoint is self-contained and loads without pickle (docs/method.md, F6).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from slimdiff.files import replacing, require_file
from slimdiff.model.prior import check_priors
from slimdiff.model.unet import JointUNet

FORMAT = 2


@dataclass(frozen=True)
class DataSpec:
    """Properties of the data that a network depends on."""

    size: tuple[int, int]
    """Height and width of a slice, in px."""
    n_bins: int
    bin_centres: list[float]
    """Centre of each z-bin: slice number, mm, or per cent of the brain's height."""
    acquisitions: list[str] = field(default_factory=list)
    """Names of the acquisition labels; empty if the network is not conditioned on acquisition."""
    acquisition_counts: list[list[int]] = field(default_factory=list)
    """Number of training slices of every class (outer) and acquisition (inner)."""
    lesion_subjects: list[int] | None = None
    """Number of training subjects (persons) with a lesion in each z-bin; None: unknown."""
    augmentations: int = 0
    """Number of augmentation labels; 0 = trained without augmentation."""
    quarter_turns: int = 0
    """Counter-clockwise quarter turns from the network's orientation to that of the slice store."""


@dataclass(frozen=True)
class ModelCard:
    """Everything that sampling needs to know about a checkpoint."""

    model: dict
    """Section `model` of the study, with all defaults resolved."""
    diffusion: dict
    """Section `diffusion` of the study."""
    training: dict
    """Section `training` of the study."""
    data: DataSpec
    spacing_mm: float
    """Side of a pixel."""
    z_range: tuple[float, float]
    """Lowest and highest slice of the z-bins, in the unit of `height`."""
    study: str
    variant: str
    fold: int
    step: int
    data_hash: str
    precision: str
    versions: dict
    ema_decay: float | None = None
    """EMA decay of the weights; None: unknown."""
    mask_calibration: dict | None = None
    """Fields of a `MaskCalibration`; None: masks are as the network estimates them."""
    height: str = "slice"
    """`slices.height` of the study; earlier checkpoints lack it."""
    training_run: dict | None = None
    """`key`: hash of all that decides the weights (`slimdiff.training.identity`); `steps`: steps done; `extended_at`:
    steps at which a finished training was resumed with a larger `training.steps`. None: unknown."""
    format: int = FORMAT

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice in the network's orientation, in px."""
        return self.data.size

    @property
    def store_size(self) -> tuple[int, int]:
        """Height and width of a slice in the store's orientation, in px."""
        return self.data.size[::-1] if self.data.quarter_turns % 2 else self.data.size

    @property
    def n_bins(self) -> int:
        return self.data.n_bins


def gaussian_above(card: ModelCard) -> float | None:
    """Noise level above which the Gaussian model takes the place of the network; None: nowhere."""
    return card.diffusion.get("gaussian_above") if card.model.get("gaussian_components") else None


def build_network(model: dict, data: DataSpec) -> JointUNet:
    """The network of a `model` section (a mapping with all defaults resolved); its priors are not set yet."""
    settings = {key: value for key, value in model.items() if key != "acquisition"}
    network = JointUNet(
        **settings,
        size=data.size,
        n_bins=data.n_bins,
        bin_centres=data.bin_centres,
        acquisitions=len(data.acquisitions) if model["acquisition"] else 0,
        augmentations=data.augmentations,
    )
    return network.to(memory_format=torch.channels_last)


def put_priors(network: JointUNet, priors: np.ndarray | None) -> None:
    """Set the prior maps, bool (n_bins, H, W), of a network with priors; does nothing for other networks.

    Raises ValueError if priors are required and missing, or do not match the network (docs/method.md, F9).
    """
    if network.priors is None:
        return
    if priors is None:
        raise ValueError("model.prior requires the z-bin priors of the fold, but no z-bin priors are given")
    check_priors(priors, len(network.priors.maps), tuple(network.priors.maps.shape[1:]))
    network.priors.maps.copy_(torch.from_numpy(np.ascontiguousarray(priors, dtype=np.uint8)))


def save_model(path: Path, weights: dict[str, torch.Tensor], card: ModelCard) -> None:
    """Write weights and card atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"slimdiff": json.dumps(asdict(card))})


def read_card(path: Path) -> ModelCard:
    """The model card of a checkpoint; raises ValueError if the file is not a slimdiff checkpoint."""
    path = Path(path)
    require_file(path, "checkpoint not found")
    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
    except Exception as error:
        hint = (
            "slimdiff-import converts one of the published code"
            if path.suffix in (".ckpt", ".pt")
            else "if it was cut off, copy it again, or delete it and run the stage train again"
        )
        raise ValueError(f"{path}: not a safetensors file: {error}; {hint}") from None
    if "slimdiff" not in metadata:
        raise ValueError(f"{path}: expected slimdiff's model card in the metadata, found none")
    try:
        values = json.loads(metadata["slimdiff"])
    except ValueError as error:
        raise ValueError(f"{path}: its model card is not readable as JSON: {error}") from None
    if values.get("format") != FORMAT:
        raise ValueError(f"{path}: expected checkpoint format {FORMAT}, found format {values.get('format')}")
    data = DataSpec(**{**values["data"], "size": tuple(values["data"]["size"])})
    return ModelCard(**{**values, "data": data, "z_range": tuple(values["z_range"])})


def load_model(path: Path, device: torch.device) -> tuple[nn.Module, ModelCard]:
    """The network with its EMA weights, in evaluation mode on the device, and its card."""
    card = read_card(path)
    network = build_network(card.model, card.data)
    with safe_open(path, framework="pt") as archive:
        weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not match its model card: {str(error)[:200]}") from None
    return network.to(device).eval(), card
