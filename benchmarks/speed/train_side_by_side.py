"""Parallel against sequential trainings: python benchmarks/speed/train_side_by_side.py [--seconds 10]

Requires the demo's slice store (`snakemake --cores all cache kfold`). Runs one process with all cores, then one
single-threaded process per core. Prints the total images per second of each, and their ratio, as TSV.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP_STEPS = 4


def measure(config: str, seconds: float) -> float:
    """Training images per second of this process."""
    from slimdiff.config import load_study
    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore
    from slimdiff.training.trainer import Trainer

    study = load_study(config)
    store = SliceStore.open(study.paths.store)
    participants = read_folds(study.paths.folds, 0)["train"]
    with tempfile.TemporaryDirectory() as folder:
        sections = (study.model, study.diffusion, study.training)
        trainer = Trainer(*sections, store, participants, Path(folder), {})
        for _ in range(WARM_UP_STEPS):
            trainer.advance()
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            trainer.advance()
            steps += 1
        return steps * study.training.batch_size / (time.perf_counter() - start)


def together(config: str, seconds: float, processes: int, threads: int) -> float:
    """Total images per second of `processes` parallel trainings with `threads` threads each."""
    command = [sys.executable, __file__, "--config", config, "--seconds", str(seconds), "--one"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in running)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="config/demo.yaml")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.config, options.seconds))
        return
    cores = os.cpu_count() or 1
    one = together(options.config, options.seconds, 1, cores)
    many = together(options.config, options.seconds, cores, 1)
    print("processes\tthreads\timages_per_s\tratio")
    print(f"1\t{cores}\t{one:.1f}\t1.00")
    print(f"{cores}\t1\t{many:.1f}\t{many / one:.2f}")


if __name__ == "__main__":
    main()
