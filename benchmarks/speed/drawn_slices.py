"""How many heads a core draws for a training (`slimdiff pretrain`): python benchmarks/speed/drawn_slices.py

One line per slice size: slices per second of one core, and of its random numbers alone, which the host draws where all
else is computed on a GPU; and how many times longer a training step of the network of config/anatomy.yaml takes than
drawing its slices. Processor time, one thread.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BATCH, SECONDS = 8, 4.0
SIZES = ((64, 3.0), (128, 1.5), (160, 1.25))
"""Side of a slice in px, and of a pixel in mm."""
ANATOMY = Path(__file__).resolve().parents[2] / "config" / "anatomy.yaml"


def seconds(work: Callable[[int], object]) -> float:
    """Processor seconds of one call; the first one is not counted."""
    work(0)
    started, count = time.process_time(), 0
    while time.process_time() - started < SECONDS:
        count += 1
        work(count)
    return (time.process_time() - started) / count


def main() -> None:
    import numpy as np
    import torch

    from slimdiff.config import load_study
    from slimdiff.data.phantom.drawn import SliceDrawer
    from slimdiff.model.checkpoint import DataSpec, build_network
    from slimdiff.model.conditioning import Condition

    torch.set_num_threads(1)
    study = load_study(ANATOMY)
    lesions = np.arange(BATCH) % 2 == 0
    print("side_px", "slices_per_s", "numbers_per_s", "step_over_drawing", sep="\t")
    for side, spacing in SIZES:
        drawer = SliceDrawer(study.data.anatomy, (side, side), spacing, 45.0, 0, torch.device("cpu"))

        def numbers(call: int, first: int = 0) -> np.ndarray:
            return first + BATCH * call + np.arange(BATCH)

        drawing = seconds(lambda call, drawer=drawer: drawer.draw(numbers(call), lesions))
        host = seconds(lambda call, drawer=drawer: drawer._random(numbers(call)))
        data = DataSpec((side, side), 24, [float(number) for number in range(24)])
        network = build_network(study.model.settings() | {"gaussian_components": 0}, data)
        x, condition = (
            torch.randn(BATCH, 2, side, side),
            Condition(*torch.zeros((2, BATCH), dtype=torch.long)),
        )

        def step(call: int, network=network, x=x, condition=condition) -> None:
            network(x, torch.full((BATCH,), 500.0), condition).square().mean().backward()

        print(
            side,
            *(f"{BATCH / took:.0f}" for took in (drawing, host)),
            f"{seconds(step) / drawing:.1f}",
            sep="\t",
        )


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    # The number of threads must be set before torch is imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit(
            subprocess.run([sys.executable, *sys.argv], env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
        )
    main()
