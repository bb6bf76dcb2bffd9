"""The project's segmenter, trained until the Dice of its validation patients stops improving.

The stage `utility` gives all its segmenters the same number of steps; here each training set has as many as it needs.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tstr import BATCH_SIZE, CHANNELS, LEARNING_RATE, PATCH, reproducible

from slimdiff.config.training import AugmentationConfig
from slimdiff.evaluation.utility.scores import Scores, score_slices
from slimdiff.evaluation.utility.segmenter import (
    GRADIENT_CLIP,
    WEIGHT_DECAY,
    Pairs,
    Segmenter,
    augment,
    choose,
    predict,
    segmentation_loss,
)
from slimdiff.training.augment import Augment, Extents

WARM_UP_STEPS = 100
AVERAGE = 0.99
"""Decay of the average of the weights, which is what is validated and kept: single steps differ by 0.1 in Dice."""
ORDINARY = Extents(rotation_deg=20, scale=0.2, shift_mm=6, log_gamma=0.3, bias=0.3)
ORDINARY_PROBABILITY = 0.5
NOISE, NOISE_PROBABILITY = 0.1, 0.2
"""Largest standard deviation of the noise; images are in [-1, 1]."""
BLUR_PX, BLUR_PROBABILITY = (0.5, 1.0), 0.2


@dataclass(frozen=True)
class Stopping:
    """When a training stops."""

    every: int = 100
    """Steps between two validations."""
    patience: int = 10
    """Validations in a row without a better one, after which training stops. In a trial with all patients seven in a
    row were no better than 0.696, after which Dice rose to 0.720."""
    most: int = 3500
    """Steps at most."""


@dataclass(frozen=True)
class Fit:
    """How a training ended."""

    steps: int
    best_step: int
    best: float
    """Validation Dice at the best step, which is the one of the weights that are kept."""


def train_until_best(
    network: nn.Module, batch_loss: Callable[[int], Tensor], validate: Callable[[], float], stopping: Stopping
) -> Fit:
    """Train until the validation no longer improves; leave the averaged weights of the best validation.

    `batch_loss` gets the number of the step. `validate` is called with the averaged weights in the network, in
    evaluation mode; higher is better.
    """
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS))
    average, kept = copy.deepcopy(network.state_dict()), None
    found = Fit(0, 0, -np.inf)
    for step in range(1, stopping.most + 1):
        network.train()
        optimiser.zero_grad(set_to_none=True)
        batch_loss(step).backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
        optimiser.step()
        rate.step()
        # The first steps have a shorter memory, so that the random start is forgotten.
        decay = min(AVERAGE, step / (step + 9))
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        if step % stopping.every and step < stopping.most:
            continue
        last = copy.deepcopy(network.state_dict())
        network.load_state_dict(average)
        network.eval()
        with torch.no_grad():
            dice = validate()
        if dice > found.best:
            found, kept = Fit(step, step, dice), copy.deepcopy(average)
        found = Fit(step, found.best_step, found.best)
        if step - found.best_step >= stopping.patience * stopping.every:
            break
        network.load_state_dict(last)
    network.load_state_dict(average if kept is None else kept)
    network.eval()
    return found


class OrdinaryAugmentation:
    """Rotation, scaling, shift, mirror image, gamma, bias field, noise and blur, of image and mask alike."""

    def __init__(self, spacing_mm: float):
        config = AugmentationConfig(probability=ORDINARY_PROBABILITY)
        self.move = Augment(config, spacing_mm, ORDINARY)

    def __call__(self, images: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """images (B, H, W) in [-1, 1] and masks (B, H, W) bool; the same of the changed slices."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        x0 = torch.stack([images, torch.where(masks, 1.0, -1.0)], dim=1)
        x0 = self.move.apply(x0, self.move.draw(len(x0), generator))[0]
        image = torch.stack([self._soften(one, rng) for one in x0[:, 0]])
        noisy = torch.from_numpy((rng.random(len(x0)) < NOISE_PROBABILITY) * rng.uniform(0, NOISE, len(x0)))
        noise = torch.randn(image.shape, generator=generator)
        return image + noisy.float()[:, None, None] * noise, x0[:, 1] > 0

    @staticmethod
    def _soften(image: Tensor, rng: np.random.Generator) -> Tensor:
        """The image, at times blurred by a Gaussian."""
        if rng.random() >= BLUR_PROBABILITY:
            return image
        sigma = rng.uniform(*BLUR_PX)
        weights = torch.exp(-0.5 * (torch.arange(-3.0, 4.0) / sigma) ** 2)
        kernel = torch.outer(weights, weights) / weights.sum() ** 2
        around = F.pad(image[None, None], (3, 3, 3, 3), mode="replicate")
        return F.conv2d(around, kernel[None, None])[0, 0]


Batch = Callable[[np.random.Generator], Pairs]
"""Draws the slices of a step."""


def batches(pairs: Pairs, paste: Callable[[np.random.Generator], tuple] | None = None) -> Batch:
    """Batches of training pairs, half of the slices with a lesion.

    paste: draws a slice with a pasted lesion; half of the slices with a lesion are replaced by such ones.
    """

    def draw(rng: np.random.Generator) -> Pairs:
        found = pairs[choose(pairs.with_lesion, BATCH_SIZE, rng)]
        if paste is None:
            return found
        images, masks = found.images.copy(), found.masks.copy()
        for row in np.flatnonzero(found.with_lesion):
            if rng.random() < 0.5:
                images[row], masks[row] = paste(rng)
        return Pairs(images, masks)

    return draw


def patient_scores(
    segmenter: Segmenter, pairs: Pairs, patients: np.ndarray, min_px: int
) -> tuple[np.ndarray, Scores]:
    """Names of the patients, sorted, and the scores of each over all its slices."""
    return score_slices(pairs.masks, predict(segmenter, pairs.images), min_px).grouped(patients)


def train_on(
    batch: Batch,
    validation: tuple[Pairs, np.ndarray],
    spacing_mm: float,
    seed: int,
    ordinary: bool = False,
    stopping: Stopping | None = None,
) -> tuple[Segmenter, Fit]:
    """A segmenter trained on the batches until the mean Dice of the validation patients stops improving.

    Args:
        batch: draws the slices of a step.
        validation: slices, and the patient of each.
        spacing_mm: side of a pixel.
        seed: of the weights, the batches and the augmentation.
        ordinary: whether the training has the ordinary augmentation beside that of every segmenter (mirror image,
            shift, gamma).
        stopping: when it stops; None: the defaults.
    """
    more = OrdinaryAugmentation(spacing_mm) if ordinary else None
    with reproducible(seed):
        segmenter = Segmenter(CHANNELS, PATCH, members=1)
        network = segmenter.members[0]

        def batch_loss(step: int) -> Tensor:
            rng = np.random.default_rng([seed, step])
            images, masks = (torch.from_numpy(np.ascontiguousarray(part)) for part in batch(rng).parts)
            x, target = augment(images.float(), masks, spacing_mm, rng)
            if more is not None:
                x, target = more(x, target, rng)
            return segmentation_loss(network(x[:, None])[:, 0], target.float())

        def dice() -> float:
            return float(np.nanmean(patient_scores(segmenter, *validation, 1)[1].dice))

        return segmenter, train_until_best(network, batch_loss, dice, stopping or Stopping())
