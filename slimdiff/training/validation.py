"""Validation during training: losses, KID and memorisation on the fold's validation subjects, and early stopping.

`validation.tsv` has one row per round and moving average. Losses use the same slices, noise and timesteps in every
round, so that equal weights give equal numbers. KID and memorisation ratio R are of samples from the same noise. The
losses do not detect memorisation; R does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.devices import autocast
from slimdiff.diffusion import chain
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.files import write_table
from slimdiff.model.checkpoint import DataSpec
from slimdiff.model.conditioning import Condition
from slimdiff.png import pair_sheet
from slimdiff.training.data import Batch, TrainingSet
from slimdiff.training.early_stopping import lowest_kid
from slimdiff.training.objective import NOISE_BINS, NOISE_COLUMNS, NoiseDraw, Objective, losses_by_noise

SAMPLER, SPACING = (GenerationConfig.model_fields[name].default for name in ("sampler", "spacing"))
"""Of generation by default."""
EVALUATIONS = 15
BINS = 6
VALIDATION_SLICES = 256
"""Maximum number of validation slices for the losses of a round."""


class PreviewSampler:
    """Generates samples with given weights instead of the network's own.

    Args:
        network: the network; its weights are replaced for each call.
        diffusion: section `diffusion`.
        size: height and width of a slice, in px.
        seed: seed of the noise.
    """

    def __init__(self, network: nn.Module, diffusion: DiffusionConfig, size: tuple[int, int], seed: int):
        self.network, self.diffusion, self.size, self.seed = network, diffusion, size, seed
        self.schedule = make_schedule(diffusion.schedule, diffusion.timesteps)

    def denoiser(self, weights: dict[str, Tensor]) -> Denoiser:
        """The network with these weights, without a condition."""

        def evaluate(*inputs) -> Tensor:
            return torch.func.functional_call(self.network, weights, inputs)

        gaussian = self.network.gaussian
        return Denoiser(
            evaluate,
            self.schedule,
            self.diffusion.prediction,
            gaussian=gaussian,
            gaussian_above=None if gaussian is None else self.diffusion.gaussian_above,
        )

    @torch.inference_mode()
    def draw(
        self,
        weights: dict[str, Tensor],
        condition: Condition,
        evaluations: int,
        batch_size: int,
        precision: torch.dtype,
    ) -> np.ndarray:
        """One sample per condition, in order, float32 (N, 2, H, W); always from the same noise."""
        denoiser = self.denoiser(weights)
        sigmas = chain.sigmas_for(self.schedule, SAMPLER, SPACING, evaluations, denoiser.gaussian_above)
        device = condition.z_bin.device
        generator = torch.Generator().manual_seed(self.seed)
        drawn = []
        for start in range(0, len(condition), batch_size):
            part = condition[start : start + batch_size]
            noise = torch.randn((len(part), 2, *self.size), generator=generator).to(device)
            x0 = chain.draw(
                replace(denoiser, condition=part),
                lambda number, noise=noise: noise,
                sigmas=sigmas,
                sampler=SAMPLER,
                precision=precision,
            )
            drawn.append(x0.float().cpu())
        return torch.cat(drawn).numpy()


def preview_condition(data: DataSpec, device: torch.device) -> Condition:
    """Both classes in z-bins spread over the brain, with the most frequent acquisition."""
    bins = np.unique(np.linspace(0, data.n_bins - 1, BINS).round().astype(int))
    z_bin = torch.tensor(np.tile(bins, 2), device=device)
    label = torch.arange(2, device=device).repeat_interleave(len(bins))
    acquisition = None
    if data.acquisitions:
        commonest = int(np.sum(data.acquisition_counts, axis=0).argmax())
        acquisition = torch.full_like(z_bin, commonest)
    return Condition(z_bin, label, acquisition)


def preview(
    preview_sampler: PreviewSampler, weights: dict[str, Tensor], data: DataSpec, precision: torch.dtype
) -> np.ndarray:
    """A sheet of samples from `pair_sheet`, one row per class."""
    condition = preview_condition(data, next(iter(weights.values())).device)
    drawn = preview_sampler.draw(weights, condition, EVALUATIONS, len(condition), precision)
    return pair_sheet(drawn[:, 0], drawn[:, 1], len(condition) // 2)


COLUMNS = ("step", "ema_decay", "slices", "loss_image", "loss_mask", *NOISE_COLUMNS)
COLUMNS += ("samples", "kid", "memorisation_ratio", "best")
Judge = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""(images (N, H, W) in [-1, 1], z_bin (N,)) -> {"kid": ..., "memorisation_ratio": ...}."""


@dataclass(frozen=True)
class Best:
    """The weights with the lowest KID so far."""

    step: int
    ema_decay: float
    kid: float
    weights: dict[str, Tensor]


