"""How a training ends before its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slimdiff.training.trainer import Trainer


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


@dataclass
class Interrupted(Exception):
    """A signal asked the run to stop; its state has been written."""

    signum: int


def out_of_memory(trainer: Trainer, error: RuntimeError) -> TrainingFailed:
    """What is raised where the device's memory does not hold a batch."""
    config, (height, width) = trainer.config, trainer.data_spec.size
    kept = trainer.state_path if trainer.state_path.is_file() else "none"
    parts = min(2 * config.accumulate, config.batch_size // trainer.processes.count)
    advice = (
        f"set training.accumulate to {parts} or more (the same batch in more parts), or a smaller batch_size"
    )
    if parts <= config.accumulate:
        advice = "a part is one slice already; take a smaller network, or a device with more memory"
    return TrainingFailed(
        f"out of memory on {trainer.device} at step {trainer.step} with training.batch_size {config.batch_size} in "
        f"{config.accumulate} part(s) of slices of {width} x {height} px: {advice}; state of an earlier step: {kept} "
        f"({str(error).splitlines()[0]})"
    )
