"""Build a network, save it with its model card, and load it.

`model.safetensors` holds the EMA weights. Its metadata entry `slimdiff` is the JSON of a `ModelCard`, so that a
checkpoint is self-contained and loads without pickle (docs/method.md, F6).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from slimdiff.files import CHECKSUM
from slimdiff.model.archive import read_record, read_tensors, write_archive
from slimdiff.model.prior import check_priors
from slimdiff.model.unet import JointUNet

FORMAT = 2
KEY = "slimdiff"
"""Of the model card in the metadata."""
MOST_TIMESTEPS, MOST_PX = 1_000_000, 8192
PATCHES = (1, 2, 4)
HEIGHTS = ("slice", "mm", "relative")
REMEDY = "if it was cut off or damaged, copy it again, or delete it and run the stage train again"

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class DataSpec:
    """Properties of the data that a network depends on."""

    __pydantic_config__ = STRICT

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

    __pydantic_config__ = STRICT

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
    init: dict | None = None
    """What the training started from (`training.init`): file name, sha256, study, variant, fold and step of it, and
    `notes` of what was mapped. None: random weights."""
    training_run: dict | None = None
    """`key`: hash of all that decides the weights (`slimdiff.training.identity`); `steps`: steps done; `extended_at`:
    steps at which a finished training was resumed with a larger `training.steps`; `hardware`: processor or GPU on which
    it ended. None: unknown."""
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


_CARD = TypeAdapter(ModelCard)


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
    n_bins, height, width = network.priors.maps.shape
    check_priors(priors, n_bins, (height, width))
    network.priors.maps.copy_(torch.from_numpy(np.ascontiguousarray(priors, dtype=np.uint8)))


def save_model(path: Path, weights: dict[str, torch.Tensor], card: ModelCard) -> None:
    """Write weights and card atomically."""
    write_archive(path, weights, KEY, asdict(card))


def read_card(path: Path) -> ModelCard:
    """The model card of a checkpoint; raises ValueError naming the file if it is damaged or no slimdiff checkpoint."""
    return _card(Path(path))[0]


def check_model(path: Path) -> ModelCard:
    """The model card, once the weights were read; raises ValueError naming the file if they are damaged."""
    card, record, _ = _card(Path(path))
    read_tensors(path, record, REMEDY)
    return card


def load_model(
    path: Path | str, device: torch.device | str = "cpu", remedy: str = REMEDY
) -> tuple[JointUNet, ModelCard]:
    """The network with its EMA weights, in evaluation mode on the device, and its card.

    remedy: what an error about a damaged file advises.

    Raises ValueError naming the file if it is damaged, a weight is NaN or infinite, or weights and card do not match.
    """
    path = Path(path)
    card, record, shapes = _card(path, remedy)
    try:
        network = network_of(card.model, card.data, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: its weights do not match its model card: {error}; {remedy}") from None
    network.load_state_dict(read_tensors(path, record, remedy))
    return network.to(device).eval(), card


def network_of(model: dict, data: DataSpec, shapes: Mapping[str, tuple[int, ...]]) -> JointUNet:
    """`build_network` for weights of these shapes; raises ValueError if they do not match.

    Nothing larger than the weights is built.
    """
    try:
        # Every level and every block has weights.
        parts = len(model["channels"]) * max(model["res_blocks"], 1)
        if parts > len(shapes) or data.n_bins > max(
            (shape[0] for shape in shapes.values() if shape), default=0
        ):
            raise ValueError(
                f"expected weights of {parts} residual blocks and {data.n_bins} z-bins, found fewer"
            )
        with torch.device("meta"):
            planned = {
                name: tuple(value.shape) for name, value in build_network(model, data).state_dict().items()
            }
    except Exception as error:
        # The mapping may hold anything.
        raise ValueError(f"the network cannot be built: {type(error).__name__}: {str(error)[:200]}") from None
    for name in sorted(planned.keys() | shapes.keys()):
        # A Gaussian model has the shapes of its weights.
        if planned.get(name) != shapes.get(name) and not (name.startswith("gaussian.") and name in planned):
            expected, found = _shape(planned.get(name)), _shape(shapes.get(name))
            raise ValueError(f"{name}: expected {expected}, found {found}")
    return build_network(model, data)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such weight" if shape is None else f"shape {shape}"


def _card(path: Path, remedy: str = REMEDY) -> tuple[ModelCard, dict, dict[str, tuple[int, ...]]]:
    """The card, the record that it was read from, and the shapes of the weights."""
    published = path.suffix in (".ckpt", ".pt")
    remedy = "slimdiff-import converts one of the published code" if published else remedy
    record, shapes = read_record(path, KEY, "slimdiff model card", remedy)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path}: expected checkpoint format {FORMAT}, found format {record.get('format')!r}"
        )
    values = {name: value for name, value in record.items() if name != CHECKSUM}
    try:
        _CARD.validate_json(json.dumps(values, allow_nan=False))
        data = DataSpec(**{**values["data"], "size": tuple(values["data"]["size"])})
        # Not the card of the check, in which whole numbers became others.
        card = ModelCard(**{**values, "data": data, "z_range": tuple(values["z_range"])})
        _check(card)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise ValueError(
            f"{path}: its model card: {key}: {problem['msg']}, found {str(problem['input'])[:80]}; {remedy}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its model card: {error}; {remedy}") from None
    return card, record, shapes


def _check(card: ModelCard) -> None:
    """Raise ValueError for numbers that no slimdiff checkpoint has."""
    data, diffusion = card.data, card.diffusion
    for key, found, fits, expected in (
        ("data.size", data.size, min(data.size) >= 1 and max(data.size) <= MOST_PX, f"1 to {MOST_PX} px"),
        ("data.n_bins", data.n_bins, data.n_bins >= 1, "at least 1"),
        (
            "data.bin_centres",
            len(data.bin_centres),
            len(data.bin_centres) == data.n_bins,
            "one for each z-bin",
        ),
        (
            "data.acquisition_counts",
            data.acquisition_counts,
            not data.acquisitions
            or [len(row) for row in data.acquisition_counts] == [len(data.acquisitions)] * 2,
            f"two rows of {len(data.acquisitions)} numbers",
        ),
        (
            "data.lesion_subjects",
            data.lesion_subjects,
            data.lesion_subjects is None or len(data.lesion_subjects) == data.n_bins,
            "one for each z-bin",
        ),
        ("height", card.height, card.height in HEIGHTS, ", ".join(HEIGHTS)),
        ("spacing_mm", card.spacing_mm, card.spacing_mm > 0, "more than 0 mm"),
        ("z_range", card.z_range, card.z_range[0] <= card.z_range[1], "lowest and highest slice"),
    ):
        if not fits:
            raise ValueError(f"{key}: expected {expected}, found {found}")
    for key, kind in (("schedule", str), ("prediction", str), ("timesteps", int)):
        if not isinstance(diffusion.get(key), kind):
            raise ValueError(f"diffusion.{key}: expected {kind.__name__}, found {diffusion.get(key)!r}")
    if not 2 <= diffusion["timesteps"] <= MOST_TIMESTEPS:
        raise ValueError(
            f"diffusion.timesteps: expected 2 to {MOST_TIMESTEPS}, found {diffusion['timesteps']}"
        )
    if card.model.get("patch") not in PATCHES:
        raise ValueError(
            f"model.patch: expected {', '.join(map(str, PATCHES))}, found {card.model.get('patch')!r}"
        )
    channels = card.model.get("channels")
    widths = [channels] if not isinstance(channels, list) or not channels else channels
    for key, numbers in (
        ("channels", widths),
        *((name, [card.model.get(name)]) for name in ("res_blocks", "head_channels", "norm_groups")),
    ):
        if not all(isinstance(number, int) and number >= 1 for number in numbers):
            raise ValueError(
                f"model.{key}: expected whole numbers from 1, found {str(card.model.get(key))[:80]}"
            )
    attended = [
        width for width, attends in zip(widths, card.model.get("attention") or (), strict=False) if attends
    ]
    if card.model["head_channels"] > min([*attended, widths[-1]]):
        raise ValueError(
            f"model.head_channels: expected at most the channels, found {card.model['head_channels']}"
        )
    for key in ("acquisition", "null_token"):
        if not isinstance(card.model.get(key), bool):
            raise ValueError(f"model.{key}: expected true or false, found {card.model.get(key)!r}")
    if card.mask_calibration is not None:
        lists = [card.mask_calibration.get(key) for key in ("log_sigma", "slopes", "offsets")]
        numbers = [value for part in lists if isinstance(part, list) for value in part]
        numbers.append(card.mask_calibration.get("least_px"))
        if (
            len({len(part) if isinstance(part, list) else 0 for part in lists}) != 1
            or not lists[0]
            or not all(isinstance(value, float | int) for value in numbers)
            or len(card.mask_calibration) != 4
        ):
            raise ValueError(
                "mask_calibration: expected log_sigma, slopes and offsets of equal length, and least_px, found "
                f"{str(card.mask_calibration)[:80]}"
            )
