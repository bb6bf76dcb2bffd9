"""What a training leaves beside its model, and on the way to it."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import slimdiff
from slimdiff.files import write_table
from slimdiff.model.build import ModelCard, save_model
from slimdiff.png import write_png
from slimdiff.training import validation
from slimdiff.training.preview import preview
from slimdiff.training.sinks import Sinks

if TYPE_CHECKING:
    from slimdiff.training.trainer import Trainer


class Outputs:
    """Writes what the trainer has: numbers as they come, previews, and at the end weights and tables.

    Args:
        trainer: whose they are; of several processes the first opens its outputs, and the others write nothing.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.sinks: Sinks | None = None

    def open(self) -> None:
        """From here on numbers and pictures also go where the study wants them."""
        trainer, config = self.trainer, self.trainer.config
        identity = json.dumps(trainer.identity, sort_keys=True)
        names = [str(trainer.identity.get(key, "")) for key in ("study", "variant", "fold")]
        self.sinks = Sinks(
            trainer.folder,
            # Rows up to the state's own step are there already.
            trainer.step + 1 if trainer.step else 0,
            config.tensorboard and bool(config.steps),
            config.wandb_project if config.steps else None,
            name="/".join(names),
            key=hashlib.sha256(identity.encode()).hexdigest()[:16],
            config=trainer.identity,
        )

    def numbers(self, row: dict, group: str) -> None:
        """A row of one of the tables."""
        if self.sinks:
            self.sinks.numbers(row["step"], row, group)

    def preview(self, name: str, weights: dict[str, Tensor], unless_there: bool = False) -> None:
        """Samples of the network with these weights, from the same noise every time."""
        trainer, path = self.trainer, self.trainer.folder / "previews" / f"{name}.png"
        if unless_there and path.is_file():
            return
        sheet = preview(trainer.sketch, weights, trainer.data_spec, trainer.precision)
        write_png(path, sheet)
        if self.sinks:
            self.sinks.picture(trainer.step, "previews", sheet)

    def close(self) -> None:
        """Everything so far is written."""
        if self.sinks:
            self.sinks.close()

    def write(self) -> None:
        """The last preview, the tables, further averages, and the model last."""
        trainer, folder = self.trainer, self.trainer.folder
        first, *further = trainer.emas
        step, decay, weights = trainer.step, first.decay, first.weights()
        best = trainer.validation.best if trainer.validation else None
        if best is not None and trainer.config.validation.select == "kid":
            step, decay = best.step, best.ema_decay
            weights = {name: value.to(trainer.device) for name, value in best.weights.items()}
        elif trainer.config.validation.select == "kid":
            print("no round of watching has a KID to choose by: the last weights are taken", file=sys.stderr)
        self.preview("final", weights)
        self.close()
        trainer.history.write(folder / "history.tsv")
        if trainer.validation:
            trainer.validation.write(folder / "validation.tsv")
        else:
            write_table(folder / "validation.tsv", [], validation.COLUMNS)
        for ema in further:
            card = self._card(trainer.step, ema.decay)
            save_model(folder / f"ema-{ema.decay:g}.safetensors", self._whole(ema.weights()), card)
        save_model(folder / "model.safetensors", self._whole(weights), self._card(step, decay))

    def _whole(self, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Averaged weights, and what the network keeps beside its weights."""
        return {**self.trainer.network.state_dict(), **averages}

    def _card(self, step: int, decay: float) -> ModelCard:
        trainer = self.trainer
        return ModelCard(
            model=trainer.identity["model"],
            diffusion=trainer.identity["diffusion"],
            training=trainer.config.model_dump(mode="json"),
            data=trainer.data_spec,
            spacing_mm=trainer.store.spacing_mm,
            z_range=tuple(trainer.store.facts["z_range"]),
            study=trainer.identity.get("study", ""),
            variant=trainer.identity.get("variant", ""),
            fold=trainer.identity.get("fold", 0),
            step=step,
            data_hash=trainer.store.data_hash,
            precision=str(trainer.precision).removeprefix("torch."),
            versions={
                "slimdiff": slimdiff.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            ema_decay=decay,
        )
