"""The gradients of one step: both passes of the network, in parts, on every process its own samples."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from slimdiff.config.training import TrainingConfig
from slimdiff.devices import autocast
from slimdiff.model.unet import JointUNet
from slimdiff.training.augment import LABELS, Augment
from slimdiff.training.data import Batch, TrainingSet, step_chances, step_generator
from slimdiff.training.objective import NoiseDraw, Objective, losses_by_noise

FINAL_LEARNING_RATE = 1e-6
"""Learning rate at the end of the cosine (paper: 1e-6)."""


class Preparation:
    """Everything random of a step, in a fixed order from the step's own streams.

    Every process draws for the whole batch and keeps its part, so that their number changes no sample.

    Args:
        training_set: where batches come from.
        config: section `training`.
        spacing_mm: side of a pixel.
        tells_acquisition: whether the network is told the acquisition.
        rank, processes: of the processes that share a batch, this takes every n-th sample, beginning with its rank.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        config: TrainingConfig,
        spacing_mm: float,
        tells_acquisition: bool,
        rank: int = 0,
        processes: int = 1,
    ):
        self.set = training_set
        self.config = config
        self.augment = None
        if config.augmentation.probability:
            self.augment = Augment(config.augmentation, spacing_mm).to(training_set.device)
        self.tells_acquisition = tells_acquisition
        self.own = slice(rank, None, processes)

    @property
    def labels(self) -> int:
        """How many augmentation labels the network is told."""
        return len(LABELS) if self.augment else 0

    def rows(self, step: int) -> np.ndarray:
        """Rows of the training set of a step's whole batch."""
        chances = step_chances(self.config.seed, step)
        return self.set.choose(self.config.batch_size, self.config.lesion_share, chances)

    def slices(self, step: int) -> list[str]:
        """Names of the slices of a step's whole batch."""
        return self.set.names(self.rows(step))

    def __call__(self, step: int, objective: Objective, network: JointUNet) -> tuple[Batch, NoiseDraw]:
        """This process's part of a step's batch and of the objective's draws."""
        config, device = self.config, self.set.device
        generator = step_generator(config.seed, step, device)
        # Apart from the choice of slices, which is repeated wherever it is needed.
        chance = step_chances(config.seed, step).spawn(1)[0].random()
        batch = self.set.take(step, lambda one: self.rows(one)[self.own])
        height, width = batch.x0.shape[2:]
        draws = objective.draw(config.batch_size, (height, width), generator, chance)[self.own]
        x0, condition = batch.x0, batch.condition
        if not self.tells_acquisition:
            condition = replace(condition, acquisition=None)
        if self.augment is not None:
            labels = self.augment.draw(config.batch_size, generator)[self.own]
            # What was moved needs its prior moved along.
            prior = None if network.priors is None else network.priors(condition.z_bin)
            x0, labels, prior = self.augment.apply(x0, labels, prior)
            condition = replace(condition, augmentation=labels, prior=prior)
        if config.condition_dropout:
            chances = torch.rand(config.batch_size, generator=generator, device=device)[self.own]
            condition = replace(condition, null=chances < config.condition_dropout)
        return Batch(x0, condition), draws


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `FINAL_LEARNING_RATE` at the last step (Loshchilov & Hutter 2017)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return FINAL_LEARNING_RATE + (config.learning_rate - FINAL_LEARNING_RATE) * cosine


class Loss(nn.Module):
    """Network and objective as one module: DDP has to see the two passes of self-conditioning as one.

    Args:
        network, objective: with parameters to learn.
        device: where they are.
        compiled: whether the network goes through torch.compile.
    """

    def __init__(self, network: nn.Module, objective: Objective, device: torch.device, compiled: bool):
        super().__init__()
        self.network, self.objective, self.device = network, objective, device
        self.precision = torch.float32
        # Of the function, so that the weights keep their names. Shapes are few and fixed: batch, and its informed part.
        if compiled:
            # Another network of this process has its own graphs, and their number has a limit.
            torch._dynamo.reset()
            # Cut where DDP's buckets end, a graph would have to know which of the two passes it is in.
            torch._dynamo.config.optimize_ddp = False
        self.evaluate: Callable = torch.compile(network.forward, dynamic=False) if compiled else network

    def forward(self, batch: Batch, draws: NoiseDraw) -> tuple[Tensor, Tensor, Tensor]:
        """Total and terms, which add up over the parts of a batch, and `losses_by_noise`."""
        with autocast(self.device, self.precision):
            terms, samples = self.objective.measure(self.evaluate, batch, draws)
        by_noise = losses_by_noise(samples, draws.timestep, self.objective.config.timesteps)
        return self.objective.total(terms) * draws.share, terms * draws.share, by_noise
