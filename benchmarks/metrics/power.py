"""Statistical power of each metric with few held-out subjects:
python benchmarks/metrics/power.py [--work FOLDER] [--out FILE]

Uses a phantom cohort on the demo's grid. The slices of 33 subjects serve as samples of a model that is perfect except
for a known damage. Held-out subjects are drawn repeatedly from the others, and the axes of the stage `metrics` evaluate
the same samples against each draw. The table shows how much a metric varies with the choice of held-out subjects, and
which damages it detects beyond that variation. 20 minutes on one core.

Columns:
    mean, sd: of the value over draws.
    detected: share of draws with a value worse than 95 % of the undamaged samples' values over draws of as many
        subjects; for two-sided metrics, outside their central 95 %.
    paired: mean difference to undamaged samples against the same subjects, in sd of that difference over draws; n/a
        if the difference is equal in all draws.
    covered, covered_all (undamaged samples): share of intervals that contain the mean over draws, and the value
        against all held-out subjects together. FID, precision and recall are biased by the number of slices, so
        their covered_all is low.
    width (undamaged samples): mean width of the interval relative to that of a normal distribution with the same sd;
        below 1 is too narrow.

Values of lpips_diversity are differences to that of the held-out subjects.
"""

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from power_cohort import SliceFeatures, cohort_store, cohort_study, split
from power_damages import DAMAGES, damaged
from tqdm import tqdm

from slimdiff.config import Study
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.axes import image, mask
from slimdiff.evaluation.axes.control import control_axis
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.mask import mask_axis
from slimdiff.evaluation.axes.pair import pair_axis
from slimdiff.evaluation.evaluate import AXES as AXIS_FUNCTIONS
from slimdiff.evaluation.evaluate import slices_as_samples
from slimdiff.evaluation.registry import better
from slimdiff.files import write_table

METRICS = (
    "kid",
    "fid",
    "precision",
    "recall",
    "spectrum",
    "brain_histogram",
    "lpips",
    "lpips_diversity",
    "mmd_mf",
    "mmd_mf_w1",
    "mmd_robust",
    "mmd_pl",
    "mmd_pl_w1",
    "frac_bright_gap",
    "lesion_area_gap",
    "centroid_distance",
    "lesion_left_gap",
)
COLUMNS = (
    "metric",
    "damage",
    "n_held_out",
    "draws",
    "mean",
    "sd",
    "detected",
    "paired",
    "covered",
    "covered_all",
    "width",
)
HELD_OUT, OTHER_SIZES = 17, (8, 34)
# Reduced settings to save time; no tau sweep.
REDUCED = {"bootstrap": 300, "lpips_pairs": 60, "taus": ()}


def image_axis(evaluation) -> None:
    """All metrics of the image axis."""
    for add_metrics in AXIS_FUNCTIONS["image"]:
        add_metrics(evaluation)


# The arrays that each axis depends on: an axis whose arrays are undamaged is not evaluated again.
AXES = {
    image_axis: ("images",),
    mask_axis: ("masks",),
    pair_axis: ("images", "masks"),
    control_axis: ("images", "masks"),
}
SEEN = ("images", "masks")
NORMAL_WIDTH = 2 * 1.959964  # of a central 95 % interval, in sd
LEVEL = 0.05

Measured = dict[str, np.ndarray]
"""metric: (draws, 3) value, lower and upper end of its interval."""


class Bench:
    """Evaluates the samples against drawn subjects."""

    def __init__(self, study: Study, store: SliceStore, training: int, seed: int):
        # Skip the rows of single z-bins.
        self.store = replace(store, facts={**store.facts, "n_bins": 0})
        self.config = study.evaluation.model_copy(update=REDUCED)
        self.features, self.seed = SliceFeatures(), seed
        trained, self.pool = split(store, training, seed)
        self.rows = store.rows_of(trained)
        self.samples = slices_as_samples(store, self.rows)

    def draws(self, held_out: int, count: int) -> list[np.ndarray]:
        """Store rows of `held_out` random subjects, `count` times; the first draws do not depend on `count`.

        Raises ValueError if there are too few subjects.
        """
        if held_out > len(self.pool):
            raise ValueError(
                f"expected at most {len(self.pool)} held-out subjects, found {held_out}; raise --patients"
            )
        rng = np.random.default_rng([self.seed, held_out])
        return [
            self.store.rows_of(rng.choice(self.pool, held_out, replace=False).tolist()) for _ in range(count)
        ]

    def measure(self, damage: str, draws: list[np.ndarray], undamaged: Measured | None = None) -> Measured:
        """Every metric of damaged samples against each draw; undamaged: result for the same draws without damage."""
        samples = damaged(damage, self.samples, self.store.participant[self.rows], self.seed)
        changed = [name for name in SEEN if getattr(samples, name) is not getattr(self.samples, name)]
        axes = [axis for axis, seen in AXES.items() if undamaged is None or set(seen) & set(changed)]
        found = defaultdict(list)
        for test in tqdm(draws, desc=damage, unit="draw"):
            # No training slices, so no floors: the undamaged samples are the training slices.
            names = {"study": "metric_power", "variant": damage, "fold": 0}
            # The smallest share of a cell would leave few of these slices, and another number for every draw.
            cell = FoldEvaluation(
                self.store,
                test,
                np.empty(0, np.int64),
                samples,
                self.config,
                self.features,
                names,
                exact_mix=False,
            )
            for axis in axes:
                axis(cell)
            rows = {row["metric"]: row for row in cell.rows}
            for metric in rows.keys() & set(METRICS):
                found[metric].append(_numbers(rows[metric]))
        kept = {metric: values[: len(draws)] for metric, values in (undamaged or {}).items()}
        return {**kept, **{metric: np.array(values) for metric, values in found.items()}}


