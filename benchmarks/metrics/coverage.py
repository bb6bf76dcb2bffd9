"""How often the intervals hold, on 81 real patients:
python benchmarks/metrics/coverage.py [--seconds 500] [--set fair]

27 of the patients are never held out. The samples are fixed (`coverage_samples.py`): slices of these 27, as they are
(`good`, a perfect model), with slight blur, noise and smoother masks (`fair`), or with strong blur and noise, brighter
and with larger masks (`poor`). Then, 200 times, for each set:

    subjects: 27 of the 54 other patients are the held-out ones, for metrics whose interval is over subjects.
    copies: the same for memorisation: the training slices are those of 13 of the 27, the samples those of the other 14.
    samples: a third of the samples, all 54 patients, for metrics whose interval is over samples of this model.

A metric is computed as by the stage `metrics`, over all z-bins, with 300 resamplings (60 for FID, precision,
recall, MMD-MF and MMD-PL), 25 subsets for KID, and the samples nearest to the held-out mix. Features, lesions, spectra,
histograms and outlines of a slice are computed once.

An interval is for a population without end; 54 patients are finite, and a draw of n of N of them deviates from all N by
sqrt(1 - n / N) of the deviation that the interval is for. So the interval is shrunk about its value by this factor
before it is compared with the value on all. Columns:

    all, mean, sd: value on all, and mean and sd over the draws.
    holds: share of draws whose shrunk interval contains the value on all. 0.95 is right.
    holds_mean: share whose shrunk interval contains the mean over draws. For metrics that depend on the number of
        slices, the value on all has another bias, and only this column is meaningful (`biased` is 1).
    raw: share of the intervals as they are that contain the value on all.
    width: mean width of the interval, in widths of a normal 95 % interval of the same sd (corrected as above).
    without: share of draws without an interval.

Draws are kept in the working folder: an interrupted run goes on, and a set whose rows are in the tracked table is not
computed again. A run stops after --seconds of processor time; a set takes about six minutes of one core.
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from coverage_samples import SETS, coverage_study, groups, samples_of, store_of
from power_cohort import SliceFeatures
from remembered import remembering
from tqdm import tqdm

from slimdiff.config import Study
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.axes import image, mask
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.evaluate import AXES as AXIS_FUNCTIONS
from slimdiff.evaluation.metrics import kid
from slimdiff.files import write_table

TABLE = Path(__file__).resolve().parents[2] / "docs" / "tables" / "coverage.tsv"
COLUMNS = (
    "set",
    "metric",
    "extractor",
    "over",
    "n",
    "of",
    "draws",
    "biased",
    "all",
    "mean",
    "sd",
    "holds",
    "holds_mean",
    "raw",
    "width",
    "without",
)
DRAWN = ("over", "draw", "metric", "extractor", "value", "ci_low", "ci_high")
DRAWS, HELD_OUT, SHARE, SEED = 200, 27, 3, 0
REDUCED = {"bootstrap": 300, "taus": ()}
ALL_PAIRS = 3000
NORMAL_WIDTH = 2 * 1.959964
OVER_SAMPLES = (
    "outline_share",
    "lpips_diversity",
    "mask_undecided",
    "delta_median",
    "delta_median_shuffled",
    "frac_bright",
    "lesion_share_class0",
    "lesion_share_class1",
    "outlier_share",
)
COPIES = ("memorisation_ratio", "suspect_share", "suspect_share_check", "memorisation_w1")
BIASED = ("fid", "precision", "recall")
"""Their bias depends on the number of slices; the other distances extend to their large-sample limit."""
NO_INTERVAL = ("kid_blurred", "mmd_robust_p", "suspect_share_ref")
AXES = {
    "subjects": ("image", "mask", "pair", "control"),
    "copies": ("memorisation",),
    "samples": ("image", "mask", "pair", "control", "outliers"),
}
LEFT_OUT = {
    "subjects": (image.outline_shares, image.published_distances),
    "copies": (),
    "samples": (image.feature_distances, image.profile_distances, image.published_distances),
}
"""Functions of these axes without a metric of this kind."""
Numbers = dict[tuple[str, str], tuple[float, float, float]]
"""Metric and extractor: value, lower and upper end of its interval."""


def wanted(metric: str, over: str) -> bool:
    """Whether a metric's interval is over these units."""
    if metric in NO_INTERVAL:
        return False
    if over == "subjects":
        return metric not in (*OVER_SAMPLES, *COPIES)
    return metric in (COPIES if over == "copies" else OVER_SAMPLES)


