"""Whether a start from drawn heads helps with few patients: trainings with and without it, judged alike.

python benchmarks/quality/pretraining.py --start anatomy.safetensors   # every run that the table lacks
python benchmarks/quality/pretraining.py --list
python benchmarks/quality/pretraining.py --patients 10 --draw 0 --minutes 5 --way start --start anatomy.safetensors
python benchmarks/quality/pretraining_table.py    # figure and tables

Rows go into docs/tables/pretraining.tsv. The patients are those of the race's cohort lgg at 64 x 64 px
(`against_published.py`): of its 54 training patients 5, 10, 20, 40 or all, three draws each; always the same 27 held-
out patients. The budget is processor time of one thread.

Ways: `scratch`; `start`: from the file; `augmentation`: from scratch with strong augmentation; `frozen`: from the file,
with the weights of the encoder's two finest levels as they are there. The last two only with 10 patients.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from runs_table import RunsTable

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs" / "tables" / "pretraining.tsv"
PATIENTS, DRAWS, MINUTES = (5, 10, 20, 40, 54), (0, 1, 2), (5, 20)
WAYS = ("scratch", "start", "augmentation", "frozen")
ONLY = {"augmentation": (10,), "frozen": (10,)}
"""Numbers of patients with which a way is tried; else with all of them."""
FROM_FILE = ("start", "frozen")
AUGMENTATION = {"probability": 0.5}
FROZEN = ("trunk.encoder.stem.", "trunk.encoder.levels.0.", "trunk.encoder.levels.1.")
EVERY = 2
"""Every second held-out slice has one sample of its z-bin and class."""
Key = tuple[int, int, int, str]
"""Patients, draw, minutes, way."""


def table() -> RunsTable:
    return RunsTable(TABLE, {"patients": int, "draw": int, "minutes": int, "way": str})


def runs() -> Iterator[Key]:
    """All runs, the cheapest first."""
    for minutes, way, draw, patients in product(MINUTES, WAYS, DRAWS, PATIENTS):
        if patients in ONLY.get(way, PATIENTS):
            yield patients, draw, minutes, way


def place(key: Key) -> tuple:
    """Order of the table."""
    patients, draw, minutes, way = key
    return minutes, WAYS.index(way), patients, draw


def chosen(train: list[str], patients: int, draw: int) -> list[str]:
    """Some of the training patients: each draw has an order of its own, of which the first ones are taken."""
    import numpy as np

    order = np.random.default_rng([draw, 22]).permutation(sorted(train))
    return sorted(order[:patients].tolist())


def freeze(trainer) -> None:
    """Keep the weights of the finest levels as they are."""
    from slimdiff.training.optimiser import make_optimiser

    for name, parameter in trainer.network.named_parameters():
        if name.startswith(FROZEN):
            parameter.requires_grad_(False)
    config = trainer.config
    made = (config.optimiser, trainer.network, trainer.objective, config.learning_rate)
    trainer.optimiser = make_optimiser(*made)


def run(key: Key, work: Path, lgg: Path, start: Path | None) -> None:
    """Train, sample and judge, and add the metrics to the table."""
    from against_published import judged
    from race_cohorts import study_of
    from race_sides import run_slimdiff

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    patients, draw, minutes, way = key
    if way in FROM_FILE and start is None:
        raise SystemExit(f"{way}: expected the file to start from, found none; give it with --start")
    training = {
        "start": {"init": str(start)},
        "frozen": {"init": str(start)},
        "augmentation": {"augmentation": AUGMENTATION},
    }.get(way, {})
    study = study_of("lgg", work, lgg, {way: {"training": training}} if training else None)
    parts = read_folds(study.paths.folds, 0)
    own = {**parts, "train": chosen(parts["train"], patients, draw)}
    store = SliceStore.open(study.paths.store)
    shown = store.rows_of(parts["test"])[::EVERY]
    wanted = list(zip(store.z_bin[shown].tolist(), store.label[shown].tolist(), strict=True))
    variant = study.variant(way if training else "base")
    folder = work / "pretraining" / f"{patients}-{draw}-{minutes}-{way}"
    folder.mkdir(parents=True, exist_ok=True)
    given = (variant, store, own["train"], wanted, 60 * minutes, draw, folder)
    drawn, facts = run_slimdiff(*given, *([freeze] if way == "frozen" else []))
    found = [{"metric": name, "extractor": "n/a", "value": value} for name, value in facts.items()]
    found += judged(study, store, own, drawn, wanted, draw, work / f"lgg-{patients}-{draw}.floors.json")
    table().add(key, found, place)


def main() -> int:
    """Do the runs that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, choices=PATIENTS)
    parser.add_argument("--draw", type=int, choices=DRAWS)
    parser.add_argument("--minutes", type=int, choices=MINUTES)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument(
        "--start", type=Path, help="from `slimdiff pretrain --config config/anatomy.yaml --out`"
    )
    parser.add_argument("--work", type=Path, default=Path("results/race"), help="slices, models and samples")
    parser.add_argument("--lgg", type=Path, default=HERE.parents[1].parent / "shared/data/lgg/even24.tsv")
    parser.add_argument(
        "--list", action="store_true", help="print the runs, and whether they are in the table"
    )
    options = parser.parse_args()
    asked = (options.patients, options.draw, options.minutes, options.way)
    keys = [
        key for key in runs() if all(wanted in (None, own) for wanted, own in zip(asked, key, strict=True))
    ]
    if not keys:
        raise SystemExit("no such run; --list prints them all")
    if options.list:
        there = table().done()
        for key in keys:
            print(*key, "done" if key in there else "missing", sep="\t")
        return 0
    # The number of threads must be set before torch is imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    for key in keys:
        if key not in table().done():
            print(*key, file=sys.stderr, flush=True)
            run(key, options.work.resolve(), options.lgg, options.start and options.start.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
