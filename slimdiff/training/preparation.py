"""Batches as a step uses them: drawn, augmented, some of their conditions withheld."""

from dataclasses import replace

import torch

from slimdiff.config.training import TrainingConfig
from slimdiff.model.unet import JointUNet
from slimdiff.training.augment import LABELS, Augment
from slimdiff.training.batches import Batch, TrainingSet, step_generator
from slimdiff.training.objective import Draws, Objective


class Preparation:
    """Everything random of a step, in a fixed order from the step's own stream.

    Args:
        training_set: where batches come from.
        config: section `training`.
        spacing_mm: side of a pixel.
        tells_acquisition: whether the network is told the acquisition.
    """

    def __init__(
        self, training_set: TrainingSet, config: TrainingConfig, spacing_mm: float, tells_acquisition: bool
    ):
        self.set = training_set
        self.config = config
        self.augment = Augment(config.augmentation, spacing_mm) if config.augmentation.probability else None
        self.tells_acquisition = tells_acquisition

    @property
    def labels(self) -> int:
        """How many augmentation labels the network is told."""
        return len(LABELS) if self.augment else 0

    def slices(self, step: int) -> list[str]:
        """Names of the slices of a step's batch."""
        generator = step_generator(self.config.seed, step, self.set.device)
        return self.set.names(self.set.choose(self.config.batch_size, self.config.lesion_share, generator))

    def __call__(self, step: int, objective: Objective, network: JointUNet) -> tuple[Batch, Draws]:
        """The batch and the objective's draws of a step."""
        device = self.set.device
        generator = step_generator(self.config.seed, step, device)
        batch = self.set.draw(self.config.batch_size, self.config.lesion_share, generator)
        draws = objective.draw(batch, generator)
        x0, condition = batch.x0, batch.condition
        if not self.tells_acquisition:
            condition = replace(condition, acquisition=None)
        if self.augment is not None:
            labels = self.augment.draw(len(x0), generator)
            # What was moved needs its prior moved along.
            prior = None if network.priors is None else network.priors(condition.z_bin)
            x0, labels, prior = self.augment.apply(x0, labels, prior)
            condition = replace(condition, augmentation=labels, prior=prior)
        if self.config.condition_dropout:
            chance = torch.rand(len(x0), generator=generator, device=device)
            condition = replace(condition, null=chance < self.config.condition_dropout)
        return Batch(x0, condition), draws
