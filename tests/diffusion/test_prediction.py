"""Targets and conversions of prediction types, against each other and a derivative."""

import itertools

import pytest
import torch
from helpers.noising import noisy

from slimdiff.diffusion.prediction import PREDICTIONS, target, to_x0_epsilon


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_returns_sample_and_noise(kind):
    x0, epsilon, signal, noise, x_t = noisy()
    found = to_x0_epsilon(kind, target(kind, x0, epsilon, signal, noise), x_t, signal, noise)
    torch.testing.assert_close(found[0], x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], epsilon, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("one", "other"), itertools.permutations(PREDICTIONS, 2))
def test_any_output_converts_to_the_same_estimate_in_every_prediction_type(one, other):
    """Also for imperfect outputs: an arbitrary output, converted to another type, is the same estimate."""
    _, _, signal, noise, x_t = noisy()
    output = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x0, epsilon = to_x0_epsilon(one, output, x_t, signal, noise)
    torch.testing.assert_close(signal * x0 + noise * epsilon, x_t)
    again = to_x0_epsilon(other, target(other, x0, epsilon, signal, noise), x_t, signal, noise)
    torch.testing.assert_close(again[0], x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again[1], epsilon, rtol=1e-8, atol=1e-8)


def test_v_is_the_derivative_along_the_circle():
    """Salimans & Ho 2022: with signal cos(phi), noise sin(phi), v = d x_t / d phi."""
    x0, epsilon, *_ = noisy()
    phi, step = torch.tensor(0.7, dtype=torch.float64), 1e-6

    def at(angle):
        return angle.cos() * x0 + angle.sin() * epsilon

    slope = (at(phi + step) - at(phi - step)) / (2 * step)
    torch.testing.assert_close(target("v", x0, epsilon, phi.cos(), phi.sin()), slope, rtol=1e-6, atol=1e-8)


def test_unknown_kinds_are_refused():
    x0, epsilon, signal, noise, x_t = noisy()
    with pytest.raises(ValueError, match="x0, epsilon, v"):
        target("eps", x0, epsilon, signal, noise)
    with pytest.raises(ValueError, match="x0, epsilon, v"):
        to_x0_epsilon("eps", x0, x_t, signal, noise)
