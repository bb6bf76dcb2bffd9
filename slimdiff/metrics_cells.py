"""What `slimdiff-metrics` does: axes of metrics, segmenters, tables over variants and folds, figures of all that."""

from slimdiff.config import Study

AXES = {
    "all": ("image", "mask", "pair", "control", "memorisation"),
    "image-metrics": ("image",),
    "mask-metrics": ("mask", "pair", "control"),
    "feature-nn": ("memorisation",),
}


def run(what: str, study: Study, variant: str | None, fold: int | None) -> None:
    """Do one thing for one variant, one fold, or all.

    what: a word of the command; see `slimdiff-metrics --help`.
    """
    if what in AXES:
        from slimdiff.evaluation.evaluate import evaluate_cell

        for cell in study.cells(variant, fold):
            evaluate_cell(study, *cell, AXES[what])
    elif what in ("baseline", "segmenter"):
        for number in range(study.folds.k) if fold is None else [fold]:
            _of_real_slices(what, study, number)
    elif what == "utility":
        from slimdiff.evaluation.utility.utility import evaluate_utility

        for cell in study.cells(variant, fold):
            evaluate_utility(study.variant(cell[0]), *cell)
    elif what in ("summary", "compare"):
        _over_folds(what, study)
    else:
        _figures(what, study, variant)


def _of_real_slices(what: str, study: Study, fold: int) -> None:
    if what == "baseline":
        from slimdiff.evaluation.evaluate import evaluate_baseline

        evaluate_baseline(study, fold)
    else:
        from slimdiff.evaluation.utility.utility import train_on_real

        train_on_real(study, fold)


def _over_folds(what: str, study: Study) -> None:
    variants, folds = list(study.variants), study.folds.k
    if what == "summary":
        from slimdiff.evaluation.evaluate import summarise

        summarise(study.paths, variants, folds, study.utility.enabled)
    else:
        from slimdiff.evaluation.compare import compare

        compare(study.paths, variants, folds, study.folds.use_split, study.utility.enabled)


def _figures(what: str, study: Study, variant: str | None) -> None:
    from slimdiff.report.figures import draw_all, draw_lesions

    variants = list(study.variants)
    if what == "plot":
        draw_all(study, variants, study.folds.k)
    else:
        draw_lesions(study, [variant] if variant else variants, study.folds.k)
