"""All figures of a study: `figures/*.png` (slices) and `figures/*.svg` (plots)."""

from collections.abc import Sequence

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_included
from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import read_samples
from slimdiff.report import curves, nearest, slices
from slimdiff.report.lesions import lesion_sheet
from slimdiff.report.outliers import outlier_sheet
from slimdiff.report.results import (
    all_metrics,
    read_history,
    read_neighbours,
    read_outliers,
    read_training_subjects,
    read_validation,
)
from slimdiff.report.style import figure_style, save

SHOWN_FOLD = 0
COLUMNS_PER_BIN = 2
"""Real and synthetic slices of each kind shown per z-bin."""
NEAREST_PAIRS = 8
"""Closest pairs of synthetic and training slice shown."""
HIGHEST_SCORES = 24
"""Samples shown on the sheet of outliers."""


def draw_lesions(study: Study, variants: Sequence[str], folds: int) -> None:
    """Draw `lesions_{variant}.svg`: places, sizes and shapes of lesions, and the effect of the threshold tau."""
    paths, report = study.paths, study.report
    store = SliceStore.open(paths.store)
    parts = read_folds(paths.folds, SHOWN_FOLD)
    with figure_style():
        for variant in variants:
            rows = all_metrics(paths, [variant], folds)
            samples = read_samples(paths.samples(variant, SHOWN_FOLD), store.n_bins, on_disk=True)
            sheet = lesion_sheet(
                paths, store, parts, samples, rows, variant, folds, SHOWN_FOLD, study.evaluation.tau
            )
            save(sheet, paths.figures / f"lesions_{variant}.svg", report.notice, report.dpi, study.study)


def draw_all(study: Study, variants: Sequence[str], folds: int) -> None:
    """Draw and write every figure of these variants and folds."""
    paths, report = study.paths, study.report
    store = SliceStore.open(paths.store)

    def write(figure, name: str) -> None:
        save(figure, paths.figures / name, report.notice, report.dpi, study.study)

    draw_lesions(study, variants, folds)
    with figure_style():
        write(
            slices.cohort(store, read_included(paths.participants, paths.volume_json), report.dpi),
            "data.png",
        )
        history, validation = (read(paths, variants, folds) for read in (read_history, read_validation))
        write(curves.training(history, validation, variants, folds, "Training"), "training.svg")
        rows = all_metrics(paths, variants, folds, study.utility.enabled)
        write(
            curves.by_variant(rows, variants, folds, "Metrics by variant and fold"),
            "metrics_by_variant.svg",
        )
        held_out = read_folds(paths.folds, SHOWN_FOLD)["test"]
        for variant in variants:
            samples = {
                fold: read_samples(paths.samples(variant, fold), store.n_bins, on_disk=True)
                for fold in range(folds)
            }
            tau = study.evaluation.tau
            title = f"Held-out and synthetic slices by z-bin: {variant}, fold {SHOWN_FOLD}"
            sheet = slices.real_and_synthetic(
                store, held_out, samples[SHOWN_FOLD], COLUMNS_PER_BIN, report.dpi, tau, title
            )
            write(sheet, f"samples_{variant}.png")
            write(
                curves.by_z_bin(rows, variant, folds, f"Metrics by z-bin: {variant}"),
                f"metrics_by_zbin_{variant}.svg",
            )
            neighbours = read_neighbours(paths, variant, folds)
            title = f"Closest training slices: {variant}, all folds"
            subjects = read_training_subjects(paths, variant, folds)
            own = rows[rows["variant"] == variant]
            sheet = nearest.nearest_sheet(
                store, samples, neighbours, subjects, own, NEAREST_PAIRS, report.dpi, tau, title
            )
            write(sheet, f"nearest_{variant}.png")
            scored, title = read_outliers(paths, variant, folds), f"Outliers: {variant}, all folds"
            sheet = outlier_sheet(store, samples, scored, HIGHEST_SCORES, report.dpi, tau, title)
            write(sheet, f"outliers_{variant}.png")
