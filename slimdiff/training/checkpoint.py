"""Resume state: written atomically next to the model, not an output of the workflow.

A workflow engine deletes the declared outputs of a failed job. `state/last.pt` survives, and the next run resumes
from it, or from the state before it (`state/previous.pt`) if `last.pt` was damaged, which is then `last.pt.damaged`. A
finished training leaves its own state there (`training.keep_state`); of all changes of its configuration only a larger
`training.steps` resumes it.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from slimdiff.config.training import TrainingConfig
from slimdiff.devices import is_out_of_memory
from slimdiff.files import CHECKSUM, NoSpace, content_hint, remove_partials, replacing


class TrainingFailed(RuntimeError):
    """Training failed; the message names the step and the saved state."""


@dataclass
class Interrupted(Exception):
    """A stop signal was received; the state of this step has been saved."""

    signum: int
    step: int


def out_of_memory(
    error: RuntimeError,
    config: TrainingConfig,
    size: tuple[int, int],
    device: torch.device,
    step: int,
    processes: int,
    state: Path,
) -> TrainingFailed:
    """The error for a batch that does not fit into the device's memory; `size` is height and width in px."""
    height, width = size
    kept = state if state.is_file() else "none"
    parts = min(2 * config.accumulate, config.batch_size // processes)
    advice = f"set training.accumulate to {parts} or more (same batch in more parts), or reduce training.batch_size"
    if parts <= config.accumulate:
        advice = "a part is already one slice; use a smaller network or a device with more memory"
    return TrainingFailed(
        f"out of memory on {device} at step {step} with training.batch_size {config.batch_size} in "
        f"{config.accumulate} part(s) of slices of {width} x {height} px; {advice}; saved state: {kept} "
        f"({str(error).splitlines()[0]})"
    )


class Ema:
    """Exponential moving average of the weights: average <- decay * average + (1 - decay) * weights.

    The decay at step s is min(decay, (1 + s) / (10 + s)), so that the random initial weights are forgotten early.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.parameters = list(network.parameters())
        self.names = [name for name, _ in network.named_parameters()]
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights by name."""
        return dict(zip(self.names, self.averages, strict=True))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Set the averages to `weights`."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(weights[name])


# Keys that do not change the learned weights, except for rounding.
NOT_LEARNT = {"log_every", "save_every", "preview_every", "device", "accumulate", "compile"}
NOT_LEARNT |= {"tensorboard", "wandb_project", "snapshots", "keep_state"}
# Of a file to start from the content counts (`slimdiff.training.identity`).
NOT_LEARNT |= {"init", "init_sha256", "init_missing"}


class StateNotSaved(RuntimeError):
    """A resume state could not be written; the previous one is unchanged."""


class StateDamaged(ValueError):
    """A resume state cannot be read. `what`: which and why."""

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}; {remedy}")
        self.what = what


class StateNotRead(RuntimeError):
    """A resume state could not be read for lack of memory or an input/output error; it is unchanged."""


class StateMismatch(ValueError):
    """A resume state belongs to another configuration or to other data."""


def learnt(config: TrainingConfig) -> dict:
    """The keys of the section that determine the learned weights; part of the run's identity."""
    unimportant = NOT_LEARNT if config.validation.decides else NOT_LEARNT | {"validation"}
    return config.model_dump(mode="json", exclude=unimportant)


def recorded(config: TrainingConfig) -> dict:
    """The keys of the section that determine the learned weights and validation.tsv."""
    return config.model_dump(mode="json", exclude=NOT_LEARNT)


def missing_snapshots(folder: Path, config: TrainingConfig, reached: int) -> list[int]:
    """Configured snapshots up to step `reached` that are not in the model's folder."""
    names = {step: folder / f"snapshot-{step}.safetensors" for step in config.snapshots}
    return [step for step, path in names.items() if step <= reached and not path.is_file()]


def save_state(path: Path, state: dict, identity: dict) -> None:
    """Write the state with the identity of its run; raises StateNotSaved."""
    remove_partials(path)
    # Copy to the host first, so that a later failure is a failure of writing.
    content = {"identity": json.dumps(identity, sort_keys=True), **_on_host(state)}
    content[CHECKSUM] = _sha256(content)
    try:
        with replacing(path) as temporary:
            torch.save(content, temporary)
            # Flush to disk before this file replaces the previous state.
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            _keep_as_previous(path)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        reason = error.__cause__ if isinstance(error, NoSpace) else error
        raise StateNotSaved(
            f"{path}: the state of step {state['step']} could not be written ({str(reason).splitlines()[0]}; "
            f"{_bytes_of(content) / 1e6:.4g} MB needed, {free:.0f} MB free); previous state: "
            f"{'kept' if path.is_file() else 'none'}. Free disk space and run again to resume"
        ) from error


def previous_state(path: Path) -> Path:
    """The state before the one in `path`, from which a run resumes if that one is damaged."""
    return path.with_name("previous.pt")


def damaged_state(path: Path) -> Path:
    """The name that a damaged `path` gets when the state before it is used."""
    return path.with_name(f"{path.name}.damaged")


def remove_states(folder: Path) -> None:
    """Remove the saved states of a training, so that it starts at step 0."""
    remove_partials(folder / "last.pt")
    for name in ("last.pt", "last.pt.damaged", "previous.pt"):
        (folder / name).unlink(missing_ok=True)


