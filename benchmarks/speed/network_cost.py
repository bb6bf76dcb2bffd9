"""Parameters and GFLOP of a network evaluation: python benchmarks/speed/network_cost.py [--size 160]

Every coupling, and the shared network with patches of 1, 2 and 4 px and with the Gaussian model, at the paper's widths;
TSV. A multiply-add counts
as two. The networks are on PyTorch's meta device, so nothing is computed, but for the Gaussian model, which autocast
does not allow there.
"""

import argparse
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.config.model import COMPONENTS, ModelConfig
from slimdiff.model.checkpoint import DataSpec, build_network
from slimdiff.model.conditioning import Condition
from slimdiff.model.gaussian import GaussianEstimate, coarsening


def cost(model: ModelConfig, size: tuple[int, int]) -> tuple[int, float]:
    """Parameters, and GFLOP of one evaluation of one slice of `size` px."""
    with torch.device("cpu" if model.gaussian else "meta"):
        network = build_network(model.settings(), DataSpec(size, 30, [float(b) for b in range(30)]))
        if network.gaussian is not None:
            shape_buffers(network.gaussian, model.gaussian, size)
        x, index = torch.empty(1, 2, *size), torch.empty(1, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, index.float(), Condition(index, index), x)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 1e9


def shape_buffers(estimate: GaussianEstimate, components: int, size: tuple[int, int]) -> None:
    """Give the buffers the shapes that `fit` gives them."""
    coarse = [side // coarsening(*size) for side in size]
    estimate.mean = estimate.spread = torch.ones(31, 2, *size)
    estimate.components, estimate.variances = torch.ones(components, 2, *coarse), torch.ones(components)
    estimate.rest, estimate.log_sigma = torch.ones(()), torch.ones(1000)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160, help="side of a slice, in px")
    options = parser.parse_args()
    rows = [
        ("shared", 1, 0),
        ("shared", 1, COMPONENTS),
        ("shared", 2, 0),
        ("shared", 4, 0),
        ("decoupled", 1, 0),
        ("independent", 1, 0),
        ("bottleneck", 1, 0),
    ]
    print("coupling\tpatch\tgaussian_components\tparameters\tgflop\tof_the_first")
    first = None
    for coupling, patch, components in rows:
        settings = {"coupling": coupling, "patch": patch, "gaussian_components": components}
        model = ModelConfig(self_conditioning=True, **settings)
        parameters, gflop = cost(model, (options.size, options.size))
        first = first or gflop
        print(f"{coupling}\t{patch}\t{components}\t{parameters}\t{gflop:.2f}\t{gflop / first:.3f}")


if __name__ == "__main__":
    sys.exit(main())
