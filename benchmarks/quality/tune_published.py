"""Learning rate and batch of the race's side `published-tuned`: python benchmarks/quality/tune_published.py

Trains the published code with each pair of values for 5 minutes of one core, and prints its loss over fixed
batches and noise, of the better of averaged and last weights. Rows go into docs/tables/race_tuning.tsv as soon as they
are there, and a row that is there is not run again. The lowest loss decides.
"""

import argparse
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

from against_published import COHORTS, HERE, SHORT
from race_table import TABLE

from slimdiff.files import read_table, write_table

TUNING = TABLE.with_name("race_tuning.tsv")
BATCHES, RATES, EMA_DECAY = (4, 16), (1e-4, 3e-4, 1e-3, 3e-3), 0.99
COLUMNS = (
    "cohort",
    "channels",
    "minutes",
    "batch",
    "learning_rate",
    "ema_decay",
    "steps",
    "averaged_weights",
    "loss",
)
OF_RUN = COLUMNS[:5]
"""Columns that name a run."""


def main() -> int:
    """Do the runs that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", choices=COHORTS, default="lgg")
    parser.add_argument("--work", type=Path, default=Path("results/race"), help="as in against_published.py")
    parser.add_argument("--lgg", type=Path, default=HERE.parents[1].parent / "shared/data/lgg/even24.tsv")
    options = parser.parse_args()
    # The number of threads must be set before torch is imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    from race_cohorts import study_of
    from race_sides import run_published

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    minutes, work = SHORT, options.work.resolve()
    study = study_of(options.cohort, work, options.lgg)
    store, train = SliceStore.open(study.paths.store), read_folds(study.paths.folds, 0)["train"]
    for batch, rate in product(BATCHES, RATES):
        rows = read_table(TUNING) if TUNING.is_file() else []
        widths = "-".join(map(str, study.model.widths))
        run = dict(zip(OF_RUN, map(str, (options.cohort, widths, minutes, batch, rate)), strict=True))
        if any(run.items() <= row.items() for row in rows):
            continue
        recipe = {"batch": batch, "learning_rate": rate, "ema_decay": EMA_DECAY}
        folder = work / "tuning" / f"{options.cohort}-{batch}-{rate:g}"
        _, facts = run_published(study, store, train, [], 60 * minutes, 0, folder, recipe)
        rows.append({**run, "ema_decay": EMA_DECAY, **{name: facts[name] for name in COLUMNS[6:]}})
        write_table(TUNING, rows, COLUMNS, sealed=False)
        print(*(rows[-1][name] for name in COLUMNS), sep="\t", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
