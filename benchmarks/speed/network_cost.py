"""Parameters and GFLOP of a network evaluation: python benchmarks/speed/network_cost.py [--size 160]

Every coupling, and the shared network with patches of 1, 2 and 4 px, at the paper's widths; TSV. A multiply-add counts
as two. The networks are on PyTorch's meta device, so nothing is computed.
"""

import argparse
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.config.model import ModelConfig
from slimdiff.model.checkpoint import DataSpec, build_network
from slimdiff.model.conditioning import Condition


def cost(model: ModelConfig, size: tuple[int, int]) -> tuple[int, float]:
    """Parameters, and GFLOP of one evaluation of one slice of `size` px."""
    with torch.device("meta"):
        network = build_network(model.settings(), DataSpec(size, 30, [float(b) for b in range(30)]))
        x, index = torch.empty(1, 2, *size), torch.empty(1, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, index.float(), Condition(index, index), x)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160, help="side of a slice, in px")
    options = parser.parse_args()
    rows = [
        ("shared", 1),
        ("shared", 2),
        ("shared", 4),
        ("decoupled", 1),
        ("independent", 1),
        ("bottleneck", 1),
    ]
    print("coupling\tpatch\tparameters\tgflop\tof_the_first")
    first = None
    for coupling, patch in rows:
        parameters, gflop = cost(
            ModelConfig(coupling=coupling, patch=patch, gaussian_components=0), (options.size, options.size)
        )
        first = first or gflop
        print(f"{coupling}\t{patch}\t{parameters}\t{gflop:.2f}\t{gflop / first:.3f}")


if __name__ == "__main__":
    sys.exit(main())
