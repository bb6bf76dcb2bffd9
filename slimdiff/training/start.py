"""The weights that a training starts from: those of another model, mapped to this network (`training.init`).

Weights of the same name and shape are copied. Layers whose shapes differ are mapped where the network then computes the
same: z-bins by height, the first convolution by its inputs, acquisitions by name. No weight depends on the size of a
slice. The z-bin priors and the Gaussian model are of the study's own slices and are never taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimdiff.files import require_file, sha256
from slimdiff.model.blocks import sinusoid
from slimdiff.model.checkpoint import DataSpec, ModelCard, load_model
from slimdiff.model.conditioning import Conditioning
from slimdiff.model.unet import JointUNet

OF_THE_STUDY = ("priors.", "gaussian.")
"""Buffers that belong to the slices of a study."""
BINS, POSITION = "condition.bins.weight", "condition.position"
ACQUISITIONS = "condition.acquisitions.weight"
NOT_NEEDED = ("condition.acquisitions.", "condition.augmentations.", "condition.null", "prior_encoder.")
"""Weights of the file that a network without this condition does not need."""
EMPTY_INPUT = "previous"
"""The input that may be missing in this network: before the first estimate it is zero."""
HANDLED = ("acquisition", "self_conditioning")
"""Keys of the model whose difference is mapped."""
RIDGE = 1e-3
"""Of the z-bins' embeddings: without it they would be large, and hardly learn."""
SAME_HEIGHTS = ("mm", "relative")
"""Units in which equal heights are equal places of any brain; slice numbers are those of one grid."""
LEAST_SHARE = 0.5
"""Share of the network's parameters that must come from the file."""
REMEDY = "if it was cut off or damaged, copy or build it again"
SHOWN = 5
"""Layers that an error names."""


