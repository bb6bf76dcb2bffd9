"""The table of the race, docs/race.tsv, and its figure, docs/race.svg: python benchmarks/quality/race_table.py"""

import csv
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from slimdiff.files import write_table

TABLE = Path(__file__).resolve().parents[2] / "docs" / "race.tsv"
COLUMNS = ("cohort", "side", "minutes", "seed", "metric", "extractor", "value", "floor")
Key = tuple[str, str, int, int]
"""Cohort, side, minutes, seed."""
COLOURS = {"slimdiff": "tab:blue", "published": "tab:grey", "published-tuned": "tab:orange"}
KID_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PANELS = (
    ("kid", "alexnet"),
    ("kid", "efficientnet"),
    ("precision", "alexnet"),
    ("recall", "alexnet"),
    ("mmd_mf_w1", "n/a"),
    ("mmd_pl_w1", "n/a"),
    ("memorisation_ratio", "alexnet"),
    ("memorisation_ratio", "pixels"),
)


def key_of(row: dict) -> Key:
    return row["cohort"], row["side"], int(row["minutes"]), int(row["seed"])


def read_rows() -> list[dict]:
    """The rows so far, one a metric."""
    if not TABLE.is_file():
        return []
    with TABLE.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def done() -> set[Key]:
    """The runs that are in the table."""
    return {key_of(row) for row in read_rows()}


def add(rows: list[dict], place: Callable[[Key], int]) -> None:
    """Add the metrics of a run; runs are sorted by their place."""
    with _locked():
        together = sorted([*read_rows(), *rows], key=lambda row: place(key_of(row)))
        write_table(TABLE, together, COLUMNS)


@contextmanager
def _locked() -> Iterator[None]:
    """Several runs may go on at the same time; one writes at a time."""
    with TABLE.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def plot() -> None:
    """Each metric against the budget, one line a side, its floor dotted."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "race"
    import pandas as pd
    from matplotlib import pyplot as plt

    if not read_rows():
        raise SystemExit(f"{TABLE}: expected runs of the race, found none; run against_published.py first")
    rows = pd.DataFrame(read_rows())
    numbers = ["minutes", "value", "floor"]
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce")
    rows = rows[rows.side.isin(COLOURS)]
    cohorts, budgets = sorted(rows.cohort.unique()), sorted(rows.minutes.unique())
    size = (2.5 * len(PANELS), 2.5 * len(cohorts))
    figure, axes = plt.subplots(len(cohorts), len(PANELS), figsize=size, sharex=True, squeeze=False)
    for (line, cohort), (number, (metric, extractor)) in product(enumerate(cohorts), enumerate(PANELS)):
        axis = axes[line, number]
        own = rows[(rows.cohort == cohort) & (rows.metric == metric) & (rows.extractor == extractor)]
        for side, colour in COLOURS.items():
            of_side = own[own.side == side].sort_values("minutes")
            mean = of_side.groupby("minutes").value.mean()
            axis.plot(of_side.minutes, of_side.value, "o", color=colour, alpha=0.5, markersize=4)
            axis.plot(mean.index, mean, color=colour, label=side)
        axis.axhline(own.floor.mean(), color="black", linestyle=":", label="floor")
        axis.set_xscale("log")
        axis.set_xticks(budgets, [f"{minutes:g}" for minutes in budgets])
        if metric == "kid" and (own.value > 0).any():
            axis.set_yscale("log")  # its floor is about 0 and not shown
            limits = axis.get_ylim()
            axis.set_yticks(KID_TICKS, [f"{tick:g}" for tick in KID_TICKS])
            axis.set_ylim(limits)
        axis.minorticks_off()
        name = metric if extractor == "n/a" else f"{metric}\n{extractor}"
        axis.set_title(f"{cohort}: {name}", fontsize=8)
        if line == len(cohorts) - 1:
            axis.set_xlabel("minutes of one core", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(TABLE.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    plot()
