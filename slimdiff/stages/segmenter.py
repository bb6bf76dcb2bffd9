"""Train the segmenters of real slices of one fold (or all folds), which samples are compared with."""

from pathlib import Path

from slimdiff.config import Study, StudyPaths

FOLLOWS = "metrics"
NEEDS = (
    "utility.shares",
    "utility.channels",
    "utility.patch",
    "utility.steps",
    "utility.batch_size",
    "utility.learning_rate",
    "utility.device",
    "utility.seed",
    "evaluation.min_component_mm2",
)
WILDCARDS = ("fold",)


def outputs(paths: StudyPaths, study: Study, fold: int | str = "{fold}") -> list[Path]:
    """A segmenter per share of the training subjects, and the scores of each held-out subject."""
    segmenters = [paths.segmenter(fold, percent) for percent in study.utility.percents]
    return [*segmenters, paths.utility_subjects("real", fold)]


def run(study, options) -> None:
    from slimdiff.evaluation.utility.utility import train_on_real

    for fold in options.runs:
        train_on_real(study, fold)
