"""Errors on held-out slices: in the samplers' coordinates, for every prediction, image and mask apart."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))

pytest.importorskip("torch")

import torch
from held_out_error import SIGMAS, errors
from helpers.tiny_training import tiny_store


@pytest.fixture
def errors_of(tmp_path, monkeypatch):
    """Errors of a function (x_t, condition) -> prediction in place of a network."""
    store = tiny_store(tmp_path, count=64)

    def measured(prediction, function):
        card = SimpleNamespace(diffusion={"schedule": "cosine", "timesteps": 1000, "prediction": prediction})

        def network(x_t, time, condition, previous):
            return function(x_t, condition)

        monkeypatch.setattr("slimdiff.model.checkpoint.load_model", lambda *_: (network, card))
        found = errors(tmp_path, store, np.arange(64))
        return np.reshape(found, (2, len(SIGMAS)))

    return measured


def test_a_network_that_expects_no_noise_has_the_error_of_the_noise(errors_of):
    found = errors_of("epsilon", lambda x_t, condition: torch.zeros_like(x_t))
    np.testing.assert_allclose(found, np.stack([SIGMAS, SIGMAS]), rtol=0.05)


def test_v_and_x0_are_measured_alike(errors_of):
    """x0 = signal * x_t - noise * v: a v of 0 is an estimate of x_t * signal."""
    of_v = errors_of("v", lambda x_t, condition: torch.zeros_like(x_t))
    signal = (1 + np.square(SIGMAS)) ** -0.5
    of_x0 = []
    for level, factor in enumerate(signal):
        of_x0.append(errors_of("x0", lambda x_t, condition, factor=factor: factor * x_t)[:, level])
    np.testing.assert_allclose(of_v, np.stack(of_x0, axis=1), rtol=1e-3)


def test_image_and_mask_are_apart_and_the_condition_is_that_of_the_slices(errors_of):
    """Slices of class 0 have no lesion; a network that knows the class is right about their masks only."""

    def knows_the_class(x_t, condition):
        mask = torch.where(condition.label == 0, -1.0, 1.0)[:, None, None].expand_as(x_t[:, 1])
        return torch.stack([x_t[:, 0], mask], dim=1)

    never, known = (
        errors_of("x0", lambda x_t, condition: -torch.ones_like(x_t)),
        errors_of("x0", knows_the_class),
    )
    # The error of "no lesion anywhere" is 2 in lesion pixels, the same at every noise level.
    np.testing.assert_allclose(never[1], never[1, 0])
    assert known[1, 0] > never[1, 0]
    always = errors_of("x0", lambda x_t, condition: torch.ones_like(x_t))
    assert known[1, 0] < always[1, 0]
