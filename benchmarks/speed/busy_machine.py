"""How much a training slows down beside other work: python benchmarks/speed/busy_machine.py

Times steps of a network, without its Gaussian model, on all cores and on one, alone and beside busy processes. While
they wait for each other, torch's threads spin for a while and then sleep (unset), spin throughout (active), or sleep
at once (passive: `OMP_WAIT_POLICY=PASSIVE`, which slimdiff sets). Prints TSV: seconds a step, the slowdown against the
same policy alone, the slowdown of a fair share of the cores, and the ratio of both.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

COLUMNS = ("waiting", "threads", "competitors", "s_per_step", "slowdown", "fair_slowdown", "ratio")
GRID = {"demo": (64, 56, 8), "paper": (160, 160, 1)}
"""Study: height and width, px, and batch."""
BUSY = "while True: pass"


def steps(name: str, seconds: float) -> None:
    """Time steps of a study's network for a while, and print seconds a step."""
    # Before slimdiff, which sets the policy.
    import torch

    from slimdiff.config import load_study
    from slimdiff.model.checkpoint import DataSpec, build_network
    from slimdiff.model.conditioning import Condition

    study = load_study(Path(__file__).resolve().parents[2] / "config" / f"{name}.yaml")
    height, width, batch = GRID[name]
    settings = study.model.settings() | {"gaussian_components": 0}
    network = build_network(settings, DataSpec((height, width), 6, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
    x = torch.randn(batch, 2, height, width)
    zeros = torch.zeros(len(x), dtype=torch.long)

    def step() -> None:
        network(x, zeros.float(), Condition(zeros, zeros)).square().mean().backward()

    for _ in range(3):
        step()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        count += 1
    print((time.perf_counter() - started) / count)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--competitors", type=int, default=5, help="busy processes")
    parser.add_argument("--seconds", type=float, default=15, help="of each timing")
    parser.add_argument("--network", choices=GRID, default="demo", help="of this study")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        steps(options.network, options.seconds)
        return
    cores = os.cpu_count() or 1
    command = [
        sys.executable,
        __file__,
        "--child",
        "--seconds",
        str(options.seconds),
        "--network",
        options.network,
    ]
    print(*COLUMNS, sep="\t")
    for policy, threads in (("unset", cores), ("active", cores), ("passive", cores), ("passive", 1)):
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
                    command, env=environment, check=True, stdout=subprocess.PIPE, text=True
                )
            found = float(printed.stdout)
            alone = alone or found
            # `threads` of the training among `threads + competitors` busy ones.
            fair = max(1, (threads + competitors) / cores)
            print(
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
