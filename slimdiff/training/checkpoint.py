"""Resume state: written atomically beside the model, never an output of the workflow.

An engine deletes the declared outputs of a failed job; `state/last.pt` survives and the next try goes on from it.
"""

import json
import os
import shutil
from pathlib import Path

import torch

from slimdiff.config.training import TrainingConfig
from slimdiff.files import replacing

# What a training learns does not depend on these, or up to rounding only.
NOT_LEARNT = {"log_every", "save_every", "preview_every", "device", "accumulate", "compile", "slices_on"}
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
            f"it, or delete {path.parent} to begin anew"
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