class Validation:
    """Validation rounds with fixed slices, noise and timesteps, and with fixed noise for samples.

    Args:
        config: section `training`.
        store: the slice store.
        participants: validation subjects of the fold.
        objective: computes the losses.
        sketch: generates the samples.
        device: device of the network.
        acquisitions: names of the network's acquisition labels; empty if it is not conditioned on acquisition.
        judge: computes metrics of the samples; None: losses only.
    """

    def __init__(
        self,
        config: TrainingConfig,
        store: SliceStore,
        participants: list[str],
        objective: Objective,
        preview_sampler: PreviewSampler,
        device: torch.device,
        acquisitions: list[str],
        judge: Judge | None,
    ):
        self.config, self.objective, self.preview_sampler, self.device = (
            config,
            objective,
            preview_sampler,
            device,
        )
        self.judge = judge
        self.rows: list[dict] = []
        self.best: Best | None = None
        settings = config.validation
        held_out = TrainingSet(store, participants, device, where="disk")
        rng = np.random.default_rng([config.seed, 2])
        order = rng.permutation(_with_acquisition(held_out, acquisitions))
        self.batches = self._fixed(held_out, order[:VALIDATION_SLICES], rng, acquisitions)
        # Samples have the positions and classes of validation slices, so that KID compares matched sets.
        n_samples = settings.samples if judge else 0
        drawn = rng.choice(order, n_samples, replace=n_samples > len(order))
        self.condition = self._condition_of(held_out.at(drawn).condition, held_out, acquisitions)
        self.z_bin = held_out.z_bin[drawn]

    def _fixed(
        self, held_out: TrainingSet, rows: np.ndarray, rng: np.random.Generator, acquisitions: list[str]
    ) -> list[tuple[Batch, NoiseDraw]]:
        """Batches with timesteps spread evenly over the trained ones, and the self-conditioned share of training."""
        times = ((np.arange(len(rows)) + 0.5) / len(rows) * self.objective.trained).astype(np.int64)
        times = torch.from_numpy(rng.permutation(times))
        generator = torch.Generator().manual_seed(self.config.seed)
        batches = []
        for start in range(0, len(rows), self.config.batch_size):
            part = slice(start, start + self.config.batch_size)
            batch = held_out.at(rows[part])
            epsilon = torch.randn(batch.x0.shape, generator=generator)
            informed = round(self.config.self_conditioning * len(batch.x0))
            draws = NoiseDraw(times[part].to(self.device), epsilon.to(self.device), informed)
            condition = self._condition_of(batch.condition, held_out, acquisitions)
            batches.append((replace(batch, condition=condition), draws))
        return batches

    def _condition_of(
        self, condition: Condition, held_out: TrainingSet, acquisitions: list[str]
    ) -> Condition:
        """The condition of these slices with the network's acquisition labels, or without acquisition."""
        if not acquisitions:
            return replace(condition, acquisition=None)
        own = torch.tensor(
            [acquisitions.index(name) if name in acquisitions else 0 for name in held_out.acquisitions]
        )
        return replace(condition, acquisition=own.to(self.device)[condition.acquisition])

    def round(
        self, step: int, network: nn.Module, averages: dict[float, dict[str, Tensor]], precision: torch.dtype
    ) -> list[dict]:
        """Validate the averages (by decay) after step `step`; returns the rows."""
        rows = []
        for decay, weights in averages.items():
            row = {"step": step, "ema_decay": decay, **self._losses(network, weights, precision)}
            if self.judge:
                images = self._images(weights, precision)
                row |= {"samples": len(images), **self.judge(images, self.z_bin)}
            rows.append(row)
        chosen = lowest_kid(rows, self.config.validation)
        if chosen and (self.best is None or chosen["kid"] < self.best.kid):
            weights = {
                name: value.detach().cpu().clone() for name, value in averages[chosen["ema_decay"]].items()
            }
            self.best = Best(step, chosen["ema_decay"], chosen["kid"], weights)
            chosen["best"] = 1
        self.rows += rows
        return rows

    def _images(self, weights: dict[str, Tensor], precision: torch.dtype) -> np.ndarray:
        settings = self.config.validation
        drawn = self.preview_sampler.draw(
            weights, self.condition, settings.evaluations, self.config.batch_size, precision
        )
        return drawn[:, 0].clip(-1, 1)

    @torch.no_grad()
    def _losses(self, network: nn.Module, weights: dict[str, Tensor], precision: torch.dtype) -> dict:
        def evaluate(*arguments):
            return torch.func.functional_call(network, weights, arguments)

        sums = torch.zeros((3, NOISE_BINS), device=self.device)
        for batch, draws in self.batches:
            with autocast(self.device, precision):
                _, samples = self.objective.measure(evaluate, batch, draws)
            sums += losses_by_noise(samples, draws.timestep, self.objective.config.timesteps)
        image, mask, count = sums.cpu()
        by_noise = torch.cat([image / count, mask / count]).tolist()
        return {
            "slices": int(count.sum()),
            "loss_image": float(image.sum() / count.sum()),
            "loss_mask": float(mask.sum() / count.sum()),
            **dict(zip(NOISE_COLUMNS, by_noise, strict=True)),
        }

    def seen(self, step: int) -> bool:
        """Whether the round after this step is done."""
        return any(row["step"] == step for row in self.rows)

    def write(self, path: Path) -> None:
        """Write validation.tsv."""
        write_table(path, self.rows, COLUMNS)

    def state(self) -> dict:
        """The state for a resumed run."""
        best = self.best
        kept = [] if best is None else [best.step, best.ema_decay, best.kid]
        return {"rows": self.rows, "best": kept, "weights": {} if best is None else best.weights}

    def restore(self, state: dict) -> None:
        """Restore `state`."""
        self.rows = state["rows"]
        if state["best"]:
            weights = {name: value.cpu() for name, value in state["weights"].items()}
            self.best = Best(*state["best"], weights)


def _with_acquisition(held_out: TrainingSet, acquisitions: list[str]) -> np.ndarray:
    """Rows whose acquisition occurs in training."""
    if not acquisitions:
        return np.arange(len(held_out))
    rows = np.flatnonzero(np.isin(held_out.acquisitions[held_out.acquisition], acquisitions))
    if not len(rows):
        raise ValueError(
            "training.validation: no training slice has the acquisition of any validation slice; set "
            "training.validation.every: 0"
        )
    return rows
