"""Error of networks on noisy held-out slices of a cohort, by noise level: far less noisy than KID of 150 samples.

python benchmarks/quality/held_out_error.py --cohort lgg results/race/runs/lgg-slimdiff-5-0 ...

Prints a row per run of the race (a folder with `model/model.safetensors`): root mean square errors of the estimated
image and mask over all pixels, with the same noise for all runs. From the second run on relative to the first.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

SLICES, SEED = 160, 1
"""Held-out slices, evenly chosen, and the seed of the noise."""
SIGMAS = (0.1, 0.2, 0.4, 0.7, 1.2, 2.0, 3.5, 6.0)


def errors(run: Path, store, rows) -> list[float]:
    """Of the image at all noise levels, then of the mask."""
    import torch
    from race_sides import pairs_of

    from slimdiff.diffusion.denoiser import Denoiser
    from slimdiff.diffusion.schedule import make_schedule
    from slimdiff.model.checkpoint import load_model
    from slimdiff.model.conditioning import Condition

    network, card = load_model(run / "model" / "model.safetensors", torch.device("cpu"))
    schedule = make_schedule(card.diffusion["schedule"], card.diffusion["timesteps"])
    x0 = torch.from_numpy(pairs_of(store, rows)).float()
    condition = Condition(*(torch.from_numpy(part[rows]).long() for part in (store.z_bin, store.label)))
    denoiser = Denoiser(network, schedule, card.diffusion["prediction"], clip=False, condition=condition)
    found = []
    for sigma in SIGMAS:
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(SEED))
        with torch.inference_mode():
            estimate = denoiser(x0 + sigma * noise, sigma, None)
        found.append((estimate - x0).square().mean(dim=(0, 2, 3)).sqrt())
    return torch.stack(found).T.flatten().tolist()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--cohort", choices=("phantom", "lgg"), required=True)
    parser.add_argument("--work", type=Path, default=Path("results/race"), help="slices of the race")
    parser.add_argument("--lgg", type=Path, default=here.parents[1].parent / "shared/data/lgg/even24.tsv")
    options = parser.parse_args()
    for run in options.runs:
        if not (run / "model" / "model.safetensors").is_file():
            parser.error(f"{run}: expected a folder of the race with model/model.safetensors, found none")
    # The number of threads must be set before torch is imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    import numpy as np
    from race_cohorts import study_of

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    study = study_of(options.cohort, options.work.resolve(), options.lgg)
    store = SliceStore.open(study.paths.store)
    rows = store.rows_of(read_folds(study.paths.folds, 0)["test"])
    rows = rows[np.linspace(0, len(rows) - 1, SLICES).astype(int)]
    print("run", *(f"{part}_{sigma}" for part in ("image", "mask") for sigma in SIGMAS), sep="\t")
    first = None
    for run in options.runs:
        found = np.array(errors(run, store, rows))
        shown = found if first is None else found / first
        print(run.name, *(f"{value:.4f}" for value in shown), sep="\t", flush=True)
        first = found if first is None else first
    return 0


if __name__ == "__main__":
    sys.exit(main())