class StartError(ValueError):
    """`training.init` cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Start:
    """Weights to start from."""

    path: Path
    sha256: str
    card: ModelCard
    weights: dict[str, Tensor]
    """All weights and buffers by name, on the CPU."""


@dataclass(frozen=True)
class StudyNetwork:
    """The network of a study, with its initial values, and what a model card says of it."""

    network: JointUNet
    model: dict
    """Section `model`, with all defaults resolved."""
    diffusion: dict
    """Section `diffusion`."""
    data: DataSpec
    spacing_mm: float
    height: str
    """Unit of the z-bins: slice, mm or relative."""
    z_range: tuple[float, float]


def hash_of_start(path: Path, expected: str | None) -> str:
    """sha256 of the file; raises StartError if it is another one than `expected`, or its beginning."""
    require_file(path, "not found, but training.init names it; restore it, or correct the path")
    found = sha256(path)
    if expected and not found.startswith(expected.lower()):
        raise StartError(
            f"{path}: expected a file with the sha256 {expected} (training.init_sha256), found {found}; give the right "
            "file, or correct the hash if this is the file that you want"
        )
    return found


def read_start(path: Path, expected: str | None = None) -> Start:
    """Read a checkpoint of slimdiff, of a study or imported.

    Args:
        path: the file.
        expected: its sha256, or the beginning of it; None: any file.

    Raises StartError if it is no checkpoint, damaged, another file than expected, or has NaN.
    """
    found = hash_of_start(path, expected)
    try:
        network, card = load_model(path, torch.device("cpu"), REMEDY)
    except ValueError as error:
        raise StartError(f"training.init: {error}") from None
    return Start(path, found, card, network.state_dict())


def put_start(own: StudyNetwork, start: Start, fill: bool) -> list[str]:
    """Give the network of a study the weights of a start.

    Args:
        own: the network; layers without a weight in the file keep their initial values.
        start: the weights.
        fill: whether layers may stay at their initial values (`training.init_missing: random`).

    Returns:
        What was mapped, left out or not found, one text each.

    Raises StartError if a layer has no weight and `fill` is false, or if most of them have none.
    """
    fit = _Fit(own, start)
    wrong = fit.unfit | dict.fromkeys(fit.unused, "this network has no such layer")
    if wrong and not fill:
        named = [f"{name}: {reason}" for name, reason in list(wrong.items())[:SHOWN]]
        further = len(wrong) - SHOWN
        raise StartError(
            f"{start.path}: {len(wrong)} layers do not fit the network of this study ({'; '.join(named)}"
            f"{f'; and {further} more' if further > 0 else ''}). {fit.advice()}start from another file, or set "
            "training.init_missing: random to begin such layers with random values"
        )
    parameters = dict(own.network.named_parameters())
    taken = sum(parameters[name].numel() for name in fit.weights if name in parameters)
    total = sum(value.numel() for value in parameters.values())
    if taken < LEAST_SHARE * total:
        raise StartError(
            f"{start.path}: only {taken / total:.0%} of the weights of this network can come from it; "
            f"{fit.advice()}or start from another file"
        )
    own.network.load_state_dict(fit.weights, strict=False)
    for what, names in (("random values", fit.unfit), ("left out", fit.unused)):
        if names:
            fit.notes.append(f"{what}: {', '.join(names)}")
    # Not rounded to 100 % while something is missing.
    return [f"{math.floor(1000 * taken / total) / 10:.1f}% of the weights", *fit.notes]


class _Fit:
    """The weights of a start that fit a network, notes on what was changed, and the layers that do not fit."""

    def __init__(self, own: StudyNetwork, start: Start):
        self.own, self.card, self.path = own, start.card, start.path
        self.theirs = {
            name: value for name, value in start.weights.items() if not name.startswith(OF_THE_STUDY)
        }
        self.weights: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.unfit: dict[str, str] = {}
        """Layer of this network: why it has no weights."""
        self.unused: list[str] = []
        """Layers that only the file has."""
        self._turn()
        self._without_acquisitions()
        self._other_diffusion()
        self._other_groups()
        for name, value in own.network.state_dict().items():
            if not name.startswith(OF_THE_STUDY) and name not in self.unfit:
                self._fit(name, value)
        if POSITION + ".weight" in self.weights:
            self._bins(start.weights)
        for name in sorted(self.theirs.keys() - own.network.state_dict().keys()):
            if name.startswith(NOT_NEEDED):
                self.notes.append(f"not needed: {name}")
            else:
                self.unused.append(name)
        self.notes.sort()
        if abs(own.spacing_mm / self.card.spacing_mm - 1) > 0.01:
            self.notes.append(
                f"pixels of {own.spacing_mm:g} mm instead of {self.card.spacing_mm:g} mm, with the same weights"
            )

    def advice(self) -> str:
        """Keys of the study that differ from the file, to be set as there."""
        keys = [
            (f"{section}.{key}", theirs[key], value)
            for section, ours, theirs in (
                ("model", self.own.model, self.card.model),
                ("diffusion", self.own.diffusion, self.card.diffusion),
            )
            for key, value in ours.items()
            if key in theirs
            and (section == "model" or key in ("prediction", "schedule", "timesteps"))
            and key not in HANDLED
            # Any number of components is the same input.
            and (bool(theirs[key]) != bool(value) if key == "gaussian_components" else theirs[key] != value)
        ]
        if not keys:
            return ""
        lines = [f"{key}: the file has {theirs}, the study {ours}" for key, theirs, ours in keys]
        return f"{'; '.join(lines)}. Give the study the file's values, "

    def _fit(self, name: str, initial: Tensor) -> None:
        value = self.theirs.get(name)
        if value is None:
            self.unfit[name] = "the file has no such layer"
            return
        if name.endswith("stem.weight"):
            value = self._stem(name, value, initial)
        elif name == ACQUISITIONS:
            value = self._acquisitions(value)
        elif name == BINS:
            # Set after all others.
            return
        if value is None:
            return
        if value.shape != initial.shape:
            self.unfit[name] = f"expected shape {tuple(initial.shape)}, found {tuple(value.shape)}"
            return
        self.weights[name] = value

    def _turn(self) -> None:
        """Turn the kernels of a network that was trained on turned slices (imported ones)."""
        turns = self.card.data.quarter_turns - self.own.data.quarter_turns
        if turns % 4:
            self.theirs = {
                name: torch.rot90(value, turns, (2, 3)) if value.dim() == 4 and value.shape[2] > 1 else value
                for name, value in self.theirs.items()
            }
            self.notes.append(
                f"kernels turned by {90 * (turns % 4)} degrees, from the file's orientation of slices"
            )

    def _without_acquisitions(self) -> None:
        """In a network that knows no acquisitions their mean takes their place."""
        table, counts = self.theirs.get(ACQUISITIONS), self.card.data.acquisition_counts
        if table is None or self.own.data.acquisitions or not counts:
            return
        weight = torch.tensor(counts, dtype=table.dtype).sum(dim=0)
        mean = (weight / weight.sum()) @ table if weight.sum() > 0 else table.mean(dim=0)
        for name in ("condition.merge.bias", "condition.null"):
            if name in self.theirs:
                self.theirs[name] = self.theirs[name] + mean
        del self.theirs[ACQUISITIONS]
        self.notes.append("the mean of the file's acquisitions instead of each")

    def _other_diffusion(self) -> None:
        """Layers whose meaning depends on the diffusion: the last one on the target, the time on the schedule."""
        for keys, part in ((("prediction",), ".head."), (("schedule", "timesteps"), "time.")):
            ours, theirs = ([of.get(key) for key in keys] for of in (self.own.diffusion, self.card.diffusion))
            if ours != theirs:
                reason = (
                    f"diffusion.{' and '.join(keys)}: the file has {_text(theirs)}, the study {_text(ours)}"
                )
                self.unfit |= {
                    name: reason
                    for name in self.own.network.state_dict()
                    if (part in name if part.startswith(".") else name.startswith(part))
                }

    def _other_groups(self) -> None:
        """Layers whose meaning depends on groups of their channels, which no shape shows."""
        for key, part in (("head_channels", ".attend."), ("norm_groups", "norm")):
            ours, theirs = self.own.model.get(key), self.card.model.get(key)
            if ours != theirs:
                reason = f"model.{key}: the file has {theirs}, the study {ours}"
                self.unfit |= {name: reason for name in self.own.network.state_dict() if part in name}

    def _stem(self, name: str, value: Tensor, initial: Tensor) -> Tensor | None:
        """The first convolution: inputs that the file lacks begin with zero weights."""
        own, theirs = (_inputs(model, "encoders" in name) for model in (self.own.model, self.card.model))
        if self.own.model["patch"] != self.card.model["patch"]:
            self.unfit[name] = "squares (model.patch) of another size"
            return None
        if lost := [kind for kind in dict.fromkeys(theirs) if kind not in own and kind != EMPTY_INPUT]:
            self.unfit[name] = f"this network has no input {', '.join(lost)}"
            return None
        if value.shape[0] != initial.shape[0]:
            self.unfit[name] = f"expected {initial.shape[0]} channels, found {value.shape[0]}"
            return None
        if own == theirs:
            return value
        area = self.own.model["patch"] ** 2
        # One row of channels for each input; the n-th input of a kind is that of the n-th modality.
        found = dict(zip(_numbered(theirs), value.unflatten(1, (-1, area)).unbind(1), strict=True))
        zeros = torch.zeros_like(value[:, :area])
        columns = [found.get(kind, zeros) for kind in _numbered(own)]
        for what, kinds, others in (("begins without", own, theirs), ("no longer has", theirs, own)):
            if changed := [kind for kind in dict.fromkeys(kinds) if kind not in others]:
                self.notes.append(f"{name} {what} the input {', '.join(changed)}")
        return torch.cat(columns, dim=1).contiguous(memory_format=torch.channels_last)

    def _acquisitions(self, table: Tensor) -> Tensor | None:
        """Embeddings by the name of the acquisition."""
        known = self.card.data.acquisitions
        if unknown := [name for name in self.own.data.acquisitions if name not in known]:
            self.unfit[ACQUISITIONS] = f"the file has no acquisition {', '.join(unknown)}"
            return None
        return table[[known.index(name) for name in self.own.data.acquisitions]]

    def _bins(self, theirs: dict[str, Tensor]) -> None:
        """z-bins by height: every bin's position vector is the file's at the same height, between its bins linearly.

        The vector is a linear function of the bin's embedding and of its sinusoid. The sinusoid depends on the unit of
        the height; the embedding, which begins between those of the file, is changed so that the vector is right.
        """
        centres, heights = self._heights()
        own, n_bins = self.own.network.condition, self.own.data.n_bins
        if centres == heights and self.own.data.bin_centres == self.card.data.bin_centres:
            self.weights[BINS] = theirs[BINS]
            return
        weight = theirs[POSITION + ".weight"].double()
        of_bin, of_sinusoid = weight.chunk(2, dim=1)
        known = _sinusoids(self.card.data.bin_centres, own)
        embeddings = theirs[BINS].double()
        between, wanted = (
            torch.from_numpy(
                np.stack([np.interp(heights, centres, column) for column in part.T.numpy()], axis=1)
            )
            for part in (embeddings, embeddings @ of_bin.T + known @ of_sinusoid.T)
        )
        rest = wanted - between @ of_bin.T - own.sinusoids.double().cpu() @ of_sinusoid.T
        gram = of_bin.T @ of_bin + RIDGE * torch.eye(of_bin.shape[1], dtype=torch.float64)
        self.weights[BINS] = (between + torch.linalg.solve(gram, of_bin.T @ rest.T).T).float()
        self.notes.append(f"{n_bins} z-bins by height from {self.card.data.n_bins}")

    def _heights(self) -> tuple[list[float], list[float]]:
        """Centres of the file's z-bins and of the study's, in one unit."""
        pairs = []
        same = self.card.height == self.own.height and self.own.height in SAME_HEIGHTS
        for data, height, z_range in (
            (self.card.data, self.card.height, self.card.z_range),
            (self.own.data, self.own.height, self.own.z_range),
        ):
            low, high = z_range
            factor = 100 if height == "relative" else 1
            # Slice numbers count as [z, z + 1).
            span = high - low + (height == "slice")
            if span <= 0:
                raise StartError(
                    f"{self.path}: the z-range of its z-bins or of the study's: expected a lower and a higher end, "
                    f"found {low:g} to {high:g}; start from another file"
                )
            centres = [centre / factor for centre in data.bin_centres]
            pairs.append(centres if same else [(centre - low) / span for centre in centres])
        return pairs[0], pairs[1]


def _inputs(model: dict, one_modality: bool) -> list[str]:
    """Kind of every map that the first convolution sees, in order."""
    kinds = ["noisy", *["previous"] * model["self_conditioning"]]
    kinds += ["Gaussian estimate"] * bool(model.get("gaussian_components"))
    each = [kind for kind in kinds for _ in range(1 if one_modality else 2)]
    return [*each, *["prior"] * (model.get("prior") == "concat")]


def _numbered(kinds: Sequence[str]) -> list[tuple[str, int]]:
    return [(kind, kinds[:place].count(kind)) for place, kind in enumerate(kinds)]


def _sinusoids(centres: Sequence[float], condition: Conditioning) -> Tensor:
    return sinusoid(torch.tensor(centres).floor(), condition.sinusoids.shape[1]).double()


def _text(values: Sequence) -> str:
    return " and ".join(map(str, values))
