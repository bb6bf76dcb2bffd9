"""Write the z-bin priors of one fold (or all folds): where its training subjects have brain."""

import sys
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
    from slimdiff.data.store import FEWEST_LESION_SUBJECTS, SliceStore

    store = SliceStore.open(study.paths.store)
    for fold in options.runs:
        train = read_folds(study.paths.folds, fold)["train"]
        if few := store.few_lesions(train):
            print(
                f"fold {fold}: z-bins in which fewer than {FEWEST_LESION_SUBJECTS} training subjects have a lesion "
                f"(number of subjects): {few}; class-1 samples are drawn there only with generation.where: everywhere, "
                "and copy one subject, or lesions of other z-bins",
                file=sys.stderr,
            )
        rows = store.rows_of(train)
        images = np.asarray(store.images[rows])
        priors = z_bin_priors(images, store.z_bin[rows], store.n_bins, store.spacing_mm)
        write_priors(study.paths.prior(fold), priors)
