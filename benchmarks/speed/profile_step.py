"""Profile of a training step or an evaluation:
python benchmarks/speed/profile_step.py [--work train] [--precision bfloat16] [--batch 4]

Runs torch's profiler on the paper's network at 160 x 160: one forward and backward pass (train) or one evaluation.
Prints seconds per image (fastest of three), then the most expensive operators as TSV: share of time, seconds, calls.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from slimdiff.devices import autocast, pick_device
from slimdiff.model.checkpoint import DataSpec, build_network

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from slimdiff_side import CENTRES, N_BINS, NETWORK, best_of, inputs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", choices=("train", "evaluation"), default="train")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=160, help="side of a slice, in px")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rows", type=int, default=16)
    options = parser.parse_args()
    device, precision = pick_device(options.device), getattr(torch, options.precision)
    data = DataSpec((options.size, options.size), N_BINS, CENTRES)
    network = build_network(NETWORK.settings(), data).to(device)
    evaluate = torch.compile(network.forward, dynamic=False) if options.compile else network
    asked = inputs(options.batch, options.size, device.type)

    def work() -> None:
        with torch.set_grad_enabled(options.work == "train"), autocast(device, precision):
            out = evaluate(*asked)
        if options.work == "train":
            out.float().square().mean().backward()
            network.zero_grad(set_to_none=True)

    seconds = best_of(work, device.type, 3)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        work()
    took, calls = defaultdict(float), defaultdict(int)
    for event in profiler.key_averages():
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        took[event.key] += own / 1e6
        calls[event.key] += event.count
    total = sum(took.values())
    asked_for = f"{options.work} {options.precision} batch {options.batch} on {device}"
    print(f"# {asked_for}: {seconds / options.batch:.3f} s per image")
    print("operator\tshare\tseconds\tcalls")
    for name in sorted(took, key=took.get, reverse=True)[: options.rows]:
        print(f"{name[:60]}\t{took[name] / total:.3f}\t{took[name]:.4f}\t{calls[name]}")


if __name__ == "__main__":
    main()