def _numbers(row: dict) -> list[float]:
    if row["metric"] == "lpips_diversity":
        # Its interval is over samples. The difference to the held-out subjects' diversity is used instead.
        return [row["value"] - row["floor"], np.nan, np.nan]
    return [row[key] for key in ("value", "ci_low", "ci_high")]


def is_worse(values: np.ndarray, null: np.ndarray, way: str) -> np.ndarray:
    """Whether each value is beyond the 95 % quantile of undamaged samples.

    Args:
        values: (N,).
        null: (M,) values of undamaged samples.
        way: the metric's better direction, `lower` or `higher`; anything else: two-sided.
    """
    if way == "lower":
        return values > np.quantile(null, 1 - LEVEL)
    if way == "higher":
        return values < np.quantile(null, LEVEL)
    low, high = np.quantile(null, [LEVEL / 2, 1 - LEVEL / 2])
    return (values < low) | (values > high)


def row_of(
    metric: str, damage: str, held_out: int, found: np.ndarray, null: np.ndarray, against_all: float = np.nan
) -> dict:
    """A line of the table.

    Args:
        found: (draws, 3) value and ends of the interval.
        null: the same for undamaged samples; its first draws are those of `found`.
        against_all: value of undamaged samples against all held-out subjects.
    """
    value, low, high = found.T
    mean, sd = value.mean(), value.std(ddof=1)
    floor = null[: len(found), 0]
    row = {
        "metric": metric,
        "damage": damage,
        "n_held_out": held_out,
        "draws": len(found),
        "mean": float(mean),
        "sd": float(sd),
        "detected": float(is_worse(value, null[:, 0], better(metric)).mean()),
    }
    shift = value - floor
    # For a gap, the held-out subjects' part cancels in the difference, except for rounding.
    if np.ptp(shift) > 1e-9 * np.ptp(value):
        row["paired"] = float(shift.mean() / shift.std(ddof=1))
    if damage == "none" and np.isfinite(low).all():
        for key, truth in (("covered", mean), ("covered_all", against_all)):
            row[key] = float(((low <= truth) & (truth <= high)).mean())
        row["width"] = float((high - low).mean() / (NORMAL_WIDTH * sd))
    return row


def printed(rows: list[dict]) -> None:
    """Print how well each damage is detected, and the values and intervals of undamaged samples."""
    damages = list(dict.fromkeys(row["damage"] for row in rows if row["damage"] != "none"))
    for column, digits in (("detected", 2), ("paired", 1)):
        print(f"\n{column}, {HELD_OUT} held-out subjects")
        for number, damage in enumerate(damages, start=1):
            print(f"  {number}: {damage}")
        print(f"{'':18}", *(f"{number:>5}" for number in range(1, len(damages) + 1)))
        for metric in METRICS:
            own = [row for row in rows if row["metric"] == metric and row["n_held_out"] == HELD_OUT]
            values = {row["damage"]: row.get(column, np.nan) for row in own}
            print(f"{metric:18}", *(f"{values[damage]:5.{digits}f}" for damage in damages))
    print(f"\nundamaged\n{'':18} held out      mean        sd  covered  covered_all  width")
    for row in rows:
        if row["damage"] == "none":
            covered, by_all, width = (row.get(key, np.nan) for key in ("covered", "covered_all", "width"))
            print(
                f"{row['metric']:18} {row['n_held_out']:8} {row['mean']:9.4g} {row['sd']:9.3g} {covered:8.2f} "
                f"{by_all:12.2f} {width:6.2f}"
            )


def main() -> None:
    """Create the cohort, evaluate, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/demo.yaml")
    parser.add_argument("--work", type=Path, default=Path("results/metric_power"), help="scratch folder")
    parser.add_argument("--out", type=Path, default=Path("docs/tables/metric_power.tsv"))
    parser.add_argument("--patients", type=int, default=150)
    parser.add_argument("--training", type=int, default=33, help="subjects whose slices serve as samples")
    parser.add_argument("--draws", type=int, default=20, help="draws of held-out subjects per damage")
    parser.add_argument("--undamaged", type=int, default=40, help="draws for undamaged samples")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Fewer resamples to save time, and no p of the robust MMD.
    image.SLOW_BOOTSTRAP, mask.PERMUTATIONS = 60, 0
    start = time.process_time()
    study = cohort_study(options.config, options.work, options.patients)
    store = cohort_store(study)
    bench = Bench(study, store, options.training, options.seed)
    rows, against_all = [], bench.measure("none", [store.rows_of(bench.pool.tolist())])
    for held_out in (HELD_OUT, *OTHER_SIZES):
        draws = bench.draws(held_out, max(options.undamaged, options.draws))
        null = bench.measure("none", draws)
        rows += [
            row_of(metric, "none", held_out, null[metric], null[metric], against_all[metric][0, 0])
            for metric in METRICS
        ]
        for damage in DAMAGES if held_out == HELD_OUT else ():
            if damage != "none":
                found = bench.measure(damage, draws[: options.draws], null)
                rows += [row_of(metric, damage, held_out, found[metric], null[metric]) for metric in METRICS]
    rows.sort(key=lambda row: METRICS.index(row["metric"]))
    write_table(options.out, rows, COLUMNS, sealed=False)
    printed(rows)
    print(f"{time.process_time() - start:.0f} s of processor time", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
