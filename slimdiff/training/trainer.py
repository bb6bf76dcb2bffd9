"""The training loop of one variant and fold.

Writes `models/{variant}/fold-{k}/model.safetensors` (EMA weights and model card), `history.tsv`, `previews/*.png`;
resume state in `state/` beside them.
"""

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
from slimdiff.devices import autocast, pick_device, pick_precision
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.samplers import dpmpp_2m
from slimdiff.diffusion.schedule import make_schedule, sampling_sigmas
from slimdiff.files import write_table
from slimdiff.model.build import ModelCard, build_network, save_model
from slimdiff.png import pair_sheet, write_png
from slimdiff.training.batches import TrainingSet, step_generator
from slimdiff.training.checkpoint import load_state, save_state
from slimdiff.training.ema import Ema
from slimdiff.training.objective import Objective

HISTORY = ("step", "loss", "loss_image", "loss_mask", "gradient_norm", "learning_rate", "images_per_s")
PREVIEW_EVALUATIONS = 15
PREVIEW_BINS = 6
# A resume state does not depend on these.
NOT_LEARNT = {"log_every", "save_every", "preview_every", "device"}


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


@dataclass
class Interrupted(Exception):
    """A signal asked the run to stop; its state has been written."""

    signum: int


class Trainer:
    """Trains one network; `run` begins or goes on from the state beside the model."""

    def __init__(
        self,
        model: ModelConfig,
        diffusion: DiffusionConfig,
        training: TrainingConfig,
        store: SliceStore,
        participants: list[str],
        folder: Path,
        identity: dict,
    ):
        self.config = training
        self.folder = folder
        self.device = pick_device(training.device)
        self.set = TrainingSet(store, participants, self.device, training.lesion_share)
        torch.manual_seed(training.seed)
        self.network = build_network(model.model_dump(), store.n_bins, store.facts["bin_centres"]).to(
            self.device
        )
        self.ema = Ema(self.network, training.ema_decay)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=self.device.type != "mps",
        )
        self.diffusion = diffusion
        self.objective = Objective(diffusion, training.self_conditioning, self.device)
        learnt = training.model_dump(mode="json", exclude=NOT_LEARNT)
        self.identity = {
            "model": model.model_dump(mode="json"),
            "diffusion": diffusion.model_dump(mode="json"),
            "training": learnt,
            "data_hash": store.data_hash,
            "participants": sorted(participants),
            **identity,
        }
        self.store = store
        self.step = 0
        self.history: list[dict] = []
        # Loss a channel and gradient norm of the steps since the last row of the history, on the device.
        self.pending: list[tuple[Tensor, Tensor]] = []
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
        write_table(self.folder / "history.tsv", self.history, HISTORY)
        save_model(self.folder / "model.safetensors", self.ema.weights(), self._card())
        self.state_path.unlink(missing_ok=True)

    def _loop(self) -> None:
        config = self.config
        bar = tqdm(total=config.steps, initial=self.step, desc="train", unit="step", mininterval=2)
        since, started = self.step, time.perf_counter()
        while self.step < config.steps:
            self.pending.append(self._advance())
            if self._stop is not None:
                # Before anything is printed: the signal may have closed the other end of the pipe.
                self._save()
                raise Interrupted(self._stop)
            bar.update()
            if self.step % config.log_every == 0 or self.step == config.steps:
                losses, norm = self._recent()
                self.pending.clear()
                seconds = time.perf_counter() - started
                row = {
                    "step": self.step,
                    "loss": sum(losses),
                    "loss_image": losses[0],
                    "loss_mask": losses[1],
                    "gradient_norm": norm,
                    "learning_rate": self._learning_rate(self.step - 1),
                    "images_per_s": (self.step - since) * config.batch_size / seconds,
                }
                self.history.append(row)
                bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_s=f"{row['images_per_s']:.0f}")
                since, started = self.step, time.perf_counter()
            if self.step % config.save_every == 0 and self.step < config.steps:
                self._save()
            if config.preview_every and self.step % config.preview_every == 0 and self.step < config.steps:
                self._preview(f"step-{self.step:07d}")
                started = time.perf_counter() if since == self.step else started
        bar.close()

    def _advance(self) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns loss a channel and gradient norm, both still on the device."""
        losses = self._losses(self.step, self.precision)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.ema.update(self.step)
        self.step += 1
        return losses.detach(), norm.detach()

    def _recent(self) -> tuple[list[float], float]:
        """Mean loss a channel and gradient norm since the last row; raises TrainingFailed if one is no number.

        Here, and where a state is saved, the host waits for the device, and nowhere else.
        """
        losses = torch.stack([loss for loss, _ in self.pending]).mean(0).tolist()
        norm = torch.stack([norm for _, norm in self.pending]).mean().item()
        if not all(math.isfinite(value) for value in (*losses, norm)):
            kept = self.state_path if self.state_path.is_file() else "none"
            raise TrainingFailed(
                f"loss {losses}, gradient norm {norm} within the {len(self.pending)} steps before step {self.step}; "
                f"state of an earlier step: {kept}"
            )
        return losses, norm

    def _losses(self, step: int, precision: torch.dtype) -> Tensor:
        generator = step_generator(self.config.seed, step, self.device)
        batch = self.set.draw(self.config.batch_size, self.config.lesion_share, generator)
        draws = self.objective.draw(batch, generator)
        with autocast(self.device, precision):
            return self.objective(self.network, batch, draws)

    def _trial(self, precision: torch.dtype) -> None:
        self._losses(0, precision).sum().backward()
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
        if self.pending:
            self._recent()  # weights that are no numbers would replace the last good state
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": self.ema.weights(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "pending": self.pending,
            "precision": str(self.precision).removeprefix("torch."),
        }
        save_state(self.state_path, state, self.identity)

    def _restore(self) -> None:
        state = load_state(self.state_path, self.identity, self.device)
        self.network.load_state_dict(state["network"])
        self.ema.load(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.history, self.pending = state["step"], state["history"], state["pending"]
        self.precision = getattr(torch, state["precision"])
        print(f"going on from step {self.step} of {self.config.steps} ({self.state_path})", file=sys.stderr)

    def _card(self) -> ModelCard:
        facts = self.store.facts
        return ModelCard(
            model=self.identity["model"],
            diffusion=self.identity["diffusion"],
            training=self.config.model_dump(mode="json"),
            size=self.store.size,
            spacing_mm=self.store.spacing_mm,
            z_range=tuple(facts["z_range"]),
            n_bins=self.store.n_bins,
            bin_centres=facts["bin_centres"],
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

    @torch.inference_mode()
    def _preview(self, name: str) -> None:
        """Samples of the EMA weights from fixed noise: both classes in bins spread over the brain."""
        bins = np.unique(np.linspace(0, self.store.n_bins - 1, PREVIEW_BINS).round().astype(int))
        z_bin = torch.tensor(np.tile(bins, 2), device=self.device)
        label = torch.arange(2, device=self.device).repeat_interleave(len(bins))
        noise = torch.randn(
            (len(z_bin), 2, *self.store.size), generator=torch.Generator().manual_seed(self.config.seed)
        )
        schedule = make_schedule(self.diffusion.schedule, self.diffusion.timesteps)
        sigmas = sampling_sigmas(schedule, PREVIEW_EVALUATIONS)

        def evaluate(x, timestep, previous):
            with autocast(self.device, self.precision):
                return torch.func.functional_call(
                    self.network, self.ema.weights(), (x, timestep, z_bin, label, previous)
                )

        denoiser = Denoiser(evaluate, schedule, self.diffusion.prediction)
        start = noise.to(self.device) * math.sqrt(1 + sigmas[0] ** 2)
        drawn = dpmpp_2m(denoiser, start, sigmas.tolist(), lambda i: noise).float().cpu().numpy()
        write_png(self.folder / "previews" / f"{name}.png", pair_sheet(drawn[:, 0], drawn[:, 1], len(bins)))


_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
