"""history.tsv: what a training went through, a row every `log_every` steps."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slimdiff.files import write_table
from slimdiff.training.failures import TrainingFailed
from slimdiff.training.objective import Objective

NOISE_BINS = 4
NOISE_COLUMNS = tuple(f"loss_{c}_noise_{b}" for c in ("image", "mask") for b in range(1, NOISE_BINS + 1))
"""Losses of each channel by quarter of the noise levels' time, 1 the least noisy."""


def losses_by_noise(samples: Tensor, timestep: Tensor, timesteps: int) -> Tensor:
    """Sums of the samples' losses and their number by noise level, made on the device: (3, NOISE_BINS).

    Args:
        samples: loss of each sample's image and mask, (B, 2).
        timestep: int64 (B,), of 0 ... timesteps - 1.
    """
    # Not one_hot, which looks at the values on the host.
    levels = torch.arange(NOISE_BINS, device=timestep.device)
    in_bin = (timestep[:, None] * NOISE_BINS // timesteps == levels).to(samples.dtype)
    return torch.cat([samples, torch.ones_like(samples[:, :1])], dim=1).T @ in_bin


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
