"""Metrics of one variant and fold, beside their floors and intervals, and their summary over folds.

Writes into `metrics/{variant}/fold-{k}/`: `metrics.tsv` (tidy), `lesions.tsv` (shape and place of every lesion),
`tau_sweep.tsv` (mask metrics by threshold), `nearest.tsv` (the closest training slice of every sample in every space),
`flagged.tsv` (those of its rows that may be copies), `memorisation_subjects.tsv` (how often each training subject is
the closest); and `metrics/summary.tsv`. The real reference is the fold's test part, never training slices; the floor
of a metric is the same metric between training and test subjects.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slimdiff.config import Study, StudyPaths
from slimdiff.config.paths import REAL
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.axes.control import control_axis
from slimdiff.evaluation.axes.fold_evaluation import (
    COLUMNS,
    FLAGGED_COLUMNS,
    NEAREST_COLUMNS,
    TRAINING_SUBJECT_COLUMNS,
    FoldEvaluation,
)
from slimdiff.evaluation.axes.image import image_axis
from slimdiff.evaluation.axes.mask import LESION_COLUMNS, SWEEP_COLUMNS, mask_axis
from slimdiff.evaluation.axes.memorisation import memorisation_axis
from slimdiff.evaluation.axes.pair import pair_axis
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.statistics import bootstrap
from slimdiff.files import MISSING, read_table, write_table
from slimdiff.generation.samples import Samples, read_samples

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


def evaluate(cell: FoldEvaluation, axes: tuple[str, ...] = AXES) -> FoldEvaluation:
    """Run the axes on a cell; fills its rows."""
    for axis in tqdm(axes, desc="metrics", unit="axis"):
        _AXIS[axis](cell)
    return cell


def evaluate_cell(study: Study, variant: str, fold: int, axes: tuple[str, ...] = AXES) -> None:
    """Judge the samples of one variant and fold and write its tables."""
    cell = _cell(
        study,
        variant,
        fold,
        lambda store, train: read_samples(study.paths.samples(variant, fold), store.n_bins),
    )
    write_tables(study.paths.metrics(variant, fold), evaluate(cell, axes), axes)


def evaluate_baseline(study: Study, fold: int) -> None:
    """Judge the training subjects' slices in the place of samples: what a floor is, with an interval of its own.

    Writes `metrics/real/fold-{k}/metrics.tsv` and its tables. All training slices are taken as they come, so numbers
    differ a little from the floors beside samples, which follow the samples' mix. Memorisation is left out: training
    slices are their own nearest ones.
    """
    cell = evaluate(_cell(study, REAL, fold, slices_as_samples), AXES[:-1])
    write_tables(study.paths.metrics(REAL, fold), cell, AXES[:-1], ending="")


def slices_as_samples(store: SliceStore, rows: np.ndarray) -> Samples:
    """Real slices in the form of samples."""
    return Samples(
        np.asarray(store.images[rows]),
        (2 * np.asarray(store.masks[rows], np.float16) - 1),
        store.z_bin[rows],
        store.label[rows],
        np.array([f"{store.participant[row]}_z{store.z[row]:03d}" for row in rows]),
    )


def _cell(
    study: Study, variant: str, fold: int, samples: Callable[[SliceStore, np.ndarray], Samples]
) -> FoldEvaluation:
    paths = study.paths
    store = SliceStore.open(paths.store)
    parts = read_folds(paths.folds, fold)
    test, train = (store.rows_of(parts[split]) for split in ("test", "train"))
    if not len(test):
        raise ValueError(
            f"{paths.folds}: the {len(parts['test'])} test subjects of fold {fold} have no slice in {paths.store}; "
            "without a held-out slice there is nothing to compare with"
        )
    cache = FeatureCache(paths.root / "metrics" / "features")
    names = {"study": study.study, "variant": variant, "fold": fold}
    return FoldEvaluation(store, test, train, samples(store, train), study.evaluation, cache, names)


def write_tables(
    folder: Path, cell: FoldEvaluation, axes: tuple[str, ...], ending: str | None = None
) -> None:
    """Write what the axes found, `metrics.tsv` last.

    ending: of the files' names before `.tsv`; None: some axes alone leave the workflow's own tables as they are, and
    theirs are called after them.
    """
    if ending is None:
        ending = "" if tuple(axes) == AXES else f"-{'-'.join(axes)}"
    for axis, name, rows, columns in (
        ("mask", "tau_sweep", cell.tau_sweep, SWEEP_COLUMNS),
        ("mask", "lesions", cell.lesions, LESION_COLUMNS),
        ("memorisation", "nearest", cell.nearest, NEAREST_COLUMNS),
        ("memorisation", "flagged", cell.flagged, FLAGGED_COLUMNS),
        ("memorisation", "memorisation_subjects", cell.training_subjects, TRAINING_SUBJECT_COLUMNS),
    ):
        if axis in axes:
            write_table(folder / f"{name}{ending}.tsv", rows, columns)
    write_table(folder / f"metrics{ending}.tsv", cell.rows, COLUMNS)


def summarise(paths: StudyPaths, variants: list[str], folds: int, utility: bool = True) -> None:
    """Join the folds' tables into `metrics/summary.tsv`: mean and sd (ddof 1) over folds.

    utility: with that of segmenters, where there are any.
    """
    rows = []
    for variant in variants:
        by_key: dict[tuple, list[dict]] = {}
        for fold in range(folds):
            for table in paths.results(variant, fold, utility):
                for row in read_table(table, COLUMNS):
                    key = row["study"], row["z_bin"], row["metric"], row["extractor"]
                    by_key.setdefault(key, []).append(row)
        for (study, z_bin, metric, extractor), group in by_key.items():
            value = bootstrap.fold_summary([_number(row["value"]) for row in group])
            floor = bootstrap.fold_summary([_number(row["floor"]) for row in group])
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
