"""How much a training slows down beside other work: python benchmarks/speed/busy_machine.py

Times optimiser steps of a network on random slices, without its Gaussian model, alone and beside busy processes. The
threads share either each layer, as torch does, or the batch, as slimdiff does: each has a part of it. While torch's
threads wait for each other they spin for a while and then sleep (unset), spin throughout (active), or sleep at once
(passive: `OMP_WAIT_POLICY=PASSIVE`, which slimdiff sets). Prints TSV: seconds a step, the slowdown against the same
way alone, the slowdown of a fair share of the cores, and the ratio of both.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

COLUMNS = ("shared", "waiting", "threads", "competitors", "s_per_step", "slowdown", "fair_slowdown", "ratio")
GRID = {"demo": (64, 56, 8), "paper": (160, 160, 4)}
"""Study: height and width, px, and batch."""
BUSY = "while True: pass"


def steps(name: str, shared: str, seconds: float) -> None:
    """Time steps of a study's network for a while, and print seconds a step."""
    # Before slimdiff, which sets the policy.
    import torch

    from slimdiff.config import load_study
    from slimdiff.devices import keep_freed_memory
    from slimdiff.model.checkpoint import DataSpec, build_network
    from slimdiff.model.conditioning import Condition
    from slimdiff.training.data import Batch
    from slimdiff.training.distributed import Processes
    from slimdiff.training.gradients import GradientThreads
    from slimdiff.training.objective import Objective
    from slimdiff.training.optimiser import make_optimiser, update_weights
    from slimdiff.training.step import Loss

    keep_freed_memory()
    study = load_study(Path(__file__).resolve().parents[2] / "config" / f"{name}.yaml")
    height, width, count = GRID[name]
    settings = study.model.settings() | {"gaussian_components": 0}
    network = build_network(settings, DataSpec((height, width), 6, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
    objective = Objective(study.diffusion, study.training.self_conditioning)
    loss = Loss(network, objective, torch.device("cpu"), compiled=False)
    threads = GradientThreads(loss, Processes())
    together = shared == "batch" and threads.count > 1
    optimiser = make_optimiser(study.training.optimiser, network, objective, 1e-5)
    zeros = torch.zeros(count, dtype=torch.long)
    batch = Batch(torch.rand(count, 2, height, width) * 2 - 1, Condition(zeros, zeros))
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimiser.zero_grad()
        draws = objective.draw(count, (height, width), generator, 0.5)
        threads.add(batch, draws) if together else loss(batch, draws)[0].backward()
        update_weights(optimiser, network, 1e-5, threads.map)

    for _ in range(3):
        step()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        done += 1
    print((time.perf_counter() - started) / done)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--competitors", type=int, default=5, help="busy processes")
    parser.add_argument("--seconds", type=float, default=15, help="of each timing")
    parser.add_argument("--network", choices=GRID, default="demo", help="of this study")
    parser.add_argument("--child", choices=("layers", "batch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        steps(options.network, options.child, options.seconds)
        return
    cores = os.cpu_count() or 1
    command = [
        sys.executable,
        __file__,
        "--seconds",
        str(options.seconds),
        "--network",
        options.network,
    ]
    print(*COLUMNS, sep="\t")
    ways = [("layers", policy, cores) for policy in ("unset", "active", "passive")]
    for shared, policy, threads in (*ways, ("batch", "passive", cores), ("batch", "passive", 1)):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment |= {"OMP_NUM_THREADS": str(threads)} | (
            {} if policy == "unset" else {"OMP_WAIT_POLICY": policy}
        )
        alone = None
        for competitors in (0, options.competitors):
            with ExitStack() as stack:
                for _ in range(competitors):
                    busy = subprocess.Popen([sys.executable, "-c", BUSY])
                    stack.callback(busy.wait)
                    stack.callback(busy.kill)
                printed = subprocess.run(
                    [*command, "--child", shared],
                    env=environment,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            found = float(printed.stdout)
            alone = alone or found
            # `threads` of the training among `threads + competitors` busy ones.
            fair = max(1, (threads + competitors) / cores)
            print(
                shared,
                policy,
                threads,
                competitors,
                f"{found:.3f}",
                f"{found / alone:.2f}",
                f"{fair:.2f}",
                f"{found / alone / fair:.2f}",
                sep="\t",
                flush=True,
            )


if __name__ == "__main__":
    main()
