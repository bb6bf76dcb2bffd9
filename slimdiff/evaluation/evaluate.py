"""Metrics of one variant and fold, beside their floors and intervals, and their summary over folds.

Writes `metrics/{variant}/fold-{k}/metrics.tsv` (tidy), `nearest.tsv` (the closest training slice of every sample in
every space), and `metrics/summary.tsv`. The real reference is the fold's test part, never training slices; the floor
of a metric is the same metric between training and test subjects.
"""

from pathlib import Path

from tqdm import tqdm

from slimdiff.config import Study, StudyPaths
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation import statistics
from slimdiff.evaluation.axes_image import image_axis
from slimdiff.evaluation.axes_lesion import control_axis, mask_axis, pair_axis
from slimdiff.evaluation.axes_memorisation import memorisation_axis
from slimdiff.evaluation.cell import COLUMNS, NEAREST_COLUMNS, Cell
from slimdiff.evaluation.features import FeatureCache
from slimdiff.files import MISSING, read_table, write_table
from slimdiff.generation.samples import read_samples

SUMMARY_COLUMNS = (
    "study",
    "variant",
    "z_bin",
    "metric",
    "extractor",
    "folds",
    "mean",
    "sd",
    "floor_mean",
    "note",
)
AXES = ("image", "mask", "pair", "control", "memorisation")

_AXIS = {
    "image": image_axis,
    "mask": mask_axis,
    "pair": pair_axis,
    "control": control_axis,
    "memorisation": memorisation_axis,
}


def evaluate(cell: Cell, axes: tuple[str, ...] = AXES) -> Cell:
    """Run the axes on a cell; fills its rows."""
    for axis in tqdm(axes, desc="metrics", unit="axis"):
        _AXIS[axis](cell)
    return cell


def evaluate_cell(study: Study, variant: str, fold: int, axes: tuple[str, ...] = AXES) -> None:
    """Judge the samples of one variant and fold and write its tables."""
    paths = study.paths
    store = SliceStore.open(paths.store)
    parts = read_folds(paths.folds, fold)
    cell = Cell(
        store,
        store.rows_of(parts["test"]),
        store.rows_of(parts["train"]),
        read_samples(paths.samples(variant, fold), store.n_bins),
        study.evaluation,
        FeatureCache(paths.root / "metrics" / "features"),
        {"study": study.study, "variant": variant, "fold": fold},
    )
    evaluate(cell, axes)
    folder = paths.metrics(variant, fold)
    # Some axes alone leave the workflow's own tables as they are.
    ending = "" if tuple(axes) == AXES else f"-{'-'.join(axes)}"
    if "memorisation" in axes:
        write_table(folder / f"nearest{ending}.tsv", cell.nearest, NEAREST_COLUMNS)
    write_table(folder / f"metrics{ending}.tsv", cell.rows, COLUMNS)


def summarise(paths: StudyPaths, variants: list[str], folds: int) -> None:
    """Join the folds' tables into `metrics/summary.tsv`: mean and sd (ddof 1) over folds."""
    rows = []
    for variant in variants:
        by_key: dict[tuple, list[dict]] = {}
        for fold in range(folds):
            for row in read_table(Path(paths.metrics(variant, fold)) / "metrics.tsv", COLUMNS):
                by_key.setdefault((row["study"], row["z_bin"], row["metric"], row["extractor"]), []).append(
                    row
                )
        for (study, z_bin, metric, extractor), group in by_key.items():
            value = statistics.fold_summary([_number(row["value"]) for row in group])
            floor = statistics.fold_summary([_number(row["floor"]) for row in group])
            note = "" if value.n > 1 else f"{value.n} fold with a number: no spread"
            rows.append(
                {
                    "study": study,
                    "variant": variant,
                    "z_bin": z_bin,
                    "metric": metric,
                    "extractor": extractor,
                    "folds": value.n,
                    "mean": value.mean,
                    "sd": value.sd,
                    "floor_mean": floor.mean,
                    "note": note,
                }
            )
    write_table(paths.summary, rows, SUMMARY_COLUMNS)


def _number(text: str) -> float:
    return float("nan") if text == MISSING else float(text)
