"""Composition of a batch, which depends on the seed and the step only."""

import math

import numpy as np
import pytest
import torch
from helpers.tiny_training import CPU, PARTICIPANTS, tiny_store

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.training.data import TrainingSet, step_generator, step_rng
from slimdiff.training.objective import Objective


def everything(training_set):
    return training_set.at(np.arange(len(training_set))).x0


def drawn(training_set, size, share, seed, step):
    return training_set.take(step, lambda one: training_set.choose(size, share, step_rng(seed, one)))


@pytest.mark.parametrize(
    ("size", "share", "lesions"), [(16, 0.5, 8), (16, 0.25, 4), (6, 0.0, 0), (6, 1.0, 6)]
)
def test_a_batch_has_the_configured_share_of_lesion_slices(tmp_path, size, share, lesions):
    training_set = TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU)
    for step in range(20):
        batch = drawn(training_set, size, share, 0, step)
        assert batch.condition.label.sum() == lesions
        assert ((batch.x0[:, 1] > 0).flatten(1).any(1) == (batch.condition.label == 1)).all()


@pytest.mark.parametrize(("size", "share"), [(1, 0.5), (3, 0.5), (5, 0.5), (2, 0.3)])
def test_a_fractional_share_holds_on_average(tmp_path, size, share):
    training_set = TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU)
    draws = 600
    total = sum(
        drawn(training_set, size, share, 0, step).condition.label.sum().item() for step in range(draws)
    )
    error = 4 * math.sqrt(0.25 * draws)
    assert abs(total - size * share * draws) < error


def test_lesion_slices_are_at_random_positions_of_the_batch(tmp_path):
    """Only the first samples have a previous estimate, so they must not be mostly lesion slices."""
    training_set = TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU)
    labels = torch.stack([drawn(training_set, 8, 0.5, 1, step).condition.label for step in range(800)])
    assert (labels.double().mean(0) - 0.5).abs().max() < 4 * 0.5 / math.sqrt(800)


def test_every_slice_is_drawn_equally_often(tmp_path):
    training_set = TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU)
    keys = {row.numpy().tobytes(): i for i, row in enumerate(everything(training_set))}
    counts = np.zeros(len(training_set))
    for step in range(400):
        for row in drawn(training_set, 8, 0.5, 2, step).x0:
            counts[keys[row.numpy().tobytes()]] += 1
    expected = counts.sum() / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 17 + 5 * math.sqrt(2 * 17)  # chi-square


def test_batches_depend_on_seed_and_step_only(tmp_path):
    training_set = TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU)
    objective = Objective(DiffusionConfig(), 0.5)

    def all_of(seed, step):
        batch = drawn(training_set, 6, 0.5, seed, step)
        draws = objective.draw(6, (8, 8), step_generator(seed, step, CPU), 0.5)
        return torch.cat([batch.x0.flatten(), draws.epsilon.flatten(), draws.timestep.float()])

    later = all_of(3, 7)
    torch.manual_seed(99)
    torch.rand(50)
    assert torch.equal(all_of(3, 7), later)
    assert not torch.equal(all_of(3, 8), later)
    assert not torch.equal(all_of(4, 7), later)
    # The sum of seed and step is the same, but the draws differ.
    assert not torch.equal(all_of(4, 6), later)


def test_pairs_equal_the_slices_of_the_store(tmp_path):
    store = tiny_store(tmp_path)
    training_set = TrainingSet(store, ["sub-1"], CPU)
    rows = np.flatnonzero(store.participant == "sub-1")
    np.testing.assert_array_equal(
        everything(training_set)[:, 0].numpy(), store.images[rows].astype(np.float32)
    )
    np.testing.assert_array_equal(
        everything(training_set)[:, 1].numpy(), np.where(store.masks[rows] == 1, 1.0, -1.0)
    )
    assert training_set.z_bin.tolist() == store.z_bin[rows].tolist()
    with pytest.raises(ValueError, match="no slice"):
        TrainingSet(store, ["sub-9"], CPU)
