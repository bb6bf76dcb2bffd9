"""One training step: random draws, augmentation and conditioning of the batch, and loss module."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from slimdiff.config.training import TrainingConfig
from slimdiff.devices import Compiled, autocast
from slimdiff.model.unet import JointUNet
from slimdiff.training.augment import LABELS, Augment
from slimdiff.training.data import Batch, TrainingSet, step_generator, step_rng
from slimdiff.training.objective import NoiseDraw, Objective, losses_by_noise


class Preparation:
    """All random draws of a step, in a fixed order, from the step's own random streams.

    Every process draws for the whole batch and keeps its part. The samples therefore do not depend on the number of
    processes.

    Args:
        training_set: source of the batches.
        config: section `training`.
        spacing_mm: side of a pixel, in mm.
        with_acquisition: whether the network is conditioned on the acquisition.
        rank, processes: this process takes every `processes`-th sample of a batch, starting at sample `rank`.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        config: TrainingConfig,
        spacing_mm: float,
        with_acquisition: bool,
        rank: int = 0,
        processes: int = 1,
    ):
        self.set = training_set
        self.config = config
        self.augment = None
        if config.augmentation.probability:
            self.augment = Augment(config.augmentation, spacing_mm).to(training_set.device)
        self.with_acquisition = with_acquisition
        self.own = slice(rank, None, processes)

    @property
    def labels(self) -> int:
        """Number of augmentation labels that the network is conditioned on."""
        return len(LABELS) if self.augment else 0

    def rows(self, step: int) -> np.ndarray:
        """Training-set rows of the whole batch of a step."""
        rng = step_rng(self.config.seed, step)
        return self.set.choose(self.config.batch_size, self.config.lesion_share, rng)

    def slices(self, step: int) -> list[str]:
        """Names of the slices in the whole batch of a step."""
        return self.set.names(self.rows(step))

    def __call__(self, step: int, objective: Objective, network: JointUNet) -> tuple[Batch, NoiseDraw]:
        """This process's part of the batch and of the objective's random draws."""
        config, device = self.config, self.set.device
        generator = step_generator(config.seed, step, device)
        # A separate stream: the choice of slices is repeated elsewhere and must not shift this draw.
        chance = step_rng(config.seed, step).spawn(1)[0].random()
        batch = self.set.take(step, lambda one: self.rows(one)[self.own])
        height, width = batch.x0.shape[2:]
        draws = objective.draw(config.batch_size, (height, width), generator, chance)[self.own]
        x0, condition = batch.x0, batch.condition
        if not self.with_acquisition:
            condition = replace(condition, acquisition=None)
        if self.augment is not None:
            labels = self.augment.draw(config.batch_size, generator)[self.own]
            # A transformed slice needs its prior transformed in the same way.
            prior = None if network.priors is None else network.priors(condition.z_bin)
            x0, labels, prior = self.augment.apply(x0, labels, prior)
            condition = replace(condition, augmentation=labels, prior=prior)
        if config.condition_dropout:
            uniform = torch.rand(config.batch_size, generator=generator, device=device)[self.own]
            condition = replace(condition, null=uniform < config.condition_dropout)
        return Batch(x0, condition), draws


class Loss(nn.Module):
    """Network and objective as one module: DDP must see the two passes of self-conditioning as one.

    Args:
        network, objective: modules with trainable parameters.
        device: device of both.
        compiled: whether to apply torch.compile to the network.
    """

    def __init__(self, network: nn.Module, objective: Objective, device: torch.device, compiled: bool):
        super().__init__()
        self.network, self.objective, self.device, self.compiled = network, objective, device, compiled
        self.precision = torch.float32
        # Compile the function, so that the weights keep their names. Only two shapes occur: the batch and its
        # self-conditioned part.
        if compiled:
            # torch limits the number of graphs per process; drop those of an earlier network.
            torch._dynamo.reset()
            # Otherwise graphs are split at DDP's buckets, and a part cannot know which of the two passes it is in.
            torch._dynamo.config.optimize_ddp = False
        self.evaluate: Callable = Compiled(network.forward, device) if compiled else network

    def forward(self, batch: Batch, draws: NoiseDraw) -> tuple[Tensor, Tensor, Tensor]:
        """Total loss, terms and `losses_by_noise`; each is to be summed over the parts of a batch."""
        with autocast(self.device, self.precision):
            terms, samples = self.objective.measure(self.evaluate, batch, draws)
        by_noise = losses_by_noise(samples, draws.timestep, self.objective.config.timesteps)
        return self.objective.total(terms) * draws.share, terms * draws.share, by_noise
