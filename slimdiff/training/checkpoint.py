"""Resume state: written atomically beside the model, never an output of the workflow.

An engine deletes the declared outputs of a failed job; `state/last.pt` survives and the next try goes on from it.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from slimdiff.config.training import TrainingConfig
from slimdiff.files import replacing


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


@dataclass
class Interrupted(Exception):
    """A signal asked the run to stop; its state has been written."""

    signum: int


def out_of_memory(
    error: RuntimeError,
    config: TrainingConfig,
    size: tuple[int, int],
    device: torch.device,
    step: int,
    processes: int,
    state: Path,
) -> TrainingFailed:
    """What is raised where the device's memory does not hold a batch of slices of `size` (height, width) px."""
    height, width = size
    kept = state if state.is_file() else "none"
    parts = min(2 * config.accumulate, config.batch_size // processes)
    advice = (
        f"set training.accumulate to {parts} or more (the same batch in more parts), or a smaller batch_size"
    )
    if parts <= config.accumulate:
        advice = "a part is one slice already; take a smaller network, or a device with more memory"
    return TrainingFailed(
        f"out of memory on {device} at step {step} with training.batch_size {config.batch_size} in "
        f"{config.accumulate} part(s) of slices of {width} x {height} px: {advice}; state of an earlier step: {kept} "
        f"({str(error).splitlines()[0]})"
    )


class Ema:
    """average <- decay * average + (1 - decay) * weights, with a short memory early on.

    The decay of step s is min(decay, (1 + s) / (10 + s)), so that the random start is forgotten.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.parameters = list(network.parameters())
        self.names = [name for name, _ in network.named_parameters()]
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """name: averaged weight."""
        return dict(zip(self.names, self.averages, strict=True))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take averages from `weights`."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(weights[name])


# What a training learns does not depend on these, or up to rounding only.
NOT_LEARNT = {"log_every", "save_every", "preview_every", "device", "accumulate", "compile"}
NOT_LEARNT |= {"tensorboard", "wandb_project", "snapshots"}


class StateNotSaved(RuntimeError):
    """A resume state that the disk did not take; the one before it is untouched."""


class StateMismatch(ValueError):
    """A resume state that belongs to another configuration or other data."""


def learnt(config: TrainingConfig) -> dict:
    """What of the section decides which weights come out: a part of the run's identity."""
    unimportant = NOT_LEARNT if config.validation.decides else NOT_LEARNT | {"validation"}
    return config.model_dump(mode="json", exclude=unimportant)


def save_state(path: Path, state: dict, identity: dict) -> None:
    """Write tensors and numbers with the identity of the run they belong to; raises StateNotSaved."""
    # What a killed process left half-written.
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
    # First off the device: what fails from here on is the writing.
    content = {"identity": json.dumps(identity, sort_keys=True), **_on_host(state)}
    try:
        with replacing(path) as temporary:
            torch.save(content, temporary)
            # Whole on the disk before it takes the place of the state before it.
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        raise StateNotSaved(
            f"{path}: the state of step {state['step']} could not be written ({str(error).splitlines()[0]}; "
            f"{free:.0f} MB free); the state before it is {'kept' if path.is_file() else 'none'}. Make room and run "
            "it again to go on"
        ) from error


def _on_host(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_host(part) for key, part in value.items()}
    return [_on_host(part) for part in value] if isinstance(value, list) else value


def load_state(path: Path, identity: dict, device: torch.device) -> dict:
    """Read a state of this very run; raises StateMismatch naming what differs. No pickled code is run."""
    state = torch.load(path, map_location=device, weights_only=True)
    found = json.loads(state.pop("identity"))
    differences = [
        f"{key}: state {old}, now {new}"
        for key, old, new in _differences(found, json.loads(json.dumps(identity)))
    ]
    if differences:
        raise StateMismatch(
            f"{path} belongs to another run ({'; '.join(differences)}); restore that configuration to go on from "
            f"it, or delete {path.parent} to start over"
        )
    return state


def _differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    rows = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            rows += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            rows.append((f"{prefix}{key}", a, b))
    return rows
