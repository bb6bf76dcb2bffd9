"""Reading the tables of other stages as frames: metrics, closest training slices, training and validation losses."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slimdiff.config import StudyPaths
from slimdiff.dataframes import read_frame
from slimdiff.evaluation.registry import order
from slimdiff.files import MISSING

METRIC_NUMBERS = ("fold", "value", "ci_low", "ci_high", "floor")
METRIC_COLUMNS = (
    "variant",
    "z_bin",
    "metric",
    "extractor",
    "n",
    "reason",
    "interval_reason",
    *METRIC_NUMBERS,
)
HISTORY = ("step", "loss_image", "loss_mask", "learning_rate", "images_per_s")
VALIDATION = ("step", "loss_image", "loss_mask", "kid", "memorisation_ratio")


def read_metrics(path: Path) -> pd.DataFrame:
    """One `metrics.tsv` or `utility.tsv`: METRIC_COLUMNS; z_bin is NaN over all z-bins, text is empty for n/a."""
    frame = read_frame(path, METRIC_COLUMNS, METRIC_NUMBERS)[list(METRIC_COLUMNS)]
    text = ["extractor", "reason", "interval_reason"]
    frame[text] = frame[text].where(frame[text] != MISSING, "")
    frame["z_bin"] = frame["z_bin"].where(frame["z_bin"] != "all").astype(float)
    return frame.astype({"fold": int})


def all_metrics(paths: StudyPaths, variants: Sequence[str], folds: int, utility: bool = True) -> pd.DataFrame:
    """Metrics of every variant and fold; utility: with utility.tsv where there is one."""
    tables = [
        read_metrics(table)
        for variant in variants
        for fold in range(folds)
        for table in paths.results(variant, fold, utility)
    ]
    return pd.concat(tables, ignore_index=True)


def by_metric(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """(metric, extractor) with its rows, in the order of all tables; extractors are never pooled."""
    groups = dict(list(rows.groupby(["metric", "extractor"])))
    return [(key, groups[key]) for key in sorted(groups, key=lambda key: (order(key[0]), key[1]))]


def reason_of_missing(row) -> str:
    """Why the value of a row of `read_metrics` is n/a."""
    return row.reason or ("nothing to measure, n = 0" if row.n == "0" else "no reason is given")


def read_neighbours(paths: StudyPaths, variant: str, folds: int) -> pd.DataFrame:
    """The closest training slice of each sample in each space; samples without one in their z-bin are left out.

    Columns: fold, space, sample (row in the order of `read_samples`), z_bin, train_row (row in the slice store),
    train_participant, distance, threshold, flagged (bool).
    """
    numbers = ("sample", "z_bin", "train_row", "distance", "threshold", "flagged")
    frame = _over_folds(paths, variant, folds, "nearest.tsv", ("train_participant", "space"), numbers)
    frame = frame.dropna(subset=["train_row", "distance"])
    return frame.astype({"sample": int, "z_bin": int, "train_row": int, "flagged": bool})


def read_outliers(paths: StudyPaths, variant: str, folds: int) -> pd.DataFrame:
    """The score of each sample: fold, id, z_bin, score (NaN: none), limit, outlier (bool), why."""
    numbers = ("z_bin", "score", "limit", "outlier")
    frame = _over_folds(paths, variant, folds, "outliers.tsv", ("id", "why"), numbers)
    return frame.astype({"z_bin": int, "outlier": bool})


def read_training_subjects(paths: StudyPaths, variant: str, folds: int) -> pd.DataFrame:
    """How often each training subject has the slice that is closest to a sample.

    Columns: fold, space, participant, n_nearest, n_suspects, and expected: what n_nearest would be if every training
    slice of a sample's z-bin were equally likely.
    """
    numbers = ("n_nearest", "expected_share", "n_suspects")
    frame = _over_folds(paths, variant, folds, "memorisation_subjects.tsv", ("space", "participant"), numbers)
    samples = frame.groupby(["fold", "space"])["n_nearest"].transform("sum")
    # Without a sample there is no share either, and none is expected.
    frame["expected"] = (samples * frame["expected_share"]).where(samples > 0, 0.0)
    return frame


def _over_folds(
    paths: StudyPaths, variant: str, folds: int, name: str, text: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """A table of every fold's metrics folder, with a column `fold`."""
    columns = [*text, *numbers]
    tables = [
        read_frame(paths.metrics(variant, fold) / name, columns, numbers)[columns].assign(fold=fold)
        for fold in range(folds)
    ]
    return pd.concat(tables, ignore_index=True)


def read_history(paths: StudyPaths, variants: Sequence[str], folds: int) -> pd.DataFrame:
    """`history.tsv` of every variant and fold: variant, fold and HISTORY; no row where no step was trained."""
    return _over_models(paths, variants, folds, "history.tsv", HISTORY)


def read_validation(paths: StudyPaths, variants: Sequence[str], folds: int) -> pd.DataFrame:
    """`validation.tsv` of every variant and fold, of the first moving average: variant, fold and VALIDATION."""
    frame = _over_models(paths, variants, folds, "validation.tsv", ("ema_decay", *VALIDATION))
    first = frame.groupby(["variant", "fold"])["ema_decay"].transform("first")
    return frame[frame["ema_decay"] == first]


def _over_models(
    paths: StudyPaths, variants: Sequence[str], folds: int, name: str, numbers: Sequence[str]
) -> pd.DataFrame:
    tables = [
        read_frame(paths.model(variant, fold) / name, numbers, numbers)[list(numbers)].assign(
            variant=variant, fold=fold
        )
        for variant in variants
        for fold in range(folds)
    ]
    return pd.concat(tables, ignore_index=True)
