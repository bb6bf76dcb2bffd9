"""Train segmenters on samples, and on real slices with samples, and compare their scores on held-out subjects."""

from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "segmenter"
NEEDS = (
    "utility",
    "evaluation.tau",
    "evaluation.min_component_mm2",
    "evaluation.bootstrap",
    "evaluation.seed",
)
WILDCARDS = ("variant", "fold")


def outputs(paths: StudyPaths, variant: str = "{variant}", fold: int | str = "{fold}") -> list[Path]:
    return [paths.utility(variant, fold), paths.utility_subjects(variant, fold)]


def run(study, options) -> None:
    from slimdiff.evaluation.utility.utility import evaluate_utility

    for variant, fold in options.runs:
        evaluate_utility(study.variant(variant), variant, fold)
