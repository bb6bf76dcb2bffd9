"""Batches as a step uses them: drawn, augmented, some of their conditions withheld."""

from dataclasses import replace

import numpy as np
import torch

from slimdiff.config.training import TrainingConfig
from slimdiff.model.unet import JointUNet
from slimdiff.training.augment import LABELS, Augment
from slimdiff.training.batches import Batch, TrainingSet, step_chances, step_generator
from slimdiff.training.objective import Draws, Objective


class Preparation:
    """Everything random of a step, in a fixed order from the step's own streams.

    Every process draws for the whole batch and keeps its part, so that their number changes no sample.

    Args:
        training_set: where batches come from.
        config: section `training`.
        spacing_mm: side of a pixel.
        tells_acquisition: whether the network is told the acquisition.
        rank, processes: of the processes that share a batch, this takes every so-manieth sample from its rank on.
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

    def __call__(self, step: int, objective: Objective, network: JointUNet) -> tuple[Batch, Draws]:
        """This process's part of a step's batch and of the objective's draws."""
        config, device = self.config, self.set.device
        generator = step_generator(config.seed, step, device)
        # Apart from the choice of slices, which is made anew wherever it is wanted.
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
