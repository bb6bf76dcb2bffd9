"""Preparation of a training batch: conditions, augmentation, priors."""

import numpy as np
import pytest
import torch
from helpers.tiny_training import CPU, DATA_SPEC, MODEL, PARTICIPANTS, tiny_store

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.training import AugmentationConfig, TrainingConfig
from slimdiff.model.checkpoint import build_network, put_priors
from slimdiff.training import augment
from slimdiff.training.augment import Augment
from slimdiff.training.data import TrainingSet
from slimdiff.training.objective import Objective
from slimdiff.training.step import Preparation

OBJECTIVE = Objective(DiffusionConfig(), 0.5)
AUGMENTATION = AugmentationConfig(probability=0.5)


@pytest.fixture(autouse=True)
def large_moves(monkeypatch):
    monkeypatch.setattr(augment, "EXTENTS", augment.Extents(shift_mm=12, rotation_deg=30))


def network(prior="none"):
    changes = {"prior": prior, "gaussian_components": 0}
    built = build_network(MODEL.model_copy(update=changes).settings(), DATA_SPEC)
    maps = np.zeros((3, 8, 8), bool)
    for b in range(3):
        maps[b, 2 : 5 + b, 1 : 4 + b] = True
    put_priors(built, maps)
    return built


def prepare(tmp_path, with_acquisition=False, **changes) -> Preparation:
    config = TrainingConfig(batch_size=8, self_conditioning=0.5, **changes)
    return Preparation(
        TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU, 0.5), config, 6.0, with_acquisition
    )


def test_draws_depend_on_the_step_only(tmp_path):
    made = prepare(tmp_path, condition_dropout=0.3, augmentation=AUGMENTATION)
    one, again, other = (made(step, OBJECTIVE, network())[0] for step in (3, 3, 4))
    assert torch.equal(one.x0, again.x0) and torch.equal(one.condition.null, again.condition.null)
    assert torch.equal(one.condition.augmentation, again.condition.augmentation)
    assert not torch.equal(one.x0, other.x0)


def test_disabled_options_change_no_draw(tmp_path):
    """Dropout and augmentation draw last, so all other draws stay the same."""
    plain = prepare(tmp_path)(5, OBJECTIVE, network())
    more = prepare(tmp_path, condition_dropout=0.3)(5, OBJECTIVE, network())
    assert torch.equal(plain[0].x0, more[0].x0) and torch.equal(plain[1].epsilon, more[1].epsilon)
    assert plain[0].condition.null is None and plain[0].condition.augmentation is None


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_position_and_class_are_withheld_as_often_as_configured(tmp_path, share):
    made = prepare(tmp_path, condition_dropout=share)
    null = torch.cat([made(step, OBJECTIVE, network())[0].condition.null for step in range(400)])
    assert null.double().mean() == pytest.approx(share, abs=4 * (share * (1 - share) / len(null)) ** 0.5)


def test_the_acquisition_is_passed_only_if_the_network_uses_it(tmp_path):
    assert prepare(tmp_path)(0, OBJECTIVE, network())[0].condition.acquisition is None
    made = prepare(tmp_path, with_acquisition=True)
    acquisition = made(0, OBJECTIVE, network())[0].condition.acquisition
    assert made.set.acquisitions.tolist() == ["T2sel", "tse3dvfl"] and set(acquisition.tolist()) == {0, 1}


@pytest.mark.parametrize("prior", ["concat", "cross_attention"])
def test_a_prior_is_moved_with_its_slice(tmp_path, prior):
    made, seen = prepare(tmp_path, augmentation=AUGMENTATION), network(prior)
    moved = 0
    for step in range(6):
        batch, draws = made(step, OBJECTIVE, seen)
        own = seen.priors(batch.condition.z_bin)
        # The prior is transformed by the final labels of its slice.
        pair = torch.cat([torch.zeros_like(own), own], dim=1)
        expected = Augment(AUGMENTATION, 6.0)._move(pair, batch.condition.augmentation)[:, 1:]
        still = (batch.condition.augmentation[:, :5] == 0).all(dim=1)
        expected = torch.where(still.view(-1, 1, 1, 1), own, expected)
        assert torch.equal(batch.condition.prior, expected)
        moved += int((batch.condition.prior != own).any(dim=(1, 2, 3)).sum())
        terms = OBJECTIVE(seen, batch, draws)
        assert torch.isfinite(terms).all()
    assert moved > 10
