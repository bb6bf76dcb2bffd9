"""Metrics of one variant and fold with floors and intervals.

The real set is always the fold's held-out test subjects. The floor of a metric is the same metric between training
and test subjects. Samples and training slices have the held-out slices' mix of z-bins and classes (`axes.mix`). The
files in `metrics/{variant}/fold-{k}/` are:

- `metrics.tsv`: all metrics, one row per metric, extractor and z-bin;
- `lesions.tsv`: shape and position of every lesion that the mask metrics compare;
- `tau_sweep.tsv`: mask metrics by threshold;
- `nearest.tsv`: the nearest training slice of every sample, in every space;
- `flagged.tsv`: the rows of `nearest.tsv` that may be copies;
- `memorisation_subjects.tsv`: how often each training subject is the nearest;
- `outliers.tsv`: how much every sample deviates from real slices and from other samples, the most first;
- `by_site.tsv`: distances between the samples and the held-out slices of each site and acquisition.

The summary over folds, `metrics/summary.tsv`, is of `compare`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slimdiff.config import Study
from slimdiff.config.paths import REAL
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_participants
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.axes.control import control_axis
from slimdiff.evaluation.axes.fold_evaluation import (
    FLAGGED_COLUMNS,
    NEAREST_COLUMNS,
    TRAINING_SUBJECT_COLUMNS,
    FoldEvaluation,
)
from slimdiff.evaluation.axes.image import (
    feature_distances,
    lpips_distances,
    outline_shares,
    profile_distances,
    published_distances,
)
from slimdiff.evaluation.axes.mask import LESION_COLUMNS, SWEEP_COLUMNS, mask_axis
from slimdiff.evaluation.axes.memorisation import memorisation_axis
from slimdiff.evaluation.axes.outliers import OUTLIER_COLUMNS, outlier_axis
from slimdiff.evaluation.axes.pair import pair_axis
from slimdiff.evaluation.axes.sites import BY_SITE_COLUMNS, site_axis
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.registry import COLUMNS
from slimdiff.files import write_table
from slimdiff.generation.samples import Samples, read_samples

AXES = {
    "image": (feature_distances, profile_distances, outline_shares, lpips_distances, published_distances),
    "mask": (mask_axis,),
    "pair": (pair_axis,),
    "control": (control_axis,),
    "memorisation": (memorisation_axis,),
    "outliers": (outlier_axis,),
    "sites": (site_axis,),
}
"""Axis to the functions that add its metrics."""
BASELINE_AXES = ("image", "mask", "pair", "control")


def evaluate(evaluation: FoldEvaluation, axes: Sequence[str] = tuple(AXES)) -> FoldEvaluation:
    """Add the metrics of these axes to the rows of the evaluation."""
    for axis in tqdm(axes, desc="metrics", unit="axis"):
        for add_metrics in AXES[axis]:
            add_metrics(evaluation)
    return evaluation


def evaluation_of_samples(study: Study, variant: str, fold: int) -> FoldEvaluation:
    """The samples of one variant and fold, ready for `evaluate`."""
    folder = study.paths.samples(variant, fold)
    return _open(study, variant, fold, lambda store, train: read_samples(folder, store.n_bins, on_disk=True))


def evaluation_of_training_slices(study: Study, fold: int) -> FoldEvaluation:
    """Training slices instead of samples, ready for `evaluate`: every floor with its own interval.

    As many training slices are used as the held-out mix allows. The floors in a sample's table use at most as many as
    samples, so their values can differ slightly. Memorisation is left out (BASELINE_AXES), because every training slice
    is its own nearest.
    """
    return replace(_open(study, REAL, fold, slices_as_samples), exact_mix=False)


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
            "expected at least one slice; run slimdiff-cache and slimdiff-kfold again"
        )
    cache = FeatureCache(paths.root / "metrics" / "features")
    names = {"study": study.study, "variant": variant, "fold": fold}
    known = read_participants(paths.participants) if paths.participants.is_file() else []
    sites = {one.participant_id: one.site for one in known}
    return FoldEvaluation(
        store, test, train, samples(store, train), study.evaluation, cache, names, sites=sites
    )


def write_tables(
    folder: Path, evaluation: FoldEvaluation, axes: Sequence[str], ending: str | None = None
) -> None:
    """Write the tables of these axes, `metrics.tsv` last.

    Args:
        folder: where the tables are written.
        evaluation: the evaluation whose rows are written.
        axes: axes whose tables are written.
        ending: suffix of the file names before `.tsv`. None (default): empty for all axes, else the names of the
            axes, so that a run of some axes does not overwrite the tables of the workflow.
    """
    if ending is None:
        ending = "" if tuple(axes) == tuple(AXES) else f"-{'-'.join(axes)}"
    for axis, name, rows, columns in (
        ("mask", "tau_sweep", evaluation.tau_sweep, SWEEP_COLUMNS),
        ("mask", "lesions", evaluation.lesions, LESION_COLUMNS),
        ("memorisation", "nearest", evaluation.nearest, NEAREST_COLUMNS),
        ("memorisation", "flagged", evaluation.flagged, FLAGGED_COLUMNS),
        ("memorisation", "memorisation_subjects", evaluation.training_subjects, TRAINING_SUBJECT_COLUMNS),
        ("outliers", "outliers", evaluation.outliers, OUTLIER_COLUMNS),
        ("sites", "by_site", evaluation.by_site, BY_SITE_COLUMNS),
    ):
        if axis in axes:
            write_table(folder / f"{name}{ending}.tsv", rows, columns)
    write_table(folder / f"metrics{ending}.tsv", evaluation.rows, COLUMNS)
