"""Where a training's numbers and pictures go beside its own tables: TensorBoard, and Weights & Biases on request."""

import math
import os
import sys
from pathlib import Path

import numpy as np


class TensorBoard:
    """Event files in a folder; what a resumed run writes again takes the place of what was there."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.writer.add_image(name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, the same one after a resumption."""

    def __init__(self, project: str, folder: Path, name: str, key: str, config: dict):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.wandb = wandb
        self.run = wandb.init(
            project=project, dir=str(folder), name=name, id=key, resume="allow", config=config
        )

    def numbers(self, step: int, values: dict[str, float]) -> None:
        # With the step as a value of its own: W&B's own counter refuses to go back when a run is taken up again.
        self.run.log({"step": step, **values})

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.run.log({"step": step, name: self.wandb.Image(picture)})

    def close(self) -> None:
        self.run.finish()


class Sinks:
    """All of them at once.

    Args:
        folder: of the model.
        step: from which on events that are there already make room: a resumed run writes them again.
        tensorboard: whether TensorBoard is wanted; without its package the tables are all there is, and it says so.
        wandb_project: of Weights & Biases, or None.
        name, key, config: of its run: what it is called, what it is found again by, what was configured.

    Raises:
        ValueError: W&B is wanted and not installed.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        tensorboard: bool,
        wandb_project: str | None,
        name: str = "",
        key: str = "",
        config: dict | None = None,
    ):
        self.all: list[TensorBoard | WandB] = []
        if tensorboard:
            # It looks for TensorFlow otherwise, whose messages and seconds nobody wants.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            try:
                self.all.append(TensorBoard(folder / "tensorboard", step))
            except ImportError:
                print(
                    "no TensorBoard: its package is not installed; history.tsv has the numbers",
                    file=sys.stderr,
                )
        if wandb_project:
            try:
                self.all.append(WandB(wandb_project, folder, name, key, config or {}))
            except ImportError:
                raise ValueError(
                    f"training.wandb_project is {wandb_project!r}, but wandb is not installed: "
                    "pip install 'slimdiff[wandb]', or leave the key out"
                ) from None

    def numbers(self, step: int, values: dict, group: str) -> None:
        """Numbers of a step under `group`; what is none of them is left out."""
        fit = {
            f"{group}/{key}": float(value)
            for key, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value) and key != "step"
        }
        for sink in self.all:
            sink.numbers(step, fit)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture, uint8 (H, W) or (H, W, 3)."""
        for sink in self.all:
            sink.picture(step, name, picture)

    def close(self) -> None:
        """Everything is written."""
        for sink in self.all:
            sink.close()
