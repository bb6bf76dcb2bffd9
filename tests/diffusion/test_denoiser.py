"""Guidance: the noise levels at which it acts, and equality over prediction types."""

import math

import pytest
import torch

from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.prediction import PREDICTIONS
from slimdiff.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("cosine", 1000)
SIGMAS = (0.05, 1.0, 7.0)


def start(sigma):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((4, 2, 3, 3), generator=generator, dtype=torch.float64) * math.sqrt(1 + sigma**2)


def conditional(x):
    return (0.8 * x).tanh() * 0.7


def unconditional(x):
    return 0.2 * x.sin() + 0.1


def network_of(kind, estimate, sigma):
    """A network of prediction type `kind` whose x0 estimate is `estimate(x / sqrt(alpha_bar))`."""
    signal = 1 / math.sqrt(1 + sigma**2)
    noise = sigma * signal

    def network(x_t, time, condition, previous):
        x0 = estimate(x_t / signal)
        epsilon = (x_t - signal * x0) / noise
        return {"x0": x0, "epsilon": epsilon, "v": signal * epsilon - noise * x0}[kind]

    return network


def guided(kind, sigma, scale, **options):
    return Denoiser(
        network_of(kind, conditional, sigma),
        SCHEDULE,
        kind,
        guide=network_of(kind, unconditional, sigma),
        scale=scale,
        **options,
    )


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_guidance_of_every_prediction_is_guidance_of_x0(kind, scale, sigma):
    x = start(sigma)
    expected = (1 - scale) * unconditional(x) + scale * conditional(x)
    found = guided(kind, sigma, scale, clip=False)(x, sigma, None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    # The guided estimate is clipped, not the two estimates before guidance.
    clipped = guided(kind, sigma, scale)(x, sigma, None)
    torch.testing.assert_close(clipped.double(), expected.clamp(-1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("interval", "acts"),
    [
        ((0.5, 7.0), [False, True, True]),
        ((1.0, 5.0), [False, False, False]),
        ((0.0, 1.0), [True, True, False]),
        ((7.0, 9.0), [False, False, False]),
    ],
)
def test_guidance_acts_above_low_and_up_to_high(interval, acts):
    low, high = interval
    for sigma, guides in zip(SIGMAS, acts, strict=True):
        x = start(sigma)
        found = guided("x0", sigma, 3.0, clip=False, low=low, high=high)(x, sigma, None).double()
        expected = 3 * conditional(x) - 2 * unconditional(x) if guides else conditional(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_network_and_guide_have_the_same_input_but_their_own_conditions():
    calls = []

    def spy(x_t, time, condition, previous):
        calls.append((x_t, time, condition, previous))
        return x_t

    previous = torch.zeros(4, 2, 3, 3)
    conditions = {"condition": "lesion", "guide_condition": "none"}
    Denoiser(spy, SCHEDULE, "x0", guide=spy, scale=2.0, **conditions)(start(1.0), 1.0, previous)
    (x_t, time, condition, fed), (other_x_t, other_time, other_condition, other_fed) = calls
    assert (condition, other_condition) == ("lesion", "none")
    assert torch.equal(x_t, other_x_t)
    assert torch.equal(time, other_time)
    assert fed is other_fed is previous
