"""Judge the samples of one variant and fold (or all): image, mask, pair, control, memorisation, outliers, sites."""

import argparse
from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "generate-spec"
NEEDS = ("evaluation",)
WILDCARDS = ("variant", "fold")

AXES = {
    "all": ("image", "mask", "pair", "control", "memorisation", "outliers", "sites"),
    "image-metrics": ("image",),
    "mask-metrics": ("mask", "pair", "control"),
    "feature-nn": ("memorisation",),
    "outliers": ("outliers",),
    "sites": ("sites",),
}
ELSEWHERE = {
    "plot": ("figures",),
    "mask-plot": ("figures", "--lesions-only"),
    "compare": ("compare",),
    "summary": ("compare",),
    "segmenter": ("segmenter",),
    "utility": ("utility",),
}
"""The founding commands' other words after `slimdiff-metrics`, and the stages that do them."""


def outputs(paths: StudyPaths, variant: str = "{variant}", fold: int | str = "{fold}") -> list[Path]:
    tables = (
        "metrics",
        "lesions",
        "tau_sweep",
        "nearest",
        "flagged",
        "memorisation_subjects",
        "outliers",
        "by_site",
    )
    return [paths.metrics(variant, fold) / f"{name}.tsv" for name in tables]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=(*AXES, "baseline", *ELSEWHERE),
        help="all (default), image-metrics, mask-metrics (with pair and control), feature-nn (memorisation), "
        "outliers or sites: these axes; baseline: training slices instead of samples; plot, mask-plot: "
        "slimdiff-figures; compare, summary: slimdiff-compare; segmenter, utility: the stages of these names",
    )


def run(study, options) -> None:
    from slimdiff.config.paths import REAL
    from slimdiff.evaluation.evaluate import (
        BASELINE_AXES,
        evaluate,
        evaluation_of_samples,
        evaluation_of_training_slices,
        write_tables,
    )

    if options.what == "baseline":
        for fold in dict.fromkeys(fold for _, fold in options.runs):
            found = evaluate(evaluation_of_training_slices(study, fold), BASELINE_AXES)
            write_tables(study.paths.metrics(REAL, fold), found, BASELINE_AXES, ending="")
        return
    axes = AXES[options.what]
    for variant, fold in options.runs:
        found = evaluate(evaluation_of_samples(study, variant, fold), axes)
        write_tables(study.paths.metrics(variant, fold), found, axes)
