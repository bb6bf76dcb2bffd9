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
from dataclasses import dataclass, replace
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
from slimdiff.files import write_table
from slimdiff.model.build import ModelCard, Surroundings, build_network, put_priors, save_model
from slimdiff.png import write_png
from slimdiff.training.augment import LABELS, Augment
from slimdiff.training.batches import Batch, TrainingSet, step_generator
from slimdiff.training.checkpoint import load_state, save_state
from slimdiff.training.ema import Ema
from slimdiff.training.objective import Draws, Objective, Perceptual
from slimdiff.training.preview import preview

# A resume state does not depend on these.
NOT_LEARNT = {"log_every", "save_every", "preview_every", "device"}


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says at which step and what is kept."""


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
        torch.manual_seed(training.seed)
        self.augment = (
            Augment(training.augmentation, store.spacing_mm) if training.augmentation.probability else None
        )
        self.surroundings = Surroundings(
            size=store.size,
            n_bins=store.n_bins,
            bin_centres=store.facts["bin_centres"],
            acquisitions=self.set.acquisitions.tolist() if model.acquisition else [],
            acquisition_counts=self.set.acquisition_counts() if model.acquisition else [],
            augmentations=len(LABELS) if self.augment else 0,
        )
        network = build_network(model.settings(), self.surroundings)
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
        self.tells_acquisition = model.acquisition
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
        self.history: list[dict] = []
        # Total, terms and gradient norm of the steps since the last row of the history, on the device.
        self.pending: list[Tensor] = []
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
        write_table(self.folder / "history.tsv", self.history, self._columns())
        save_model(self.folder / "model.safetensors", self._averaged(), self._card())
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
                row = self._row(time.perf_counter() - started, self.step - since)
                self.pending.clear()
                self.history.append(row)
                bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_s=f"{row['images_per_s']:.0f}")
                since, started = self.step, time.perf_counter()
            if self.step % config.save_every == 0 and self.step < config.steps:
                self._save()
            if config.preview_every and self.step % config.preview_every == 0 and self.step < config.steps:
                self._preview(f"step-{self.step:07d}")
                started = time.perf_counter() if since == self.step else started
        bar.close()

    def _advance(self) -> Tensor:
        """One optimiser step; returns total loss, its terms and the gradient norm, still on the device."""
        total, terms = self._losses(self.step, self.precision)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.ema.update(self.step)
        self.step += 1
        return torch.cat([total.detach().view(1), terms.detach(), norm.detach().view(1)])

    def _recent(self) -> list[float]:
        """Mean total, terms and gradient norm since the last row; raises TrainingFailed if one is no number.

        Here, and where a state is saved, the host waits for the device, and nowhere else.
        """
        means = torch.stack(self.pending).mean(0).tolist()
        if not all(math.isfinite(value) for value in means):
            kept = self.state_path if self.state_path.is_file() else "none"
            named = dict(zip(("loss", *self.objective.terms, "gradient norm"), means, strict=True))
            raise TrainingFailed(
                f"{', '.join(f'{name} {value:.4g}' for name, value in named.items())} within the {len(self.pending)} "
                f"steps before step {self.step}; state of an earlier step: {kept}"
            )
        return means

    def _row(self, seconds: float, steps: int) -> dict:
        """A row of the history for the pending steps."""
        total, *terms, norm = self._recent()
        row = {
            "step": self.step,
            "loss": total,
            **{f"loss_{name}": value for name, value in zip(self.objective.terms, terms, strict=True)},
            "gradient_norm": norm,
            "learning_rate": self._learning_rate(self.step - 1),
            "images_per_s": steps * self.config.batch_size / seconds,
        }
        if self.objective.uncertainty is not None:
            values = self.objective.uncertainty.log_variances.tolist()
            row |= {f"log_variance_{group}": value for group, value in enumerate(values)}
        return row

    def _batch(self, step: int) -> tuple[Batch, Draws]:
        """Everything random of a step, in a fixed order from the step's own stream."""
        generator = step_generator(self.config.seed, step, self.device)
        batch = self.set.draw(self.config.batch_size, self.config.lesion_share, generator)
        draws = self.objective.draw(batch, generator)
        x0, condition = batch.x0, batch.condition
        if not self.tells_acquisition:
            condition = replace(condition, acquisition=None)
        if self.augment is not None:
            labels = self.augment.draw(len(x0), generator)
            prior = None if self.network.priors is None else self.network.priors(condition.z_bin)
            x0, labels, prior = self.augment.apply(x0, labels, prior)
            condition = replace(condition, augmentation=labels, prior=prior)
        if self.config.condition_dropout:
            chance = torch.rand(len(x0), generator=generator, device=self.device)
            condition = replace(condition, null=chance < self.config.condition_dropout)
        return Batch(x0, condition), draws

    def _losses(self, step: int, precision: torch.dtype) -> tuple[Tensor, Tensor]:
        batch, draws = self._batch(step)
        with autocast(self.device, precision):
            terms = self.objective(self.network, batch, draws)
        return self.objective.total(terms), terms

    def _trial(self, precision: torch.dtype) -> None:
        self._losses(0, precision)[0].backward()
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
            "objective": self.objective.state_dict(),
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
        self.objective.load_state_dict(state["objective"])
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
            data=self.surroundings,
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

    def _columns(self) -> tuple[str, ...]:
        uncertainty = self.objective.uncertainty
        return history_columns(
            self.objective.terms, len(uncertainty.log_variances) if uncertainty is not None else 0
        )

    def _averaged(self) -> dict[str, Tensor]:
        """EMA weights, and what the network keeps beside its weights."""
        return {**self.network.state_dict(), **self.ema.weights()}

    def _preview(self, name: str) -> None:
        sampled = preview(
            self.network,
            self._averaged(),
            self.surroundings,
            self.diffusion,
            self.config.seed,
            self.precision,
        )
        write_png(self.folder / "previews" / f"{name}.png", sampled)


def history_columns(terms: tuple[str, ...], log_variances: int = 0) -> tuple[str, ...]:
    """Columns of history.tsv for an objective of these terms and learned weights."""
    losses = [f"loss_{name}" for name in terms]
    weights = [f"log_variance_{group}" for group in range(log_variances)]
    return ("step", "loss", *losses, "gradient_norm", "learning_rate", "images_per_s", *weights)


_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