class Simulation:
    """Evaluates one set of samples against drawn patients, or a part of it against all."""

    def __init__(self, study: Study, store: SliceStore, name: str, lgg: Path):
        self.store = store
        # Skips the rows of single z-bins.
        self.without_bins = replace(store, facts={**store.facts, "n_bins": 0})
        self.config = study.evaluation.model_copy(update=REDUCED)
        self.features = SliceFeatures()
        shown, self.trained, others = groups(lgg)
        self.patients = np.array(others)
        self.shown = samples_of(name, store, shown)
        self.samples = samples_of(name, store, sorted(shown + self.trained))

    def size(self, over: str) -> tuple[int, int]:
        """Number of units in a draw, and in all."""
        total = len(self.samples.id) if over == "samples" else len(self.patients)
        return (total // SHARE if over == "samples" else HELD_OUT), total

    def numbers(self, over: str, draw: int | None) -> Numbers:
        """The metrics of one draw; None: of all."""
        size, total = self.size(over)
        units = np.arange(total)
        if draw is not None:
            rng = np.random.default_rng([SEED, int(over == "samples"), draw])
            units = np.sort(rng.choice(total, size, replace=False))
        samples = self.shown if over == "copies" else self.samples
        test = self.store.rows_of(self.patients.tolist())
        if over == "samples":
            keys = ("images", "masks", "z_bin", "label", "id")
            samples = replace(samples, **{key: np.asarray(getattr(samples, key))[units] for key in keys})
        else:
            test = self.store.rows_of(self.patients[units].tolist())
        # Floors are not looked at; memorisation needs the training slices.
        train = self.store.rows_of(self.trained) if over == "copies" else np.empty(0, np.int64)
        names = {"study": "coverage", "variant": "n/a", "fold": 0}
        # Of all pairs' mean the value on all must have no error of its own.
        config = (
            self.config if draw is not None else self.config.model_copy(update={"lpips_pairs": ALL_PAIRS})
        )
        # Memorisation has a scale for each z-bin.
        store = self.store if over == "copies" else self.without_bins
        given = (store, test, train, samples, config, self.features, names)
        cell = FoldEvaluation(*given, exact_mix=False)
        for axis in AXES[over]:
            for add in AXIS_FUNCTIONS[axis]:
                if add not in LEFT_OUT[over]:
                    add(cell)
        return {
            (row["metric"], row["extractor"]): tuple(row[key] for key in ("value", "ci_low", "ci_high"))
            for row in cell.rows
            if row["z_bin"] == "all" and wanted(row["metric"], over)
        }


def shrunk(value: np.ndarray, low: np.ndarray, high: np.ndarray, n: int, total: int) -> np.ndarray:
    """(2, draws): the ends for a draw of n of `total` units without replacement (see above)."""
    factor = np.sqrt(1 - n / total)
    return value + factor * (np.stack([low, high]) - value)


def summary(found: np.ndarray, on_all: float, n: int, total: int) -> dict:
    """How often the intervals hold.

    Args:
        found: (draws, 3) value, lower and upper end; NaN where a draw has none.
        on_all: the value on all units.
    """
    value, low, high = found[np.isfinite(found[:, 0])].T
    given = np.isfinite(low)
    mean, sd = value.mean(), value.std(ddof=1)
    ends = shrunk(value, low, high, n, total)[:, given]

    def holds(limits: np.ndarray, truth: float) -> float:
        # Rounding must not decide between a number and an end that is the same number.
        slack = 1e-9 * max(1.0, abs(truth))
        return float(((limits[0] - slack <= truth) & (truth <= limits[1] + slack)).mean())

    row = {"draws": len(value), "all": float(on_all), "mean": float(mean), "sd": float(sd)}
    row["without"] = float(1 - given.mean())
    if given.any():
        row |= {"holds": holds(ends, on_all), "holds_mean": holds(ends, mean)}
        row["raw"] = holds(np.stack([low, high])[:, given], on_all)
        if sd > 0:
            row["width"] = float((ends[1] - ends[0]).mean() / (NORMAL_WIDTH * sd))
    return row


def drawn(path: Path) -> dict[tuple[str, int], Numbers]:
    """The draws that a file has; draw -1: all units."""
    found: dict[tuple[str, int], Numbers] = defaultdict(dict)
    if path.is_file():
        with path.open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                numbers = tuple(
                    float("nan" if row[key] == "n/a" else row[key]) for key in ("value", "ci_low", "ci_high")
                )
                found[row["over"], int(row["draw"])][row["metric"], row["extractor"]] = numbers
    return found


def write_drawn(path: Path, found: dict[tuple[str, int], Numbers]) -> None:
    rows = [
        dict(zip(DRAWN, (over, draw, *name, *numbers), strict=True))
        for (over, draw), metrics in found.items()
        for name, numbers in metrics.items()
    ]
    write_table(path, rows, DRAWN, sealed=False)


def missing(found: dict, draws: int) -> Iterator[tuple[str, int]]:
    """The draws that are not yet there, in the order of their computation: the three kinds side by side."""
    for draw in range(-1, draws):
        for over in AXES:
            if (over, draw) not in found:
                yield over, draw


def rows_of(name: str, simulation: Simulation, found: dict, draws: int) -> list[dict]:
    """The lines of the table for one set."""
    rows = []
    for over in AXES:
        n, total = simulation.size(over)
        for (metric, extractor), (on_all, *_) in found[over, -1].items():
            values = [found[over, draw].get((metric, extractor), (np.nan,) * 3) for draw in range(draws)]
            about = {"set": name, "metric": metric, "extractor": extractor, "over": over, "n": n, "of": total}
            about["biased"] = int(metric in BIASED)
            rows.append({**about, **summary(np.array(values), on_all, n, total)})
    return rows


def fill(name: str, simulation: Simulation, path: Path, draws: int, left: Callable[[], float]) -> list[dict]:
    """Compute the draws of one set that its file lacks while there is time; the rows if all are there, else none."""
    found = drawn(path)
    todo, since = list(missing(found, draws)), 0
    for key in tqdm(todo, desc=name, unit="draw"):
        if left() < 0:
            break
        over, draw = key
        found[key] = simulation.numbers(over, None if draw < 0 else draw)
        since += 1
        if since % 10 == 0:
            write_drawn(path, found)
    if since:
        write_drawn(path, found)
    done = not list(missing(found, draws))
    return rows_of(name, simulation, found, draws) if done else []


def add_rows(table: Path, name: str, rows: list[dict]) -> None:
    """Put the rows of a set into the table, in the order of SETS."""
    known = []
    if table.is_file():
        with table.open(encoding="utf-8") as stream:
            known = [row for row in csv.DictReader(stream, delimiter="\t") if row["set"] != name]
    together = sorted([*known, *rows], key=lambda row: list(SETS).index(row["set"]))
    write_table(table, together, COLUMNS, sealed=False)


def main() -> int:
    """Compute what is missing, within the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    project = Path(__file__).resolve().parents[3]
    parser.add_argument("--set", choices=SETS, help="only this set")
    parser.add_argument("--seconds", type=float, default=np.inf, help="processor time after which to stop")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--lgg", type=Path, default=project / "shared/data/lgg/even24.tsv")
    parser.add_argument("--work", type=Path, default=Path("results/coverage"), help="scratch folder")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    start = time.process_time()

    def left() -> float:
        return options.seconds - (time.process_time() - start)

    work = options.work.resolve()
    known = set()
    if options.out.is_file():
        with options.out.open(encoding="utf-8") as stream:
            known = {row["set"] for row in csv.DictReader(stream, delimiter="\t")}
    chosen = [name for name in SETS if name not in known and options.set in (None, name)]
    if not chosen:
        print(f"{options.out} has every set; delete its rows to compute them again", file=sys.stderr)
        return 0
    # Fewer resamplings and subsets to save time, and no p of the robust MMD.
    image.SLOW_BOOTSTRAP, mask.SLOW_BOOTSTRAP, mask.PERMUTATIONS = 60, 60, 0
    lgg = options.lgg.resolve()
    study = coverage_study(lgg, work)
    store = store_of(study)
    with remembering(), mock.patch.object(image, "kid", partial(kid.kid, subsets=25)):
        for name in chosen:
            if left() <= 0:
                break
            simulation = Simulation(study, store, name, lgg)
            rows = fill(name, simulation, work / f"coverage-{name}.tsv", options.draws, left)
            if rows:
                add_rows(options.out, name, rows)
                print(f"{name}: {len(rows)} rows in {options.out}", file=sys.stderr)
    print(f"{time.process_time() - start:.0f} s of processor time", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
