"""Outputs of a training: logged numbers, previews, weights and tables."""

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import slimdiff
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.devices import hardware
from slimdiff.files import write_table
from slimdiff.model.checkpoint import DataSpec, ModelCard, save_model
from slimdiff.png import write_png
from slimdiff.training.calibration import fit_mask_calibration
from slimdiff.training.checkpoint import Ema
from slimdiff.training.data import TrainingSet
from slimdiff.training.identity import run_key
from slimdiff.training.logs import History, Sinks
from slimdiff.training.validation import COLUMNS, PreviewSampler, Validation, preview


class Outputs:
    """Write logged numbers and previews during training, weights and tables at the end.

    Of several processes only the first writes.

    Args:
        folder: the model's folder.
        config: section `training`.
        identity: study, variant, fold and sections of the run.
        store: the slice store.
        data: the network's data specification.
        preview_sampler: sampler of the previews.
        slices: the training slices, on which masks are calibrated.
        init: what the training started from, for the model card.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        identity: dict,
        store: SliceStore,
        data: DataSpec,
        preview_sampler: PreviewSampler,
        slices: TrainingSet,
        init: dict | None,
    ):
        self.folder, self.config, self.identity = folder, config, identity
        self.store, self.data, self.preview_sampler, self.slices = store, data, preview_sampler, slices
        self.init = init
        self.sinks: Sinks | None = None

    def open(self, step: int) -> None:
        """Open the loggers that the study selects; `step` is the number of steps already done."""
        config = self.config
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        names = [str(self.identity.get(part, "")) for part in ("study", "variant", "fold")]
        self.sinks = Sinks(
            self.folder,
            # Rows up to the step of the resume state are already logged.
            step + 1 if step else 0,
            config.tensorboard and bool(config.steps),
            config.wandb_project if config.steps else None,
            name="/".join(names),
            key=key,
            config=self.identity,
        )

    def numbers(self, row: dict, group: str) -> None:
        """Log a row of one of the tables."""
        if self.sinks:
            self.sinks.numbers(row["step"], row, group)

    def preview(
        self, step: int, name: str, weights: dict[str, Tensor], precision: torch.dtype, redraw: bool = True
    ) -> None:
        """Write a preview with these weights, always from the same noise; without `redraw` an existing one is kept."""
        path = self.folder / "previews" / f"{name}.png"
        if path.is_file() and not redraw:
            return
        sheet = preview(self.preview_sampler, weights, self.data, precision)
        write_png(path, sheet)
        if self.sinks:
            self.sinks.picture(step, "previews", sheet)

    def close(self) -> None:
        """Flush and close the loggers."""
        if self.sinks:
            self.sinks.close()

    def write(
        self,
        step: int,
        network: nn.Module,
        emas: list[Ema],
        history: History,
        validation: Validation | None,
        precision: torch.dtype,
        extended_at: Sequence[int] = (),
    ) -> None:
        """Write the last preview, the tables, further averages, and finally the model.

        extended_at: steps at which a finished training was resumed with more steps.
        """
        run = self._run(step, extended_at, network)
        first, *further = emas
        chosen_step, decay, weights = step, first.decay, first.weights()
        best = validation.best if validation else None
        if self.config.validation.select == "kid":
            if best is None:
                print("no validation round has a KID: the last weights are used", file=sys.stderr)
            else:
                device = next(network.parameters()).device
                chosen_step, decay = best.step, best.ema_decay
                weights = {name: value.to(device) for name, value in best.weights.items()}
        self.preview(step, "final", weights, precision)
        self.close()
        history.write(self.folder / "history.tsv")
        if validation:
            validation.write(self.folder / "validation.tsv")
        else:
            write_table(self.folder / "validation.tsv", [], COLUMNS)
        # Buffers of the network, saved with its weights.
        kept = network.state_dict()
        for ema in further:
            path = self.folder / f"ema-{ema.decay:g}.safetensors"
            card = self._card(step, ema.decay, precision, run)
            save_model(path, {**kept, **ema.weights()}, self._calibrated(card, ema.weights()))
        card = self._calibrated(self._card(chosen_step, decay, precision, run), weights)
        save_model(self.folder / "model.safetensors", {**kept, **weights}, card)

    def _calibrated(self, card: ModelCard, weights: dict[str, Tensor]) -> ModelCard:
        """This card with the calibration of masks."""
        if not self.config.steps:
            return card
        found = fit_mask_calibration(
            self.preview_sampler.denoiser(weights),
            self.slices,
            acquisition=bool(self.data.acquisitions),
            self_conditioning=card.model["self_conditioning"],
            seed=self.config.seed,
        )
        return replace(card, mask_calibration=asdict(found) if found else None)

    def snapshot(
        self,
        step: int,
        network: nn.Module,
        ema: Ema,
        precision: torch.dtype,
        extended_at: Sequence[int] = (),
    ) -> None:
        """Save the averaged weights after this step."""
        path = self.folder / f"snapshot-{step}.safetensors"
        weights = {**network.state_dict(), **ema.weights()}
        save_model(
            path, weights, self._card(step, ema.decay, precision, self._run(step, extended_at, network))
        )

    def tell_missing_snapshots(self) -> None:
        """Print which configured snapshots are missing because the training had passed the step or did not reach it."""
        for step in self.config.snapshots:
            if not (self.folder / f"snapshot-{step}.safetensors").is_file():
                print(f"no snapshot of step {step}: this training did not run that step", file=sys.stderr)

    def _run(self, step: int, extended_at: Sequence[int], network: nn.Module) -> dict:
        key, device = run_key(self.identity, self.config), next(network.parameters()).device
        return {"key": key, "steps": step, "extended_at": list(extended_at), "hardware": hardware(device)}

    def _card(self, step: int, decay: float, precision: torch.dtype, run: dict) -> ModelCard:
        versions = {
            "slimdiff": slimdiff.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        return ModelCard(
            model=self.identity["model"],
            diffusion=self.identity["diffusion"],
            # Of a file only its name: a card goes to strangers.
            training=self.config.model_dump(mode="json") | ({"init": self.init["file"]} if self.init else {}),
            data=self.data,
            spacing_mm=self.store.spacing_mm,
            height=self.store.height,
            z_range=tuple(self.store.facts["z_range"]),
            study=self.identity.get("study", ""),
            variant=self.identity.get("variant", ""),
            fold=self.identity.get("fold", 0),
            step=step,
            data_hash=self.store.data_hash,
            precision=str(precision).removeprefix("torch."),
            versions=versions,
            ema_decay=decay,
            init=self.init,
            training_run=run,
        )
