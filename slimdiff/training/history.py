"""history.tsv: what a training went through, a row every `log_every` steps."""

import math
from pathlib import Path

import torch
from torch import Tensor

from slimdiff.files import write_table
from slimdiff.training.objective import Objective


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


class History:
    """Means since the row before of total loss, its terms and gradient norm; learned weights as they stand.

    Steps are noted on the device. The host waits for it where a row is closed or a state saved, and nowhere else.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        self.rows: list[dict] = []
        self.pending: list[Tensor] = []

    def note(self, total: Tensor, terms: Tensor, norm: Tensor) -> None:
        """Keep the values of one step."""
        self.pending.append(torch.cat([total.detach().view(1), terms.detach(), norm.detach().view(1)]))

    def means(self, step: int, kept: Path) -> dict[str, float]:
        """Means of the pending steps; raises TrainingFailed if one is no number, naming the state that is kept."""
        names = ("loss", *(f"loss_{term}" for term in self.objective.terms), "gradient_norm")
        values = torch.stack(self.pending).mean(0).tolist()
        means = dict(zip(names, values, strict=True))
        if not all(math.isfinite(value) for value in values):
            listed = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
            raise TrainingFailed(
                f"{listed} within the {len(self.pending)} steps before step {step}; "
                f"state of an earlier step: {kept if kept.is_file() else 'none'}"
            )
        return means

    def close_row(self, step: int, kept: Path, learning_rate: float, images_per_s: float) -> dict:
        """Turn the pending steps into a row."""
        row = {
            "step": step,
            **self.means(step, kept),
            "learning_rate": learning_rate,
            "images_per_s": images_per_s,
            **{f"log_variance_{group}": value for group, value in enumerate(self._log_variances())},
        }
        self.rows.append(row)
        self.pending.clear()
        return row

    def write(self, path: Path) -> None:
        """Write the table; a training without steps has no rows."""
        terms = [f"loss_{term}" for term in self.objective.terms]
        weights = [f"log_variance_{group}" for group in range(len(self._log_variances()))]
        columns = ("step", "loss", *terms, "gradient_norm", "learning_rate", "images_per_s", *weights)
        write_table(path, self.rows, columns)

    def _log_variances(self) -> list[float]:
        uncertainty = self.objective.uncertainty
        return [] if uncertainty is None else uncertainty.log_variances.tolist()
