"""Classifier two-sample test: how well a small network tells samples from real pairs of slice and mask.

An AUC of 0.5 means that held-out real and synthetic pairs could not be distinguished, 1 that they always were
(Lopez-Paz and Oquab 2017). Its reference is the AUC with real slices of other subjects instead of samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F
from tstr import dealt, fit, reproducible

FOLDS = 3
VALIDATION_PARTS = 4
"""One of these parts of a training set decides when training stops."""
CHANNELS = (16, 32, 64, 64)
STEPS, CHECK_EVERY, PATIENCE = 200, 20, 4
BATCH_SIZE, LEARNING_RATE = 32, 2e-3
MAX_SHIFT_PX = 2
BACKGROUND = -1.0


class PairClassifier(nn.Module):
    """Four convolutions, the first at full resolution, then the mean and the maximum of every channel."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((2, *CHANNELS), CHANNELS, strict=False):
            stride = 2 if layers else 1
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2 * CHANNELS[-1], 1)

    def forward(self, pairs: Tensor) -> Tensor:
        """pairs (B, 2, H, W) in [-1, 1] -> logit of "synthetic" (B,)."""
        found = self.body(pairs)
        return self.head(torch.cat([found.mean((2, 3)), found.amax((2, 3))], dim=1))[:, 0]


def moved(pairs: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror half of the pairs (B, 2, H, W) left to right, shift each by up to 2 px; new pixels are background."""
    height, width = pairs.shape[2:]
    flip = torch.from_numpy(rng.random(len(pairs)) < 0.5)[:, None, None, None]
    padded = F.pad(torch.where(flip, pairs.flip(3), pairs), (MAX_SHIFT_PX,) * 4, value=BACKGROUND)
    corners = rng.integers(2 * MAX_SHIFT_PX + 1, size=(len(pairs), 2))
    return torch.stack(
        [pair[:, y : y + height, x : x + width] for pair, (y, x) in zip(padded, corners, strict=True)]
    )


def held_out_scores(
    pairs: Tensor, labels: np.ndarray, groups: np.ndarray, training: np.ndarray, seed: Sequence[int]
) -> np.ndarray:
    """Scores of the pairs outside the training part, (M,), by a network trained on it; higher = synthetic.

    Args:
        pairs: (N, 2, H, W) in [-1, 1].
        labels: (N,) int, 0 = real, 1 = synthetic.
        groups: (N,), whole in the inner training or validation part.
        training: (N,) bool.
        seed: seed of the validation part, the batches and the augmentation.
    """
    rows = np.flatnonzero(training)
    validation = dealt(groups[rows], labels[rows], VALIDATION_PARTS, np.random.default_rng(seed)) == 0
    inner, checked = rows[~validation], rows[validation]
    kinds = [inner[labels[inner] == label] for label in (0, 1)]
    truth = torch.from_numpy(labels).float()
    network = PairClassifier()

    def scores(own: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([network(block) for block in pairs[own].split(256)]).numpy()

    def batch_loss(step: int) -> Tensor:
        rng = np.random.default_rng([*seed, step])
        batch = np.concatenate([rng.choice(kind, BATCH_SIZE // 2) for kind in kinds])
        return F.binary_cross_entropy_with_logits(network(moved(pairs[batch], rng)), truth[batch])

    # Not the cross-entropy: the offset of all scores changes much from step to step, and the AUC does not depend on it.
    def validation_loss() -> float:
        return 1 - auc(scores(checked), labels[checked])

    fit(network, batch_loss, validation_loss, LEARNING_RATE, STEPS, CHECK_EVERY, PATIENCE)
    return scores(np.flatnonzero(~training))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a score (N,) of label 1 is above one of label 0; a tie counts half."""
    ranks, count = rankdata(scores), int(labels.sum())
    return float((ranks[labels == 1].sum() - count * (count + 1) / 2) / (count * (len(labels) - count)))


def two_sample_auc(
    real: np.ndarray,
    real_groups: Sequence,
    synthetic: np.ndarray,
    seed: int,
    synthetic_groups: Sequence | None = None,
) -> float:
    """AUC over the held-out scores of all pairs; each is scored by a network trained without its fold.

    Only scores of one network are compared, since those of two have no common scale (LeDell et al. 2015).

    Args:
        real: (N, 2, H, W) float in [-1, 1], images and masks.
        real_groups: (N,), the subject of every pair; all pairs of a subject are in one fold.
        synthetic: (M, 2, H, W), of the dtype of `real`, so that no rounding tells them apart.
        seed: seed of folds, weights, batches and augmentation.
        synthetic_groups: (M,), as `real_groups`, for real slices instead of samples; None: independent samples.

    Raises:
        ValueError: dtypes or shapes that differ, values outside [-1, 1], or fewer groups than folds.
    """
    if real.dtype != synthetic.dtype or real.shape[1:] != synthetic.shape[1:] or real.shape[1] != 2:
        raise ValueError(
            f"expected pairs (N, 2, H, W) of one dtype and size, found real {real.shape} {real.dtype} and synthetic "
            f"{synthetic.shape} {synthetic.dtype}"
        )
    pairs = torch.from_numpy(np.concatenate([real, synthetic]).astype(np.float32))
    if not pairs.abs().max() <= 1:
        raise ValueError(f"expected values in [-1, 1], found {float(pairs.min())} to {float(pairs.max())}")
    labels = np.repeat([0, 1], [len(real), len(synthetic)])
    named = [*real_groups, *(() if synthetic_groups is None else synthetic_groups)]
    codes = np.unique(named, return_inverse=True)[1]
    # A sample without a group is a group of its own.
    groups = np.concatenate([codes, len(pairs) + np.arange(len(pairs) - len(codes))])
    for label, name in enumerate(("real", "synthetic")):
        count = len(np.unique(groups[labels == label]))
        if count < FOLDS:
            raise ValueError(f"expected at least {FOLDS} {name} groups, one for each fold, found {count}")
    folds = dealt(groups, labels, FOLDS, np.random.default_rng(seed))
    found, weights = [], []
    with reproducible(seed):
        for fold in range(FOLDS):
            own = labels[folds == fold]
            scores = held_out_scores(pairs, labels, groups, folds != fold, [seed, fold])
            found.append(auc(scores, own))
            weights.append(own.sum() * (1 - own).sum())
    return float(np.average(found, weights=weights))
