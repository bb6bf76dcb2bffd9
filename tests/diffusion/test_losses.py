"""Targets, conversions and the loss against loops and closed forms."""

import itertools

import pytest
import torch

from slimdiff.diffusion.losses import lesion_weights, lp_per_channel
from slimdiff.diffusion.prediction import PREDICTIONS, target, to_x0_epsilon


def noisy(seed=0, batch=5):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand((batch, 2, 4, 4), generator=generator, dtype=torch.float64) * 2 - 1
    epsilon = torch.randn((batch, 2, 4, 4), generator=generator, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9999, 0.9, 0.5, 0.1, 1e-4], dtype=torch.float64).view(-1, 1, 1, 1)[:batch]
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return x0, epsilon, signal, noise, signal * x0 + noise * epsilon


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_network_gives_back_sample_and_noise(kind):
    x0, epsilon, signal, noise, x_t = noisy()
    found = to_x0_epsilon(kind, target(kind, x0, epsilon, signal, noise), x_t, signal, noise)
    torch.testing.assert_close(found[0], x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], epsilon, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("one", "other"), itertools.permutations(PREDICTIONS, 2))
def test_any_output_means_the_same_in_any_parametrisation(one, other):
    """Not only a perfect one: an arbitrary output, turned into another kind, is the same estimate."""
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


def slow_lp(prediction, wanted, exponents, weights=None):
    batch, channels, height, width = prediction.shape
    result = torch.zeros(batch, channels)
    for b, c in itertools.product(range(batch), range(channels)):
        total = share = 0.0
        for i, j in itertools.product(range(height), range(width)):
            w = 1.0 if weights is None else weights[b, c, i, j].item()
            error = abs(prediction[b, c, i, j].item() - wanted[b, c, i, j].item())
            total += w * error ** exponents[c].item()
            share += w
        result[b, c] = total / share
    return result


@pytest.mark.parametrize("exponents", [(1.5, 2.0), (1.0, 1.0), (2.5, 3.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_lp_is_the_loop(exponents, weighted):
    generator = torch.Generator().manual_seed(1)
    prediction, wanted = (torch.randn((3, 2, 4, 5), generator=generator) for _ in range(2))
    weights = torch.rand((3, 2, 4, 5), generator=generator) + 0.1 if weighted else None
    found = lp_per_channel(prediction, wanted, torch.tensor(exponents), weights)
    torch.testing.assert_close(found, slow_lp(prediction, wanted, torch.tensor(exponents), weights))


def test_lp_has_no_root_and_channels_keep_their_own_exponent():
    prediction = torch.zeros(1, 2, 2, 2)
    wanted = torch.full((1, 2, 2, 2), 4.0)
    assert lp_per_channel(prediction, wanted, torch.tensor([1.5, 2.0])).tolist() == [[8.0, 16.0]]


def test_lp_gradient_is_p_e_to_the_p_minus_1():
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randn((2, 2, 3, 3), generator=generator).requires_grad_()
    wanted = torch.randn((2, 2, 3, 3), generator=generator)
    exponents = torch.tensor([1.5, 2.0])
    lp_per_channel(prediction, wanted, exponents).sum().backward()
    error = (prediction - wanted).detach()
    p = exponents.view(1, 2, 1, 1)
    torch.testing.assert_close(prediction.grad, p * error.abs() ** (p - 1) * error.sign() / 9)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_lp_gradient_is_finite_where_the_prediction_is_right(p):
    prediction = torch.zeros(1, 2, 2, 2, requires_grad=True)
    lp_per_channel(prediction, torch.zeros(1, 2, 2, 2), torch.tensor([p, p])).sum().backward()
    torch.testing.assert_close(prediction.grad, torch.zeros_like(prediction))


def test_lp_of_half_precision_is_computed_in_float32():
    prediction = torch.full((1, 2, 2, 2), 1.0078125, dtype=torch.bfloat16)
    wanted = torch.full((1, 2, 2, 2), 1.0009765625)
    found = lp_per_channel(prediction, wanted, torch.tensor([1.0, 1.0]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 2), 1.0078125 - 1.0009765625))


def test_lesion_weights_are_on_lesion_pixels_of_the_mask_only():
    x0 = torch.rand((3, 2, 5, 5), generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights = lesion_weights(x0, 5.0)
    for b, i, j in itertools.product(range(3), range(5), range(5)):
        assert weights[b, 0, i, j] == 1
        assert weights[b, 1, i, j] == (5 if x0[b, 1, i, j] > 0 else 1)
    torch.testing.assert_close(lesion_weights(x0, 1.0), torch.ones_like(x0))
