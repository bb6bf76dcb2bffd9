"""The export of a study, for each variant, fold and format."""

from collections.abc import Sequence

from slimdiff.config import Study
from slimdiff.config.export import Format
from slimdiff.data.store import SliceStore
from slimdiff.export import bids, monai, nnunet, png
from slimdiff.export.cases import ModelSamples

WRITERS = {"bids": bids.write, "nnunet": nnunet.write, "monai": monai.write, "png": png.write}


def export_study(
    study: Study, variants: Sequence[str], folds: Sequence[int], formats: Sequence[Format] | None = None
) -> None:
    """Write the export of these variants and folds below `export/`; an earlier export there is replaced.

    formats: some of bids, nnunet, monai, png; None: `export.formats`.
    Raises ValueError for an unknown name, and FileNotFoundError, FileExistsError or DataError with the file.
    """
    formats = study.export.formats if formats is None else formats
    for kind, names, allowed in (("variant", variants, study.variants), ("format", formats, WRITERS)):
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
                print(f"{form}: {WRITERS[form](model)}", flush=True)