def _keep_as_previous(path: Path) -> None:
    if not path.is_file():
        return
    beside = path.with_name(f".{path.name}.previous")
    try:
        # A second name, so that there is no moment without `path`.
        os.link(path, beside)
        beside.replace(previous_state(path))
    except OSError:
        # A file system without hard links.
        path.replace(previous_state(path))


def _sha256(content: dict) -> str:
    """Hash of all values and tensors of a state."""
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            digest.update(f"{len(value)} keys\n".encode())
            for key, part in value.items():
                digest.update(f"{key!r}\n".encode())
                add(part)
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)} values\n".encode())
            for part in value:
                add(part)
        else:
            digest.update(f"{value!r}\n".encode())

    add(content)
    return digest.hexdigest()


def _bytes_of(value) -> int:
    """Size of the tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_bytes_of, parts))


def _on_host(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_host(part) for key, part in value.items()}
    return [_on_host(part) for part in value] if isinstance(value, list) else value


def load_state(path: Path, identity: dict, config: TrainingConfig | None = None) -> dict | None:
    """Read the state of this run, or the one before if the last one is damaged. No pickled code is executed.

    Its tensors are on the host. A damaged state is renamed (`damaged_state`) once the one before was read.

    Raises:
        StateDamaged: all states are damaged.
        StateNotRead: memory or disk fail.
        StateMismatch: the state is of another run; the differences are named.

    config: section `training`; a finished training of another configuration is then not resumed: the result is None,
    and a line says so. One with fewer steps is resumed, and its step is added to `extended_at`.
    """
    try:
        state, found = _read_state(path)
    except StateDamaged as damage:
        before = previous_state(path)
        if not before.is_file():
            raise
        state, found = _read_state(before)
        print(f"{damage.what}; the state before it is used: {before}, step {state['step']}", file=sys.stderr)
        # Otherwise the next saved state would replace the good one by the damaged one. Another process of this
        # training may have renamed it.
        with suppress(FileNotFoundError):
            path.replace(damaged_state(path))
    if config and state.get("ended"):
        return _extended(state, found, identity, config, path)
    differences = _differing(found, identity)
    if differences:
        raise StateMismatch(
            f"{path} belongs to another run ({'; '.join(differences)}); restore its configuration to resume, or "
            f"delete {path.parent} to start again"
        )
    return state


def _extended(state: dict, found: dict, identity: dict, config: TrainingConfig, path: Path) -> dict | None:
    """The state of a finished training, if this run is the same one or has more steps."""
    found = {**found, "training": json.loads(state["settings"])}
    longer = {**found["training"], "steps": max(config.steps, found["training"]["steps"])}
    reasons = _differing({**found, "training": longer}, {**identity, "training": recorded(config)})
    reasons += [
        f"no snapshot-{step}.safetensors"
        for step in missing_snapshots(path.parents[1], config, state["step"])
    ]
    if reasons:
        print(
            f"{path}: the finished training cannot be resumed ({'; '.join(reasons)}); starting at step 0",
            file=sys.stderr,
        )
        return None
    if longer != found["training"]:
        state["extended_at"] = [*state["extended_at"], state["step"]]
        state["ended"] = False
    return state


def is_unfinished(folder: Path, identity: dict) -> bool:
    """Whether the folder of states has one of this run, saved before its end."""
    try:
        state, found = _read_state(folder / "last.pt")
    except (OSError, StateDamaged):
        return False
    return not state.get("ended") and not _differing(found, identity)


def _differing(found: dict, expected: dict) -> list[str]:
    """The keys in which the identity of a state differs, in words."""
    rows = _differences(found, json.loads(json.dumps(expected)))
    return [f"{key}: expected {new}, found {old}" for key, old, new in rows]


def _read_state(path: Path) -> tuple[dict, dict]:
    """State and identity, on the host: the device may have no space for a second copy."""
    if hint := content_hint(path):
        raise FileNotFoundError(f"{path}: {hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # torch does not compare the checksums of its records. Earlier versions saved none.
        if CHECKSUM in state and state.pop(CHECKSUM) != _sha256(state):
            raise ValueError("its content is not what was saved, by its checksum")
        return state, json.loads(state.pop("identity"))
    except Exception as error:
        # torch raises pickle, runtime, key or end-of-file errors, depending on the file.
        reason = str(error).strip() or type(error).__name__
        if _is_passing(error):
            raise StateNotRead(
                f"{path}: the training state could not be read ({reason.splitlines()[0][:200]}); it is kept, and may "
                "be sound: free memory, or check the disk, and run again to resume"
            ) from error
        if "weights_only" in reason:
            # torch's advice there is to execute whatever the file holds.
            reason = "it is no state, or holds more than tensors and plain values"
    size = path.stat().st_size if path.is_file() else 0
    raise StateDamaged(
        f"{path}: the training state of {size} bytes is cut off or damaged ({reason.splitlines()[0][:200]})",
        f"delete {path.parent} to start this training again; all other files of the model stay",
    )


def _is_passing(error: Exception) -> bool:
    """Whether an error of reading is one of memory or disk, and says nothing about the file."""
    if isinstance(error, OSError):
        # In a file with a damaged directory, torch looks for a record before its start: EINVAL.
        return not isinstance(error, FileNotFoundError) and error.errno != errno.EINVAL
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error))


def _differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    rows = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            rows += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            rows.append((f"{prefix}{key}", a, b))
    return rows
