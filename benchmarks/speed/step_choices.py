"""Effect of each optimisation of the network's code on a CPU:
python benchmarks/speed/step_choices.py [--work train] [--out FILE]

Times a forward and backward pass (or an evaluation) of the paper's network at 160 x 160, with all optimisations and
with one removed, in turns in one process; the fastest round counts. Keeping freed memory cannot be undone within a
process, so that row compares two processes. TSV: seconds per image without and with the optimisation, and their ratio.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn import functional as F

from slimdiff.devices import autocast, keep_freed_memory
from slimdiff.model import blocks
from slimdiff.model.checkpoint import DataSpec, build_network

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from slimdiff_side import CENTRES, N_BINS, NETWORK, inputs
from turns import write_table


def upsample_then_convolve(layer, x):
    return layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def norm_in_float32(x, weight, bias, groups, eps):
    return F.group_norm(x.float(), groups, weight, bias, eps).to(x.dtype)


# Optimisation: the patch that removes it, and whether it affects bfloat16 only.
TAKEN_BACK: dict[str, tuple[Callable, bool]] = {
    "upsampling as one transposed convolution": (
        lambda: patch.object(blocks.Upsample, "forward", upsample_then_convolve),
        False,
    ),
    "bfloat16 attention as plain products": (
        lambda: patch.object(blocks, "plain_attention", F.scaled_dot_product_attention),
        True,
    ),
    "own gradient of bfloat16 group norms": (
        lambda: patch.object(blocks, "group_norm_bfloat16", norm_in_float32),
        True,
    ),
}


def measure(contexts: dict[str, Callable], options: argparse.Namespace) -> dict[str, float]:
    """Seconds per image in each context, measured in turns; the fastest round counts."""
    data = DataSpec((options.size, options.size), N_BINS, CENTRES)
    network = build_network(NETWORK.settings(), data)
    asked, precision = inputs(options.batch, options.size, "cpu"), getattr(torch, options.precision)

    def work() -> None:
        with torch.set_grad_enabled(options.work == "train"), autocast(torch.device("cpu"), precision):
            out = network(*asked)
        if options.work == "train":
            out.float().square().mean().backward()
            network.zero_grad(set_to_none=True)

    best = dict.fromkeys(contexts, float("inf"))
    for _ in range(options.rounds + 1):
        # The first round is a warm-up.
        for name, context in contexts.items():
            with context():
                start = time.perf_counter()
                work()
                seconds = time.perf_counter() - start
            best[name] = min(best[name], seconds / options.batch)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", choices=("train", "evaluation"), default="train")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=160, help="side of a slice, in px")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--give-back", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    precisions, rows = options.precision, []
    if not options.give_back:
        keep_freed_memory()
    for precision in precisions:
        options.precision = precision
        contexts = {"as it is": nullcontext}
        if options.give_back:
            print(measure(contexts, options)["as it is"])
            return
        for name, (context, half_only) in TAKEN_BACK.items():
            if precision == "bfloat16" or not half_only:
                contexts[name] = context
        found = measure(contexts, options)
        command = [sys.executable, __file__, "--give-back", "--work", options.work, "--precision", precision]
        command += [
            "--batch",
            str(options.batch),
            "--size",
            str(options.size),
            "--rounds",
            str(options.rounds),
        ]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        found["freed memory kept"] = float(child.stdout)
        own = found.pop("as it is")
        for name, seconds in found.items():
            facts = {"work": options.work, "precision": precision, "choice": name}
            rows.append({**facts, "without": seconds, "with": own, "ratio": seconds / own})
    write_table(rows, ["work", "precision", "choice", "without", "with", "ratio"], options.out)


if __name__ == "__main__":
    main()
