"""Cost of the noise streams relative to the network: python benchmarks/speed/noise_cost.py [--config FILE ...]

Times the noise of a batch and one evaluation of an untrained network of each configuration on this machine's device.
Prints the share of sampling time spent on noise, for a deterministic chain (one draw per sample) and a stochastic chain
(one draw per evaluation). On a CPU a batch is one sample on one thread, as in `slimdiff-generate`.
"""

import argparse
import statistics
import sys
import time

import torch

from slimdiff.config import Study, load_study
from slimdiff.devices import autocast, pick_device, synchronise
from slimdiff.generation.noise import normal
from slimdiff.generation.requests import stream_key
from slimdiff.model.checkpoint import DataSpec, build_network
from slimdiff.model.conditioning import Condition

COLUMNS = (
    "config",
    "device",
    "batch",
    "noise_ms",
    "evaluation_ms",
    "evaluations",
    "share",
    "share_stochastic",
)


def median_ms(work, device: torch.device, repeats: int) -> float:
    """Median time of one call in ms, including the device's work."""
    times = []
    for turn in range(repeats + 2):
        synchronise(device)
        start = time.perf_counter()
        work(turn)
        synchronise(device)
        times.append(time.perf_counter() - start)
    # The first two calls are a warm-up.
    return statistics.median(times[2:]) * 1e3


@torch.inference_mode()
def row_of(name: str, study: Study, repeats: int) -> dict:
    """Times of one configuration."""
    config, device = study.generation, pick_device(study.generation.device)
    batch = config.batch_size
    if device.type == "cpu":
        torch.set_num_threads(1)
        batch = 1
    size = (study.preprocess.grid[1], study.preprocess.grid[0])
    data = DataSpec(size=size, n_bins=2, bin_centres=[1.0, 2.0])
    model = {**study.model.settings(), "prior": "none", "gaussian_components": 0}
    network = build_network(model, data).to(device).eval()
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    told = Condition(torch.zeros(batch, dtype=torch.long), torch.zeros(batch, dtype=torch.long)).to(device)
    x, when = torch.randn((batch, 2, *size), device=device), torch.full((batch,), 500.0, device=device)
    keys = [stream_key(0, 0, 0, 1, 0, index) for index in range(batch)]

    def evaluate(turn: int) -> None:
        with autocast(device, precision):
            network(x, when, told)

    noise = median_ms(lambda turn: normal(keys, turn, (2, *size), device), device, 10 * repeats)
    evaluation = median_ms(evaluate, device, repeats)
    steps = config.evaluations
    return {
        "config": name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "batch": batch,
        "noise_ms": noise,
        "evaluation_ms": evaluation,
        "evaluations": steps,
        "share": noise / (noise + steps * evaluation),
        "share_stochastic": noise / (noise + evaluation),
    }


def main() -> int:
    """Print one row per configuration; returns 1 if noise takes 2 % or more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="*", default=[], help="studies to time after the paper's network")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    rows = []
    print(*COLUMNS, sep="\t")
    studies = {"the paper's network": Study()} | {path: load_study(path) for path in options.config}
    for name, whole in studies.items():
        rows.append(row_of(name, whole.variant(next(iter(whole.variants))), options.repeats))
        found = (rows[-1][column] for column in COLUMNS)
        print(*(f"{v:.3g}" if isinstance(v, float) else v for v in found), sep="\t", flush=True)
    return int(max(row["share_stochastic"] for row in rows) >= 0.02)


if __name__ == "__main__":
    sys.exit(main())
