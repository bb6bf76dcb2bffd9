"""Rounds of watching a training on the fold's validation subjects, and what follows from them.

`validation.tsv`, a row a round and moving average: losses of the same slices, noise and times every round, so that the
same weights give the same numbers; KID and memorisation ratio R of samples from the same noise. The losses do not see
memorisation; R does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.training import TrainingConfig, ValidationConfig
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
from slimdiff.training.objective import NOISE_BINS, NOISE_COLUMNS, NoiseDraw, Objective, losses_by_noise

EVALUATIONS = 15
BINS = 6
VALIDATION_SLICES = 256
"""Most slices of the validation subjects whose losses a round averages."""


class PreviewSampler:
    """Draws pairs with weights that stand in for the network's own.

    Args:
        network: whose weights are replaced.
        diffusion: section of the study.
        size: height and width of a slice, in px.
        seed: of the noise.
    """

    def __init__(self, network: nn.Module, diffusion: DiffusionConfig, size: tuple[int, int], seed: int):
        self.network, self.diffusion, self.size, self.seed = network, diffusion, size, seed
        self.schedule = make_schedule(diffusion.schedule, diffusion.timesteps)

    @torch.inference_mode()
    def draw(
        self,
        weights: dict[str, Tensor],
        condition: Condition,
        evaluations: int,
        batch_size: int,
        precision: torch.dtype,
    ) -> np.ndarray:
        """Samples of the conditions in their order, float32 (N, 2, H, W); always from the same noise."""
        sigmas = chain.sigmas_for(self.schedule, "dpmpp_2m", "trailing", evaluations)
        device = condition.z_bin.device

        def evaluate(*inputs) -> Tensor:
            return torch.func.functional_call(self.network, weights, inputs)

        denoiser = Denoiser(evaluate, self.schedule, self.diffusion.prediction)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = []
        for start in range(0, len(condition), batch_size):
            part = condition[start : start + batch_size]
            noise = torch.randn((len(part), 2, *self.size), generator=generator).to(device)
            x0 = chain.draw(
                replace(denoiser, condition=part),
                lambda number, noise=noise: noise,
                sigmas=sigmas,
                sampler="dpmpp_2m",
                precision=precision,
            )
            drawn.append(x0.float().cpu())
        return torch.cat(drawn).numpy()


def preview_condition(data: DataSpec, device: torch.device) -> Condition:
    """Both classes in bins spread over the brain, of the commonest acquisition."""
    bins = np.unique(np.linspace(0, data.n_bins - 1, BINS).round().astype(int))
    z_bin = torch.tensor(np.tile(bins, 2), device=device)
    label = torch.arange(2, device=device).repeat_interleave(len(bins))
    acquisition = None
    if data.acquisitions:
        commonest = int(np.sum(data.acquisition_counts, axis=0).argmax())
        acquisition = torch.full_like(z_bin, commonest)
    return Condition(z_bin, label, acquisition)


def preview(
    sketch: PreviewSampler, weights: dict[str, Tensor], data: DataSpec, precision: torch.dtype
) -> np.ndarray:
    """A sheet of samples, a class a row, as `pair_sheet` gives it."""
    condition = preview_condition(data, next(iter(weights.values())).device)
    drawn = sketch.draw(weights, condition, EVALUATIONS, len(condition), precision)
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
    """What is watched: fixed slices of some participants, fixed noise and times, fixed samples.

    Args:
        config: section `training`.
        store: the slices.
        participants: the fold's validation subjects.
        objective: whose losses are taken.
        sketch: draws the samples.
        device: where the network is.
        acquisitions: names of the network's acquisition labels, empty where it is told none.
        judge: of the samples; None: losses only.
    """

    def __init__(
        self,
        config: TrainingConfig,
        store: SliceStore,
        participants: list[str],
        objective: Objective,
        sketch: PreviewSampler,
        device: torch.device,
        acquisitions: list[str],
        judge: Judge | None,
    ):
        self.config, self.objective, self.sketch, self.device = config, objective, sketch, device
        self.judge = judge
        self.rows: list[dict] = []
        self.best: Best | None = None
        settings = config.validation
        known = TrainingSet(store, participants, device, where="disk")
        chances = np.random.default_rng([config.seed, 2])
        order = chances.permutation(_known_to(known, acquisitions))
        self.batches = self._fixed(known, order[:VALIDATION_SLICES], chances, acquisitions)
        # With the positions and classes of the validation slices, so that KID compares like with like.
        wanted = settings.samples if judge else 0
        drawn = chances.choice(order, wanted, replace=wanted > len(order))
        self.condition = self._told(known.at(drawn).condition, known, acquisitions)
        self.z_bin = known.z_bin[drawn]

    def _fixed(
        self, known: TrainingSet, rows: np.ndarray, chances: np.random.Generator, acquisitions: list[str]
    ) -> list[tuple[Batch, NoiseDraw]]:
        """Batches with times spread evenly over 0 ... T - 1; as many of each see an estimate as in training."""
        timesteps = self.objective.config.timesteps
        times = ((np.arange(len(rows)) + 0.5) / len(rows) * timesteps).astype(np.int64)
        times = torch.from_numpy(chances.permutation(times))
        generator = torch.Generator().manual_seed(self.config.seed)
        batches = []
        for start in range(0, len(rows), self.config.batch_size):
            part = slice(start, start + self.config.batch_size)
            batch = known.at(rows[part])
            epsilon = torch.randn(batch.x0.shape, generator=generator)
            informed = round(self.config.self_conditioning * len(batch.x0))
            draws = NoiseDraw(times[part].to(self.device), epsilon.to(self.device), informed)
            told = self._told(batch.condition, known, acquisitions)
            batches.append((replace(batch, condition=told), draws))
        return batches

    def _told(self, condition: Condition, known: TrainingSet, acquisitions: list[str]) -> Condition:
        """What the network is told of these slices: its own acquisition labels, or none."""
        if not acquisitions:
            return replace(condition, acquisition=None)
        own = torch.tensor(
            [acquisitions.index(name) if name in acquisitions else 0 for name in known.acquisitions]
        )
        return replace(condition, acquisition=own.to(self.device)[condition.acquisition])

    def round(
        self, step: int, network: nn.Module, averages: dict[float, dict[str, Tensor]], precision: torch.dtype
    ) -> list[dict]:
        """Watch the averages (by decay) after so many steps; returns the rows."""
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
        drawn = self.sketch.draw(
            weights, self.condition, settings.evaluations, self.config.batch_size, precision
        )
        return drawn[:, 0].clip(-1, 1)

    @torch.no_grad()
    def _losses(self, network: nn.Module, weights: dict[str, Tensor], precision: torch.dtype) -> dict:
        def evaluate(*told):
            return torch.func.functional_call(network, weights, told)

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
        """Whether the round after this step has been."""
        return any(row["step"] == step for row in self.rows)

    def write(self, path: Path) -> None:
        """Write validation.tsv."""
        write_table(path, self.rows, COLUMNS)

    def state(self) -> dict:
        """What a resumed run has to know."""
        best = self.best
        kept = [] if best is None else [best.step, best.ema_decay, best.kid]
        return {"rows": self.rows, "best": kept, "weights": {} if best is None else best.weights}

    def restore(self, state: dict) -> None:
        """Go on from `state`."""
        self.rows = state["rows"]
        if state["best"]:
            weights = {name: value.cpu() for name, value in state["weights"].items()}
            self.best = Best(*state["best"], weights)


def _known_to(known: TrainingSet, acquisitions: list[str]) -> np.ndarray:
    """Rows whose acquisition the network was told of in training."""
    if not acquisitions:
        return np.arange(len(known))
    rows = np.flatnonzero(np.isin(known.acquisitions[known.acquisition], acquisitions))
    if not len(rows):
        raise ValueError(
            "training.validation: no validation slice has an acquisition that is trained on; set every: 0"
        )
    return rows


def lowest_kid(rows: list[dict], settings: ValidationConfig) -> dict | None:
    """The row of the lowest KID among those whose R is not below `lowest_ratio`; None where there is none."""
    fit = [row for row in rows if math.isfinite(row.get("kid", math.nan))]
    fit = [row for row in fit if not row["memorisation_ratio"] < settings.lowest_ratio]
    return min(fit, key=lambda row: row["kid"], default=None)


def reason_to_stop(rows: list[dict], settings: ValidationConfig) -> str | None:
    """Why training should end after these rounds, or None: the stated rule of early stopping.

    `patience` rounds on end without a lower KID than before, or two rounds on end in which R of every moving average
    lies below `lowest_ratio`.
    """
    steps = list(dict.fromkeys(row["step"] for row in rows))
    rounds = [[row for row in rows if row["step"] == step] for step in steps]
    if settings.lowest_ratio and len(rounds) >= 2:
        ratios = [[row.get("memorisation_ratio", math.nan) for row in of_round] for of_round in rounds[-2:]]
        if all(ratio < settings.lowest_ratio for of_round in ratios for ratio in of_round):
            listed = ", ".join(f"{max(of_round):.3g}" for of_round in ratios)
            return f"memorisation ratio {listed} in two rounds on end, below {settings.lowest_ratio:g}"
    if settings.patience and len(rounds) > settings.patience:
        best = [lowest_kid(of_round, settings) for of_round in rounds]
        kids = [math.inf if row is None else row["kid"] for row in best]
        earlier, late = min(kids[: -settings.patience]), min(kids[-settings.patience :])
        if math.isfinite(earlier) and not late < earlier:
            return f"no KID below {earlier:.4g} in {settings.patience} rounds on end"
    return None
