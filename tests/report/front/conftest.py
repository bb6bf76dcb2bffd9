"""A tiny phantom study with samples of a known kind, judged by the real metrics."""

import shutil

import numpy as np
import pytest
from helpers.known_samples import FOLDS, PER_CELL, PHANTOM

from slimdiff import cli, weights
from slimdiff.config import study_from_mapping
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.files import write_table
from slimdiff.generation.samples import write_samples
from slimdiff.report.results import HISTORY, VALIDATION


@pytest.fixture(scope="session")
def phantom_study(tmp_path_factory):
    """A function (kind of samples, name of the study, its keys) -> the study after the stage tables.

    It waits for no training: histories are written, samples are drawn by `kind`, all metrics are the real ones.
    """
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"extractor weights: {error}")
    root = tmp_path_factory.mktemp("phantom")
    base = study_from_mapping({**PHANTOM, "results_dir": str(root)})
    for stage in ("phantom", "participants", "quality", "preprocess", "kfold", "cache"):
        assert cli.run_stage(stage, ["--config", base.model_dump_json()]) == 0, stage

    def judged(kind, name, **changes):
        study = study_from_mapping({**PHANTOM, "results_dir": str(root), "study": name, **changes})
        shutil.copytree(base.paths.root, study.paths.root)
        paths, store = study.paths, SliceStore.open(study.paths.store)
        for fold in range(FOLDS):
            rng = np.random.default_rng(fold)
            train = store.rows_of(read_folds(paths.folds, fold)["train"])
            for z_bin in range(store.n_bins):
                rows, names = [], []
                for label in (0, 1):
                    own = train[(store.z_bin[train] == z_bin) & (store.label[train] == label)]
                    drawn = rng.choice(own, min(PER_CELL, len(own)), replace=False)
                    rows += drawn.tolist()
                    names += [
                        {"id": f"b{z_bin}c{label}n{n}", "key": str(n), "z_bin": z_bin, "class": label}
                        for n in range(len(drawn))
                    ]
                images, masks = kind(store, np.array(rows), rng)
                write_samples(paths.samples_stem("base", fold, z_bin), images, masks, names)
            model = paths.model("base", fold)
            for name, columns in (("history", HISTORY), ("validation", (*VALIDATION, "ema_decay"))):
                write_table(model / f"{name}.tsv", [{key: 1 for key in columns}], columns)
        for stage in ("metrics", "compare", "tables"):
            assert cli.run_stage(stage, ["--config", study.model_dump_json()]) == 0, stage
        return study

    return judged
