"""Metrics of one variant and fold, beside their floors and intervals, and their summary over folds.

Writes into `metrics/{variant}/fold-{k}/`: `metrics.tsv` (tidy), `lesions.tsv` (shape and place of every lesion),
`tau_sweep.tsv` (mask metrics by threshold), `nearest.tsv` (the closest training slice of every sample in every space),
`flagged.tsv` (those of its rows that may be copies), `memorisation_subjects.tsv` (how often each training subject is
the closest); and `metrics/summary.tsv`. The real reference is the fold's test part, never training slices; the floor
of a metric is the same metric between training and test subjects.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
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
from slimdiff.evaluation.axes.image import (
    feature_distances,
    lpips_distances,
    profile_distances,
    published_distances,
)
from slimdiff.evaluation.axes.mask import LESION_COLUMNS, SWEEP_COLUMNS, mask_axis
from slimdiff.evaluation.axes.memorisation import memorisation_axis
from slimdiff.evaluation.axes.pair import pair_axis
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.statistics.bootstrap import fold_summary
from slimdiff.files import write_table
from slimdiff.generation.samples import Samples, read_samples
from slimdiff.tables import read_frame, write_frame

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
    "reason",
)
AXES = {
    "image": (feature_distances, profile_distances, lpips_distances, published_distances),
    "mask": (mask_axis,),
    "pair": (pair_axis,),
    "control": (control_axis,),
    "memorisation": (memorisation_axis,),
}
"""Axis to the functions that add its metrics."""
BASELINE_AXES = ("image", "mask", "pair", "control")


def evaluate(evaluation: FoldEvaluation, axes: Sequence[str] = tuple(AXES)) -> FoldEvaluation:
    """Add the metrics of these axes to the evaluation's rows."""
    for axis in tqdm(axes, desc="metrics", unit="axis"):
        for add_metrics in AXES[axis]:
            add_metrics(evaluation)
    return evaluation


def evaluation_of_samples(study: Study, variant: str, fold: int) -> FoldEvaluation:
    """The samples of one variant and fold, ready for `evaluate`."""
    folder = study.paths.samples(variant, fold)
    return _open(study, variant, fold, lambda store, train: read_samples(folder, store.n_bins))


def evaluation_of_training_slices(study: Study, fold: int) -> FoldEvaluation:
    """The training subjects' slices instead of samples, ready for `evaluate`: what a floor is, with its own interval.

    All training slices count, so numbers differ a little from the floors beside samples, which have the samples' mix.
    Memorisation is no part of it (BASELINE_AXES): training slices are their own nearest ones.
    """
    return _open(study, REAL, fold, slices_as_samples)


def slices_as_samples(store: SliceStore, rows: np.ndarray) -> Samples:
    """Real slices in the form of samples."""
    return Samples(
        np.asarray(store.images[rows]),
        (2 * np.asarray(store.masks[rows], np.float16) - 1),
        store.z_bin[rows],
        store.label[rows],
        np.array([f"{store.participant[row]}_z{store.z[row]:03d}" for row in rows]),
    )


def _open(
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
    folder: Path, evaluation: FoldEvaluation, axes: Sequence[str], ending: str | None = None
) -> None:
    """Write the tables of these axes, `metrics.tsv` last.

    ending: of the file names before `.tsv`; None: nothing if all axes are there, else the names of the axes, so that
    some axes alone leave the workflow's own tables as they are.
    """
    if ending is None:
        ending = "" if tuple(axes) == tuple(AXES) else f"-{'-'.join(axes)}"
    for axis, name, rows, columns in (
        ("mask", "tau_sweep", evaluation.tau_sweep, SWEEP_COLUMNS),
        ("mask", "lesions", evaluation.lesions, LESION_COLUMNS),
        ("memorisation", "nearest", evaluation.nearest, NEAREST_COLUMNS),
        ("memorisation", "flagged", evaluation.flagged, FLAGGED_COLUMNS),
        ("memorisation", "memorisation_subjects", evaluation.training_subjects, TRAINING_SUBJECT_COLUMNS),
    ):
        if axis in axes:
            write_table(folder / f"{name}{ending}.tsv", rows, columns)
    write_table(folder / f"metrics{ending}.tsv", evaluation.rows, COLUMNS)


def summarise(paths: StudyPaths, variants: list[str], folds: int, utility: bool = True) -> None:
    """Write `metrics/summary.tsv`: mean and sd (ddof 1) of every metric over folds.

    utility: with the scores of segmenters, where there are any.
    """
    numbers = ("value", "floor")
    tables = [
        read_frame(table, COLUMNS, numbers)
        for variant in variants
        for fold in range(folds)
        for table in paths.results(variant, fold, utility)
    ]
    keys = ["study", "variant", "z_bin", "metric", "extractor"]
    rows = []
    for key, group in pd.concat(tables).groupby(keys, sort=False):
        value, floor = (fold_summary(group[column].tolist()) for column in numbers)
        reason = "" if value.n > 1 else f"{value.n} fold with a number: no spread"
        facts = (value.n, value.mean, value.sd, floor.mean, reason)
        rows.append(dict(zip(SUMMARY_COLUMNS, (*key, *facts), strict=True)))
    write_frame(paths.summary, pd.DataFrame(rows), SUMMARY_COLUMNS)
