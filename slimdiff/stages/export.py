"""Write real and synthetic slices for segmentation tools: BIDS derivatives, nnU-Net and MONAI datasets, PNG pairs."""

import argparse
from pathlib import Path

from slimdiff.config import Study, StudyPaths

FOLLOWS = "provenance"
NEEDS = ("preprocess", "export", "variants", "folds.k", "folds.use_split", "report.notice")
FORMATS = ("bids", "nnunet", "monai", "png")


def outputs(paths: StudyPaths, study: Study) -> list[Path]:
    """An index file for every format, variant and fold."""
    from slimdiff.export.folder import index_file

    return [Path(index_file(study, form, *run)) for run in study.runs() for form in study.export.formats]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", metavar="NAME", help="one variant (default: all)")
    parser.add_argument("--fold", type=int, metavar="K", help="one fold (default: all)")
    parser.add_argument("--format", nargs="+", choices=FORMATS, help="only these (default: export.formats)")


def run(study, options) -> None:
    from slimdiff.export.export import export_study

    variants = [options.variant] if options.variant else list(study.variants)
    folds = list(range(study.folds.k)) if options.fold is None else [options.fold]
    export_study(study, variants, folds, options.format)
