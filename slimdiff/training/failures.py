"""How a training ends before its time."""

from dataclasses import dataclass
from pathlib import Path

import torch

from slimdiff.config.training import TrainingConfig


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
