"""history.tsv, one row every `log_every` steps, and the loggers TensorBoard and Weights & Biases."""

import math
import netrc
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor

from slimdiff.files import write_table
from slimdiff.training.checkpoint import TrainingFailed
from slimdiff.training.objective import NOISE_BINS, NOISE_COLUMNS, Objective


class History:
    """Total loss, its terms and gradient norm, averaged since the previous row; current values of learned loss weights.

    Values of steps are kept on the device. The host waits for the device only when a row is closed or a state is saved.

    Args:
        objective: the objective whose terms are recorded.
        slices: returns the names of the slices of a step's batch, for the message about a failed step.
        gather: copies values to the host, summed over the processes that share a batch.
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
        """Steps since the previous row."""
        return len(self._gathered) + len(self._noted)

    def note(self, total: Tensor, terms: Tensor, norm: Tensor, by_noise: Tensor) -> None:
        """Record one step of this process's samples; `by_noise` is the result of `losses_by_noise`."""
        values = [total.detach().view(1), terms.detach(), norm.detach().view(1), by_noise.flatten()]
        self._noted.append(torch.cat(values))

    def check(self, step: int, kept: Path) -> Tensor:
        """The values of the steps since the previous row, up to step `step`, (n, ...) on the host.

        Raises TrainingFailed if a value is not finite, naming its step, its slices and the saved state.
        """
        if self._noted:
            self._gathered += self.gather(torch.stack(self._noted))
            self._noted.clear()
        values = torch.stack(self._gathered)
        nonfinite = (~values.isfinite()).any(dim=1).nonzero()
        if len(nonfinite):
            first = int(nonfinite[0])
            failed = step - len(values) + first
            listed = ", ".join(
                f"{name} {value:.4g}"
                for name, value in zip(self._names(), values[first].tolist(), strict=False)
            )
            raise TrainingFailed(
                f"{listed} at step {failed}, whose batch was {', '.join(self.slices(failed))}; "
                f"saved state: {kept if kept.is_file() else 'none'}. Inspect these slices; a lower "
                "training.learning_rate or training.precision: float32 may help"
            )
        return values

    def close_row(
        self, step: int, kept: Path, learning_rate: float, images_per_s: float, memory_mb: float
    ) -> dict:
        """Append a row for the steps since the previous row; raises TrainingFailed as `check` does."""
        values = self.check(step, kept)
        names = self._names()
        image, mask, count = values[:, len(names) :].sum(dim=0).view(3, NOISE_BINS)
        # A noise bin without samples is n/a.
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
        """The state for a resumed run; call `check` first."""
        return {"rows": self.rows, "gathered": self._gathered}

    def restore(self, state: dict) -> None:
        """Restore `state`."""
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
    """Event files in a folder; a resumed run replaces the events that it writes again."""

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


def wandb_server() -> str:
    """Address of the server of Weights & Biases."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def wandb_unreachable(seconds: float = 10) -> str | None:
    """Why the server of Weights & Biases does not answer; None if it does, whatever its answer is."""
    try:
        urlopen(wandb_server(), timeout=seconds).close()
    except HTTPError:
        return None
    except (OSError, ValueError) as error:
        return f"{wandb_server()} does not answer ({getattr(error, 'reason', error)})"
    return None


def has_wandb_key() -> bool:
    """Whether this user has a key of Weights & Biases, in WANDB_API_KEY or, for its server, in .netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(wandb_server()).hostname
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in names:
        with suppress(OSError, RuntimeError, netrc.NetrcParseError):
            if netrc.netrc(Path(name).expanduser()).authenticators(host or ""):
                return True
    return False


class WandB:
    """A run of Weights & Biases; a resumed training continues the same run.

    Without a key, or where its server does not answer, the run is written to the folder, and a line has the command
    that sends it later. WANDB_MODE, if set, decides alone.
    """

    def __init__(self, project: str, folder: Path, name: str, key: str, config: dict):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.wandb = wandb
        options = {"project": project, "dir": str(folder), "name": name, "id": key, "config": config}
        chosen, reason = os.environ.get("WANDB_MODE"), None
        if not chosen and not has_wandb_key():
            # It would ask for the key on a terminal, and wait for ever in a job.
            reason = "no key found (WANDB_API_KEY, or wandb login)"
        elif not chosen:
            reason = wandb_unreachable()
        if reason is None:
            try:
                self.run = wandb.init(resume="allow", **options)
            except Exception as error:
                if chosen:
                    raise
                # Its background process still has the run under the first id.
                options["id"] = f"{key}-offline"
                reason = f"its server cannot be used ({str(error).strip().partition(chr(10))[0]})"
        if reason is not None:
            self.run = wandb.init(resume="allow", mode="offline", **options)
            command = f"wandb sync {shlex.quote(str(Path(self.run.dir).parent))}"
            print(f"W&B is offline: {reason}. To send the run later: {command}", file=sys.stderr)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        # The step is logged as a value: W&B's own counter cannot go back when a run is resumed.
        self.run.log({"step": step, **values})

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.run.log({"step": step, name: self.wandb.Image(picture)})

    def close(self) -> None:
        self.run.finish()


class Sinks:
    """All configured loggers.

    Args:
        folder: the model's folder.
        step: existing events from this step on are dropped: a resumed run writes them again.
        tensorboard: whether to use TensorBoard; without its package a message is printed and only tables are written.
        wandb_project: project of Weights & Biases, or None.
        name, key, config: name, id and configuration of the Weights & Biases run.

    Raises:
        ValueError: `wandb_project` is set, but wandb is not installed.
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
            # Silences TensorFlow, which TensorBoard imports if it is installed.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            try:
                self.all.append(TensorBoard(folder / "tensorboard", step))
            except ImportError:
                print(
                    "no TensorBoard: its package is not installed; the numbers are in history.tsv",
                    file=sys.stderr,
                )
            except Exception as error:
                self._drop("TensorBoard", error)
        if wandb_project:
            try:
                self.all.append(WandB(wandb_project, folder, name, key, config or {}))
            except ImportError:
                raise ValueError(
                    f"training.wandb_project is {wandb_project!r}, but wandb is not installed: "
                    "pip install 'slimdiff[wandb]', or remove the key"
                ) from None
            except Exception as error:
                self._drop("WandB", error)

    def numbers(self, step: int, values: dict, group: str) -> None:
        """Log the finite numbers of a row under `group`; other values are skipped."""
        fit = {
            f"{group}/{key}": float(value)
            for key, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value) and key != "step"
        }
        self._each("numbers", step, fit)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Log a picture, uint8 (H, W) or (H, W, 3)."""
        self._each("picture", step, name, picture)

    def close(self) -> None:
        """Flush and close all loggers."""
        self._each("close")

    def _each(self, method: str, *arguments) -> None:
        for sink in list(self.all):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                # A full disk, a lost connection: a logger never ends a training.
                self.all.remove(sink)
                self._drop(type(sink).__name__, error)

    def _drop(self, name: str, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        print(f"{name} stopped logging: {reason}; the numbers are in history.tsv", file=sys.stderr)
