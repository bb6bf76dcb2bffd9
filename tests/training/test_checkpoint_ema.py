"""The moving average of the weights."""

import math

import pytest
import torch

from slimdiff.training.checkpoint import Ema


@pytest.mark.parametrize("decay", [0.999, 0.5, 0.0])
def test_ema_is_the_weighted_sum_of_all_weights(decay):
    layer = torch.nn.Linear(3, 2)
    ema = Ema(layer, decay)
    history = [layer.weight.detach().double().clone()]
    for step in range(30):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(step)))
        ema.update(step)
        history.append(layer.weight.detach().double().clone())
    decays = [min(decay, (1 + s) / (10 + s)) for s in range(30)]
    expected = history[0] * math.prod(decays)
    for s in range(30):
        expected += (1 - decays[s]) * math.prod(decays[s + 1 :]) * history[s + 1]
    torch.testing.assert_close(ema.weights()["weight"].double(), expected, rtol=1e-5, atol=1e-6)
    other = Ema(layer, decay)
    other.load(ema.weights())
    assert torch.equal(other.weights()["bias"], ema.weights()["bias"])
