"""Write real and synthetic slices for segmentation tools: BIDS derivatives, nnU-Net and MONAI datasets, PNG pairs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.config import Study, StudyPaths
from slimdiff.config.data import MODALITY

FOLLOWS = "provenance"
NEEDS = (
    *MODALITY,
    "preprocess",
    "export",
    "variants",
    "folds.k",
    "folds.use_split",
    "report.notice",
    "report.licence",
)
FORMATS = ("bids", "nnunet", "monai", "png")
"""Each is a module of `slimdiff.export` with a function `write`."""


def outputs(paths: StudyPaths, study: Study) -> list[Path]:
    """An index file for every format, variant and fold."""
    from slimdiff.export.folder import index_file

    return [Path(index_file(study, form, *run)) for run in study.runs() for form in study.export.formats]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", metavar="NAME", help="one variant (default: all)")
    parser.add_argument("--fold", type=int, metavar="K", help="one fold (default: all)")
    parser.add_argument("--format", nargs="+", choices=FORMATS, help="only these (default: export.formats)")


def run(study, options) -> None:
    variants = [options.variant] if options.variant else list(study.variants)
    folds = list(range(study.folds.k)) if options.fold is None else [options.fold]
    export_study(study, variants, folds, options.format)


def export_study(
    study: Study, variants: Sequence[str], folds: Sequence[int], formats: Sequence[str] | None = None
) -> None:
    """Write the export of these variants and folds below `export/`; an earlier export there is replaced.

    formats: some of `FORMATS`; None: `export.formats`.
    Raises ValueError for an unknown name, and FileNotFoundError, FileExistsError or DataError with the file.
    """
    from slimdiff.data.store import SliceStore
    from slimdiff.export import bids, monai, nnunet, png
    from slimdiff.export.cases import ModelSamples

    writers = dict(zip(FORMATS, (bids, nnunet, monai, png), strict=True))
    formats = study.export.formats if formats is None else formats
    for kind, names, allowed in (("variant", variants, study.variants), ("format", formats, FORMATS)):
        for name in names:
            if name not in allowed:
                raise ValueError(f"no {kind} {name!r}; expected one of {', '.join(allowed)}")
    for fold in folds:
        if not 0 <= fold < study.folds.k:
            raise ValueError(f"no fold {fold}; expected 0 to {study.folds.k - 1}")
    store = SliceStore.open(study.paths.store)
    for variant in variants:
        for fold in folds:
            model = ModelSamples.open(study, variant, fold, store)
            for form in formats:
                print(f"{form}: {writers[form].write(model)}", flush=True)
