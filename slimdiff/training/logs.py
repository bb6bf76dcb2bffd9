"""history.tsv: what a training went through, a row every `log_every` steps."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimdiff.files import write_table
from slimdiff.training.checkpoint import TrainingFailed
from slimdiff.training.objective import NOISE_BINS, NOISE_COLUMNS, Objective


class History:
    """Means since the row before of total loss, its terms and gradient norm; learned weights as they stand.

    Steps are noted on the device. The host waits for it where a row is closed or a state saved, and nowhere else.

    Args:
        objective: whose terms are noted.
        slices: names the slices of a step's batch, for the message about one that failed.
        gather: brings noted values to the host, summed over the processes that share a batch.
    """

    def __init__(
        self,
        objective: Objective,
        slices: Callable[[int], list[str]],
        gather: Callable[[Tensor], Tensor] = Tensor.cpu,
    ):
        self.objective = objective
        self.slices = slices
        self.gather = gather
        self.rows: list[dict] = []
        self._noted: list[Tensor] = []
        self._gathered: list[Tensor] = []

    @property
    def steps(self) -> int:
        """Steps since the row before."""
        return len(self._gathered) + len(self._noted)

    def note(self, total: Tensor, terms: Tensor, norm: Tensor, by_noise: Tensor) -> None:
        """Keep the values of one step, of this process's samples; `by_noise` as `losses_by_noise` gives it."""
        values = [total.detach().view(1), terms.detach(), norm.detach().view(1), by_noise.flatten()]
        self._noted.append(torch.cat(values))

    def check(self, step: int, kept: Path) -> Tensor:
        """The values of the steps since the row before, up to step number `step`, (n, ...) on the host.

        Raises TrainingFailed where one is no number, naming its step, its slices and the state that is kept.
        """
        if self._noted:
            self._gathered += self.gather(torch.stack(self._noted))
            self._noted.clear()
        values = torch.stack(self._gathered)
        spoilt = (~values.isfinite()).any(dim=1).nonzero()
        if len(spoilt):
            first = int(spoilt[0])
            failed = step - len(values) + first
            listed = ", ".join(
                f"{name} {value:.4g}"
                for name, value in zip(self._names(), values[first].tolist(), strict=False)
            )
            raise TrainingFailed(
                f"{listed} at step {failed}, whose batch was {', '.join(self.slices(failed))}; "
                f"state of an earlier step: {kept if kept.is_file() else 'none'}. Look at these slices; a lower "
                "training.learning_rate or gradient_clip, or precision: float32, may help"
            )
        return values

    def close_row(
        self, step: int, kept: Path, learning_rate: float, images_per_s: float, memory_mb: float
    ) -> dict:
        """Turn the steps since the row before into a row; raises TrainingFailed as `check` does."""
        values = self.check(step, kept)
        names = self._names()
        image, mask, count = values[:, len(names) :].sum(dim=0).view(3, NOISE_BINS)
        # A bin that no sample fell into is n/a.
        by_noise = torch.cat([image / count, mask / count]).tolist()
        row = {
            "step": step,
            **dict(zip(names, values[:, : len(names)].mean(dim=0).tolist(), strict=True)),
            **dict(zip(NOISE_COLUMNS, by_noise, strict=True)),
            "learning_rate": learning_rate,
            "images_per_s": images_per_s,
            "memory_mb": memory_mb,
            **{f"log_variance_{group}": value for group, value in enumerate(self._log_variances())},
        }
        self.rows.append(row)
        self._gathered.clear()
        return row

    def state(self) -> dict:
        """What a resumed run has to know; after `check`."""
        return {"rows": self.rows, "gathered": self._gathered}

    def restore(self, state: dict) -> None:
        """Go on from `state`."""
        self.rows, self._gathered = state["rows"], [values.cpu() for values in state["gathered"]]

    def write(self, path: Path) -> None:
        """Write the table; a training without steps has no rows."""
        weights = [f"log_variance_{group}" for group in range(len(self._log_variances()))]
        measured = ("learning_rate", "images_per_s", "memory_mb")
        write_table(path, self.rows, ("step", *self._names(), *NOISE_COLUMNS, *measured, *weights))

    def _names(self) -> list[str]:
        return ["loss", *(f"loss_{term}" for term in self.objective.terms), "gradient_norm"]

    def _log_variances(self) -> list[float]:
        uncertainty = self.objective.uncertainty
        return [] if uncertainty is None else uncertainty.log_variances.tolist()


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
