"""Train on synthetic, test on real: Dice on held-out subjects of a segmenter that was trained on samples.

The stage `utility` gives all its segmenters the same number of steps; here training lasts until it stops improving.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from slimdiff.evaluation.utility.scores import score_slices
from slimdiff.evaluation.utility.segmenter import (
    GRADIENT_CLIP,
    MAX_SHIFT_MM,
    WEIGHT_DECAY,
    Pairs,
    Segmenter,
    augment,
    choose,
    predict,
    segmentation_loss,
)

VALIDATION_PARTS = 4
"""One of these parts of the training pairs decides when training stops."""
CHANNELS, PATCH = (16, 32, 64), 2
STEPS, CHECK_EVERY, PATIENCE = 1000, 50, 5
BATCH_SIZE, LEARNING_RATE, MAX_SHIFT_PX = 8, 2e-3, 2


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and seeded weights inside; PyTorch's number of threads and random state are restored after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def dealt(groups: np.ndarray, labels: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Part of every row, (N,) int in [0, parts): random, whole groups, each label spread evenly.

    groups, labels: (N,). A group is dealt once, with the first of its labels. A label with fewer groups than parts is
    missing in the last parts.
    """
    part_of: dict = {}
    for label in np.unique(labels):
        new = [name for name in np.unique(groups[labels == label]).tolist() if name not in part_of]
        part_of |= {new[row]: position % parts for position, row in enumerate(rng.permutation(len(new)))}
    return np.array([part_of[name] for name in groups.tolist()])


def fit(
    network: nn.Module,
    batch_loss: Callable[[int], Tensor],
    validation_loss: Callable[[], float],
    learning_rate: float,
    steps: int,
    check_every: int,
    patience: int,
) -> int:
    """Train until the validation loss stops improving; leave the best weights. Returns their step.

    `batch_loss` gets the number of the step. `validation_loss` is called every `check_every` steps, in evaluation mode.
    Training stops after `patience` validations in a row without improvement, or after `steps`.
    """
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
    best, best_step, best_weights = np.inf, 0, copy.deepcopy(network.state_dict())
    for step in range(1, steps + 1):
        network.train()
        optimiser.zero_grad(set_to_none=True)
        batch_loss(step).backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
        optimiser.step()
        if step % check_every and step < steps:
            continue
        network.eval()
        with torch.no_grad():
            loss = validation_loss()
        if loss < best:
            best, best_step, best_weights = loss, step, copy.deepcopy(network.state_dict())
        elif step - best_step >= patience * check_every:
            break
    network.load_state_dict(best_weights)
    network.eval()
    return best_step


def segmenter_dice(
    train_images: np.ndarray,
    train_masks: np.ndarray,
    test_images: np.ndarray,
    test_masks: np.ndarray,
    test_subjects: Sequence,
    seed: int,
    train_groups: Sequence | None = None,
) -> float:
    """Mean over test subjects of the Dice over all slices of a subject; subjects without lesion are left out.

    Args:
        train_images, test_images: (N, H, W) and (M, H, W) float in [-1, 1].
        train_masks, test_masks: bool, of the shapes of the images.
        test_subjects: (M,), the subject of every test slice.
        seed: seed of the validation part, the weights, the batches and the augmentation.
        train_groups: (N,), the subject of every real training slice, none of which is in training and in validation;
            None: independent samples.

    Raises:
        ValueError: masks that are not bool, no lesion in the test slices, or lesions in fewer than two training groups.
    """
    train, test = Pairs(train_images, train_masks), Pairs(test_images, test_masks)
    groups = np.arange(len(train)) if train_groups is None else np.asarray(train_groups)
    of_lesion = np.isin(groups, groups[train.with_lesion])
    count = len(np.unique(groups[of_lesion]))
    if count < 2 or not test.with_lesion.any():
        raise ValueError(
            f"expected lesions in at least 2 training groups and in 1 test slice, found {count} and "
            f"{int(test.with_lesion.sum())}"
        )
    parts = min(count, VALIDATION_PARTS)
    validation = dealt(groups, of_lesion, parts, np.random.default_rng(seed)) == 0
    inner, checked = train[~validation], train[validation]
    images, masks, seen, truth = (
        torch.from_numpy(np.ascontiguousarray(part)) for part in (*inner.parts, *checked.parts)
    )
    with reproducible(seed):
        segmenter = Segmenter(CHANNELS, PATCH, members=1)
        network = segmenter.members[0]

        def batch_loss(step: int) -> Tensor:
            rng = np.random.default_rng([seed, step])
            rows = torch.from_numpy(choose(inner.with_lesion, BATCH_SIZE, rng))
            x, target = augment(images[rows].float(), masks[rows], MAX_SHIFT_MM / MAX_SHIFT_PX, rng)
            return segmentation_loss(network(x[:, None])[:, 0], target.float())

        def validation_loss() -> float:
            return float(segmentation_loss(network(seen[:, None].float())[:, 0], truth.float()))

        fit(network, batch_loss, validation_loss, LEARNING_RATE, STEPS, CHECK_EVERY, PATIENCE)
        predicted = predict(segmenter, test.images)
    scores = score_slices(test.masks, predicted, min_px=1)
    return float(np.nanmean(scores.grouped(test_subjects)[1].dice))
