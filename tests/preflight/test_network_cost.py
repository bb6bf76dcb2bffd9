"""Parameters and operations are those of the networks that torch builds, to within a sixth."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.config import load_study
from slimdiff.config.model import ModelConfig
from slimdiff.model.checkpoint import DataSpec, build_network
from slimdiff.preflight.network_cost import network_cost

DEMO = load_study(Path(__file__).parents[2] / "config" / "demo.yaml").model
NETWORKS = {
    "paper": (ModelConfig(), (160, 160)),
    "demo": (DEMO, (64, 56)),
    "decoupled": (ModelConfig(coupling="decoupled"), (80, 80)),
    "independent": (ModelConfig(coupling="independent"), (80, 80)),
    "bottleneck": (ModelConfig(coupling="bottleneck"), (80, 80)),
    "patch": (DEMO.model_copy(update={"patch": 2}), (64, 64)),
    "self-conditioned": (DEMO.model_copy(update={"self_conditioning": True}), (64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_count_is_that_of_the_network(name):
    model, size = NETWORKS[name]
    network = build_network(model.settings(), DataSpec(size, 30, [float(number) for number in range(30)]))
    maps = [torch.zeros(1, 2, *size) for _ in range(1 + model.self_conditioning + bool(model.gaussian))]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.trunk(maps, None, torch.zeros(1, 4 * model.widths[0]), None)
    cost = network_cost(model, size[0] * size[1])
    assert cost.parameters == pytest.approx(sum(one.numel() for one in network.parameters()), rel=1 / 6)
    assert cost.flop == pytest.approx(counter.get_total_flops(), rel=1 / 6)


def test_operations_grow_with_the_slice_and_parameters_do_not():
    small, large = (network_cost(DEMO, side * side) for side in (64, 128))
    assert small.parameters == large.parameters
    assert 4 <= large.flop / small.flop < 6
