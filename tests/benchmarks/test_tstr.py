"""Train on synthetic, test on real: high for an easy task, low for masks of other images, stops when not improving."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))

pytest.importorskip("torch")

import torch
import tstr
from torch import nn
from tstr import dealt, fit, segmenter_dice

SIZE = 24


@pytest.fixture
def _small(monkeypatch):
    for name, value in {"CHANNELS": (16, 32), "STEPS": 100, "BATCH_SIZE": 8}.items():
        monkeypatch.setattr(tstr, name, value)


def pairs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a bright square, the lesion, in four of five slices; the next one has it in another quarter."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, SIZE, SIZE), bool)
    for number, (top, left) in enumerate(rng.integers(2, 6, size=(count, 2))):
        top, left = top + SIZE // 2 * (number % 2), left + SIZE // 2 * (number // 2 % 2)
        masks[number, top : top + 5, left : left + 5] = number % 5 > 0
    images = rng.normal(-0.3, 0.1, masks.shape) + 0.8 * masks
    return images.clip(-1, 1).astype(np.float16), masks


def test_an_easy_task_has_a_high_dice_and_masks_of_other_images_a_low_one(_small):
    images, masks = pairs(0, 48)
    test = (*pairs(1, 24), np.repeat(["a", "b", "c"], 8))
    assert segmenter_dice(images, masks, *test, seed=0) > 0.8
    assert segmenter_dice(images, np.roll(masks, 1, axis=0), *test, seed=0) < 0.1


def test_the_same_seed_gives_the_same_dice(_small, monkeypatch):
    monkeypatch.setattr(tstr, "STEPS", 25)
    arguments = (*pairs(0, 24), *pairs(1, 12), np.repeat(["a", "b"], 6))
    state = torch.random.get_rng_state()
    once = segmenter_dice(*arguments, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    assert 0 < segmenter_dice(*arguments, 1) == once


def test_dice_is_the_mean_over_subjects_with_a_lesion(monkeypatch):
    images, masks = pairs(0, 9)
    subjects = np.array(list("aaaaabbcc"))
    masks[subjects == "c"] = False
    predicted = np.roll(masks, 1, axis=2) | (np.arange(SIZE) == 0)
    monkeypatch.setattr(tstr, "fit", lambda *rest: 0)
    monkeypatch.setattr(tstr, "predict", lambda segmenter, found: predicted)
    twins = []
    for subject in "ab":
        truth, guess = masks[subjects == subject], predicted[subjects == subject]
        twins.append(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    assert segmenter_dice(*pairs(1, 9), images, masks, subjects, 0) == pytest.approx(np.mean(twins))


def test_subjects_of_the_validation_part_are_not_trained_on(monkeypatch):
    masks = pairs(0, 30)[1]
    # The constant image of a slice is its subject.
    groups = np.repeat(np.arange(10), 3)
    images = np.broadcast_to((groups / 10)[:, None, None], masks.shape).astype(np.float16)
    masks[groups > 7] = False
    trained, checked = set(), set()

    def keep(found, target, spacing_mm, rng):
        trained.update(np.rint(10 * found[:, 0, 0].numpy()).astype(int).tolist())
        return found, target

    def run(network, batch_loss, validation_loss, *rest):
        for step in range(20):
            batch_loss(step)
        network.register_forward_pre_hook(
            lambda module, inputs: checked.update(
                np.rint(10 * inputs[0][:, 0, 0, 0].numpy()).astype(int).tolist()
            )
        )
        with torch.no_grad():
            validation_loss()
        network._forward_pre_hooks.clear()

    monkeypatch.setattr(tstr, "augment", keep)
    monkeypatch.setattr(tstr, "fit", run)
    segmenter_dice(images, masks, *pairs(1, 4), list("aabb"), 0, groups)
    assert trained | checked == set(range(10))
    assert not trained & checked
    # Subjects with a lesion are on both sides.
    assert min(trained) < 8 and min(checked) < 8


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_dealt_whole_and_each_label_evenly(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(14, size=200)
    labels = (groups > 8).astype(int)
    parts = dealt(groups, labels, 4, rng)
    assert all(len(set(parts[groups == group])) == 1 for group in range(14))
    for own in (groups[labels == 0], groups[labels == 1]):
        counts = np.bincount([parts[groups == group][0] for group in np.unique(own)], minlength=4)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("losses", "calls", "best"), [([3, 2, 4, 1, 5, 6, 0], 6, 4), ([4, 3, 2, 1, 0, 0, 0], 7, 5)]
)
def test_training_stops_without_improvement_and_returns_to_the_best_weights(losses, calls, best):
    network = nn.Linear(1, 1)
    seen = []

    def validation_loss() -> float:
        assert not network.training
        seen.append(network.weight.item())
        return losses[len(seen) - 1]

    found = fit(network, lambda step: network(torch.ones(1, 1)).sum(), validation_loss, 0.1, 14, 2, 2)
    assert len(seen) == calls and found == 2 * best
    assert network.weight.item() == seen[best - 1] and len(set(seen)) == calls


def test_training_pairs_need_a_lesion_in_two_groups():
    images, masks = pairs(0, 6)
    test = (*pairs(1, 4), list("aabb"))
    with pytest.raises(ValueError, match="found 1 and"):
        segmenter_dice(images, masks, *test, 0, ["one"] * 6)
    with pytest.raises(ValueError, match="found 0 and"):
        segmenter_dice(images, masks & False, *test, 0)
