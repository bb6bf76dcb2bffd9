"""Write the z-bin priors of one fold (or all folds): where its training subjects have brain."""

from pathlib import Path

from slimdiff.config import StudyPaths

FOLLOWS = "cache"
NEEDS = ()
WILDCARDS = ("fold",)


def outputs(paths: StudyPaths, fold: int | str = "{fold}") -> list[Path]:
    return [paths.prior(fold)]


def run(study, options) -> None:
    import numpy as np

    from slimdiff.data.folds import read_folds
    from slimdiff.data.priors import write_priors, z_bin_priors
    from slimdiff.data.store import SliceStore

    store = SliceStore.open(study.paths.store)
    for fold in options.runs:
        rows = store.rows_of(read_folds(study.paths.folds, fold)["train"])
        images = np.asarray(store.images[rows])
        priors = z_bin_priors(images, store.z_bin[rows], store.n_bins, store.spacing_mm)
        write_priors(study.paths.prior(fold), priors)
