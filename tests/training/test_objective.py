"""The loss of a batch: noise, self-conditioning, prediction and Lp."""

import math

import numpy as np
import pytest
import torch
from tiny_training import CPU, MODEL

from slimdiff.config.diffusion import DiffusionConfig, LossConfig
from slimdiff.devices import autocast
from slimdiff.diffusion.prediction import target
from slimdiff.model.build import build_network
from slimdiff.training.batches import Batch, step_generator
from slimdiff.training.objective import Objective


class Spy(torch.nn.Module):
    """Answers 0.3 x_t + 0.1 previous and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3))
        self.calls = []

    def forward(self, x, time, z_bin, label, previous=None):
        self.calls.append({"x": x, "time": time, "previous": previous, "grad": torch.is_grad_enabled()})
        return self.scale * x + (0 if previous is None else 0.1 * previous)


def a_batch(count=6):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand((count, 2, 4, 4), generator=generator) * 2 - 1
    return Batch(x0, torch.arange(count) % 3, torch.arange(count) % 2)


@pytest.mark.parametrize("kind", ["x0", "epsilon", "v"])
@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_objective_is_noise_prediction_and_lp(kind, weight):
    config = DiffusionConfig(prediction=kind, loss=LossConfig(lesion_weight=weight))
    objective, batch, spy = Objective(config, 0.0, CPU), a_batch(), Spy()
    draws = objective.draw(batch, step_generator(0, 0, CPU))
    assert draws.informed == 0
    found = objective(spy, batch, draws)
    wanted = torch.zeros(2, dtype=torch.float64)
    for b in range(len(batch.x0)):
        t = draws.timestep[b].item()
        alpha_bar = math.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        alpha_bar /= math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        signal, noise = torch.tensor(alpha_bar).sqrt().double(), torch.tensor(1 - alpha_bar).sqrt().double()
        x0, epsilon = batch.x0[b].double(), draws.epsilon[b].double()
        aim = target(kind, x0, epsilon, signal, noise)
        error = (0.3 * (signal * x0 + noise * epsilon) - aim).abs()
        pixels = torch.where(x0[1] > 0, weight, 1.0).double()
        wanted[0] += (error[0] ** 1.5).mean() / len(batch.x0)
        wanted[1] += (pixels * error[1] ** 2.0).sum() / pixels.sum() / len(batch.x0)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=1e-4)


def test_informed_samples_see_their_clamped_estimate_without_gradient():
    objective, batch, spy = Objective(DiffusionConfig(), 0.5, CPU), a_batch(), Spy()
    with torch.no_grad():
        spy.scale.fill_(2.0)
    draws = objective.draw(batch, step_generator(0, 0, CPU))
    assert draws.informed == 3
    objective(spy, batch, draws).sum().backward()
    first, second = spy.calls
    assert (first["grad"], second["grad"]) == (False, True)
    assert first["previous"] is None
    assert torch.equal(first["x"], second["x"][:3])
    assert torch.equal(first["time"], second["time"][:3])
    torch.testing.assert_close(second["previous"][:3], (2.0 * first["x"]).clamp(-1, 1))
    assert not second["previous"][3:].any()
    assert not second["previous"].requires_grad


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_informed_samples_is_the_probability(probability):
    objective, batch = Objective(DiffusionConfig(), probability, CPU), a_batch(3)
    informed = [objective.draw(batch, step_generator(0, step, CPU)).informed for step in range(500)]
    assert np.mean(informed) / 3 == pytest.approx(probability, abs=4 * 0.5 / math.sqrt(3 * 500))


def test_all_times_are_trained():
    objective, batch = Objective(DiffusionConfig(timesteps=10), 0.5, CPU), a_batch()
    times = torch.cat([objective.draw(batch, step_generator(0, s, CPU)).timestep for s in range(300)])
    counts = torch.bincount(times, minlength=10)
    assert len(counts) == 10
    assert (counts - 180).abs().max() < 5 * math.sqrt(180)


def test_bfloat16_keeps_every_gradient_after_the_pass_without_gradient():
    """Autocast caches the cast weights; casts made without gradient must not reach the pass that trains."""
    torch.manual_seed(0)
    network = build_network(MODEL.model_dump(), 3, [0.5, 1.5, 2.5])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    objective = Objective(DiffusionConfig(), 1.0, CPU)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.rand((4, 2, 8, 8), generator=generator), torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 0, 1])
    )
    draws = objective.draw(batch, generator)
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        network.zero_grad(set_to_none=True)
        with autocast(CPU, precision):
            losses = objective(network, batch, draws)
        assert losses.dtype == torch.float32
        losses.sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, exact in gradients[0].items():
        near = gradients[1][name]
        assert near is not None, name
        assert (near - exact).norm() <= 0.1 * exact.norm() + 1e-3, name
