"""The two-sample test: chance for one distribution, nearly 1 for two, subjects never on both sides."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))

pytest.importorskip("torch")

import torch
import two_sample
from two_sample import auc, moved, two_sample_auc

SIZE = 20


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(two_sample, "STEPS", 60)


def cohort(seed: int, subjects: int, slices: int, own: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images with a bright square where the mask is, and their subjects.

    own: weight of a pattern that all slices of a subject share.
    """
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"cohort-{seed}-{number}" for number in range(subjects)], slices)
    noise = ndimage.gaussian_filter(rng.normal(size=(len(groups), SIZE, SIZE)), (0, 1, 1))
    pattern = np.repeat(rng.normal(size=(subjects, SIZE, SIZE)), slices, axis=0)
    masks = np.full(noise.shape, -1.0)
    for mask, (top, left) in zip(masks, rng.integers(2, SIZE - 6, size=(len(masks), 2)), strict=True):
        mask[top : top + 4, left : left + 4] = 1
    images = 0.3 * noise + own * pattern + 0.5 * (masks > 0)
    return np.stack([images.clip(-1, 1), masks], axis=1).astype(np.float16), groups


def blurred(pairs: np.ndarray) -> np.ndarray:
    images = ndimage.gaussian_filter(pairs[:, 0].astype(np.float32), (0, 1, 1)).astype(np.float16)
    return np.stack([images, pairs[:, 1]], axis=1)


def test_two_halves_of_one_distribution_are_at_chance():
    found = [two_sample_auc(*cohort(2 * n, 20, 4), cohort(2 * n + 1, 20, 4)[0], n) for n in range(2)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


def test_blurred_images_are_told_apart():
    assert two_sample_auc(*cohort(0, 20, 4), blurred(cohort(1, 20, 4)[0]), 0) > 0.95


def test_masks_of_other_images_are_told_apart(monkeypatch):
    """Images alone and masks alone have the same distribution in both."""
    monkeypatch.setattr(two_sample, "STEPS", 200)
    real, groups = cohort(0, 40, 4)
    other = cohort(1, 40, 4)[0]
    other[:, 1] = np.roll(other[:, 1], 1, axis=0)
    assert two_sample_auc(real, groups, other, 0) > 0.8


def test_the_same_seed_gives_the_same_auc_and_leaves_the_process_as_it_was(monkeypatch):
    monkeypatch.setattr(two_sample, "STEPS", 20)
    arguments = (*cohort(0, 6, 4), cohort(1, 6, 4)[0])
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    once = two_sample_auc(*arguments, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.rand(5)
    assert two_sample_auc(*arguments, 3) == once
    assert two_sample_auc(*arguments, 4) != once


def test_subjects_are_recognised_only_if_their_slices_are_on_both_sides(monkeypatch):
    monkeypatch.setattr(two_sample, "STEPS", 120)
    (real, real_groups), (other, other_groups) = cohort(0, 8, 12, own=0.8), cohort(1, 8, 12, own=0.8)
    assert two_sample_auc(real, np.arange(len(real)), other, 0) > 0.9
    assert abs(two_sample_auc(real, real_groups, other, 0, other_groups) - 0.5) < 0.25


@pytest.mark.parametrize("shared", [False, True])
def test_a_subject_is_never_on_both_sides(monkeypatch, shared):
    """Neither are real slices of a subject and other slices of the same subject instead of samples."""
    (real, real_groups), (other, other_groups) = cohort(0, 7, 3), cohort(1, 8, 3)
    if shared:
        other_groups[:6] = real_groups[0]
    names = np.concatenate([real_groups, other_groups])
    held_out = np.zeros(len(names), int)

    def record(pairs, labels, groups, training, seed):
        assert not set(names[training]) & set(names[~training])
        for part in (labels[training], labels[~training]):
            assert set(part) == {0, 1}
        held_out[~training] += 1
        return np.zeros((~training).sum())

    monkeypatch.setattr(two_sample, "held_out_scores", record)
    assert two_sample_auc(real, real_groups, other, 0, other_groups) == 0.5
    assert (held_out == 1).all()


def test_subjects_of_the_inner_validation_part_are_not_trained_on(monkeypatch):
    real, groups = cohort(0, 6, 4)
    pairs = np.concatenate([real, cohort(1, 6, 4)[0]]).astype(np.float32)
    # The constant image of a pair is its row.
    pairs[:] = np.linspace(-1, 1, len(pairs))[:, None, None, None]
    names = np.concatenate([groups, cohort(1, 6, 4)[1]])
    seen, checked = set(), set()

    def rows(batch) -> set[int]:
        return set(np.rint((batch[:, 0, 5, 5].numpy() + 1) / 2 * (len(pairs) - 1)).astype(int).tolist())

    def keep(batch, rng):
        seen.update(rows(batch))
        return batch

    def run(network, batch_loss, validation_loss, *rest):
        for step in range(20):
            batch_loss(step)
        network.register_forward_pre_hook(lambda module, inputs: checked.update(rows(inputs[0])))
        validation_loss()

    monkeypatch.setattr(two_sample, "moved", keep)
    monkeypatch.setattr(two_sample, "fit", run)
    training = np.arange(len(pairs)) % 24 >= 4
    two_sample.held_out_scores(torch.from_numpy(pairs), np.repeat([0, 1], 24), names, training, [0])
    held_out = set(np.flatnonzero(~training).tolist())
    assert seen and checked - held_out
    assert not set(names[list(seen)]) & set(names[list(checked)])


def test_auc_counts_ties_half():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(5, size=40).astype(float), rng.integers(2, size=40)
    above = [np.sign(high - low) / 2 + 0.5 for high in scores[labels == 1] for low in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(above))


def test_moved_pairs_are_flips_and_shifts_of_image_and_mask_alike():
    pairs = torch.from_numpy(np.repeat(cohort(0, 4, 2)[0][:, :1], 2, axis=1).astype(np.float32))
    found = moved(pairs, np.random.default_rng(0))
    assert torch.equal(found[:, 0], found[:, 1])
    inner = slice(4, SIZE - 4)
    for before, after in zip(pairs[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        candidates = [
            np.roll(image, (y, x), (0, 1))[inner, inner]
            for image in (before, before[:, ::-1])
            for y in range(-2, 3)
            for x in range(-2, 3)
        ]
        assert any(np.array_equal(after[inner, inner], candidate) for candidate in candidates)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda real, groups: (real, groups, real.astype(np.float32)), "one dtype"),
        (lambda real, groups: (real, groups, real[:, :, 1:]), "one dtype and size"),
        (lambda real, groups: (real * 2, groups, real), r"values in \[-1, 1\]"),
        (lambda real, groups: (real, np.where(groups == groups[0], "a", "b"), real), "3 real groups"),
    ],
)
def test_input_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        two_sample_auc(*change(*cohort(0, 4, 2)), 0)
