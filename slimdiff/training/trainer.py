"""The training loop of one variant and fold.

Writes `models/{variant}/fold-{k}/model.safetensors` (EMA weights and model card), `history.tsv`, `previews/*.png`;
resume state in `state/` beside them.
"""

import hashlib
import math
import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import slimdiff
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.devices import autocast, is_out_of_memory, peak_memory_mb, pick_device, pick_precision
from slimdiff.model.build import DataSpec, ModelCard, build_network, put_priors, save_model
from slimdiff.png import write_png
from slimdiff.training.batches import Batch, TrainingSet
from slimdiff.training.checkpoint import load_state, save_state
from slimdiff.training.ema import Ema
from slimdiff.training.history import History, TrainingFailed, losses_by_noise
from slimdiff.training.objective import Draws, Objective, Perceptual
from slimdiff.training.preparation import Preparation
from slimdiff.training.preview import preview

# A resume state does not depend on these.
NOT_LEARNT = {"log_every", "save_every", "preview_every", "device", "accumulate"}


@dataclass
class Interrupted(Exception):
    """A signal asked the run to stop; its state has been written."""

    signum: int


class Trainer:
    """Trains one network; `run` begins or goes on from the state beside the model.

    Args:
        model, diffusion, training: sections of the study.
        store: the slices.
        participants: whose slices are trained on.
        folder: where model, history, previews and state go.
        identity: study, variant and fold.
        priors: z-bin priors of the fold, bool (n_bins, H, W), wanted where `model.prior` is on.
        perceptual: the distance behind `diffusion.loss.perceptual`, wanted where its weight is not 0.
    """

    def __init__(
        self,
        model: ModelConfig,
        diffusion: DiffusionConfig,
        training: TrainingConfig,
        store: SliceStore,
        participants: list[str],
        folder: Path,
        identity: dict,
        priors: np.ndarray | None = None,
        perceptual: Perceptual | None = None,
    ):
        self.config = training
        self.folder = folder
        self.device = pick_device(training.device)
        self.set = TrainingSet(store, participants, self.device, training.lesion_share)
        if model.acquisition:
            self.set.check_acquisitions()
        torch.manual_seed(training.seed)
        self.prepare = Preparation(self.set, training, store.spacing_mm, model.acquisition)
        self.data_spec = DataSpec(
            size=store.size,
            n_bins=store.n_bins,
            bin_centres=store.facts["bin_centres"],
            acquisitions=self.set.acquisitions.tolist() if model.acquisition else [],
            acquisition_counts=self.set.acquisition_counts() if model.acquisition else [],
            augmentations=self.prepare.labels,
        )
        network = build_network(model.settings(), self.data_spec)
        put_priors(network, priors)
        self.network = network.to(self.device)
        self.ema = Ema(self.network, training.ema_decay)
        self.diffusion = diffusion
        self.objective = Objective(diffusion, training.self_conditioning, perceptual).to(self.device)
        groups = [{"params": list(self.network.parameters())}]
        if self.objective.uncertainty is not None:
            groups.append({"params": list(self.objective.parameters()), "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=self.device.type != "mps",
        )
        learnt = training.model_dump(mode="json", exclude=NOT_LEARNT)
        self.identity = {
            "model": model.settings(),
            "diffusion": diffusion.model_dump(mode="json"),
            "training": learnt,
            "data_hash": store.data_hash,
            "participants": sorted(participants),
            "priors": None if network.priors is None else hashlib.sha256(priors.tobytes()).hexdigest()[:16],
            **identity,
        }
        self.store = store
        self.step = 0
        self.history = History(self.objective, self.prepare.slices)
        self.precision = torch.float32
        self._stop: int | None = None

    @property
    def state_path(self) -> Path:
        return self.folder / "state" / "last.pt"

    def run(self) -> None:
        """Train to the configured step and write the model."""
        config = self.config
        if self.state_path.is_file():
            self._restore()
        elif config.steps:
            self.precision = pick_precision(config.precision, self.device, self._trial)
            print(f"precision: {str(self.precision).removeprefix('torch.')}", file=sys.stderr)
        handlers = {number: signal.signal(number, self._ask_to_stop) for number in _SIGNALS}
        try:
            self._loop()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._preview("final")
        self.history.write(self.folder / "history.tsv")
        save_model(self.folder / "model.safetensors", self._averaged(), self._card())
        self.state_path.unlink(missing_ok=True)

    def _loop(self) -> None:
        config = self.config
        bar = tqdm(total=config.steps, initial=self.step, desc="train", unit="step", mininterval=2)
        since, started = self.step, time.perf_counter()
        while self.step < config.steps:
            self.advance()
            row = None
            if self.step % config.log_every == 0 or self.step == config.steps:
                speed = (self.step - since) * config.batch_size / (time.perf_counter() - started)
                rate = self._learning_rate(self.step - 1)
                memory = peak_memory_mb(self.device)
                row = self.history.close_row(self.step, self.state_path, rate, speed, memory)
                since, started = self.step, time.perf_counter()
            if self._stop is not None:
                # Before anything is printed: the signal may have closed the other end of the pipe.
                self._save()
                raise Interrupted(self._stop)
            bar.update()
            if row:
                bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_s=f"{row['images_per_s']:.0f}")
            if self.step % config.save_every == 0 and self.step < config.steps:
                self._save()
            if config.preview_every and self.step % config.preview_every == 0 and self.step < config.steps:
                self._preview(f"step-{self.step:07d}")
                started = time.perf_counter() if since == self.step else started
        bar.close()

    def advance(self) -> None:
        """One optimiser step; raises TrainingFailed where the device's memory does not hold its batch."""
        self.optimiser.zero_grad(set_to_none=True)
        try:
            total, terms, by_noise = self._gradients(self.step, self.precision)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingFailed(self._too_large(error)) from error
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(self.step)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.ema.update(self.step)
        self.step += 1
        self.history.note(total, terms, norm, by_noise)

    def _gradients(self, step: int, precision: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Leave the gradients of a step's batch, taken in `accumulate` parts; returns total, terms, losses by noise."""
        batch, draws = self.prepare(step, self.objective, self.network)
        parts = self.config.accumulate
        sums: list[Tensor] = []
        for part in range(parts):
            # Every so-manieth sample: the informed ones, which come first, are spread over the parts.
            rows = slice(part, None, parts)
            share = len(batch.x0[rows]) / len(batch.x0)
            total, terms, by_noise = self._losses(batch[rows], draws[rows], precision)
            (total * share).backward()
            found = [total.detach() * share, terms.detach() * share, by_noise]
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        return sums[0], sums[1], sums[2]

    def _losses(self, batch: Batch, draws: Draws, precision: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        with autocast(self.device, precision):
            terms, samples = self.objective.measure(self.network, batch, draws)
        by_noise = losses_by_noise(samples, draws.timestep, self.diffusion.timesteps)
        return self.objective.total(terms), terms, by_noise

    def _too_large(self, error: RuntimeError) -> str:
        config, (height, width) = self.config, self.data_spec.size
        kept = self.state_path if self.state_path.is_file() else "none"
        return (
            f"out of memory on {self.device} at step {self.step} with training.batch_size {config.batch_size} in "
            f"{config.accumulate} part(s) of slices of {width} x {height} px: set training.accumulate to "
            f"{2 * config.accumulate} or more (the same batch in more parts), or a smaller batch_size; state of an "
            f"earlier step: {kept} ({str(error).splitlines()[0]})"
        )

    def _trial(self, precision: torch.dtype) -> None:
        self._gradients(0, precision)
        self.optimiser.zero_grad(set_to_none=True)

    def _learning_rate(self, step: int) -> float:
        config = self.config
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine

    def _ask_to_stop(self, signum: int, frame) -> None:
        self._stop = signum

    def _save(self) -> None:
        if self.history.pending:
            # Weights that are no numbers would replace the last good state.
            self.history.check(self.step, self.state_path)
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": self.ema.weights(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history.rows,
            "pending": self.history.pending,
            "precision": str(self.precision).removeprefix("torch."),
        }
        save_state(self.state_path, state, self.identity)

    def _restore(self) -> None:
        state = load_state(self.state_path, self.identity, self.device)
        self.network.load_state_dict(state["network"])
        self.ema.load(state["ema"])
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.history.rows, self.history.pending = state["history"], state["pending"]
        self.precision = getattr(torch, state["precision"])
        print(f"going on from step {self.step} of {self.config.steps} ({self.state_path})", file=sys.stderr)

    def _card(self) -> ModelCard:
        facts = self.store.facts
        return ModelCard(
            model=self.identity["model"],
            diffusion=self.identity["diffusion"],
            training=self.config.model_dump(mode="json"),
            data=self.data_spec,
            spacing_mm=self.store.spacing_mm,
            z_range=tuple(facts["z_range"]),
            study=self.identity.get("study", ""),
            variant=self.identity.get("variant", ""),
            fold=self.identity.get("fold", 0),
            step=self.step,
            data_hash=self.store.data_hash,
            precision=str(self.precision).removeprefix("torch."),
            versions={
                "slimdiff": slimdiff.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        )

    def _averaged(self) -> dict[str, Tensor]:
        """EMA weights, and what the network keeps beside its weights."""
        return {**self.network.state_dict(), **self.ema.weights()}

    def _preview(self, name: str) -> None:
        sampled = preview(
            self.network,
            self._averaged(),
            self.data_spec,
            self.diffusion,
            self.config.seed,
            self.precision,
        )
        write_png(self.folder / "previews" / f"{name}.png", sampled)


_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
