"""A phantom cohort large enough for repeated draws of held-out subjects, and features of its slices."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff import cli
from slimdiff.config import Study, load_study
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.features import extract
from slimdiff.stored_rows import Rows

STAGES = ("phantom", "participants", "preprocess", "cache")


def cohort_study(config: str, work: Path, patients: int) -> Study:
    """The study with `patients` phantom patients, no controls, and results under `work`."""
    study = load_study(config)
    phantom = study.data.phantom.model_copy(update={"patients": patients, "controls": 0})
    data = study.data.model_copy(update={"phantom": phantom})
    changes = {"study": f"phantoms{patients}", "results_dir": str(work), "data": data}
    return study.model_copy(update=changes)


def cohort_store(study: Study) -> SliceStore:
    """The slice store of all phantom patients; see `stored`."""
    return stored(study, STAGES)


def stored(study: Study, stages: Sequence[str]) -> SliceStore:
    """The slice store of a study, built by these commands; an existing store is reused.

    Raises RuntimeError if a command fails.
    """
    if not (study.paths.store / "store.json").is_file():
        text = json.dumps(study.model_dump(mode="json"))
        for stage in stages:
            if cli.main([stage, "--config", text]):
                raise RuntimeError(f"{study.paths.root}: slimdiff-{stage} failed")
    return SliceStore.open(study.paths.store)


def split(store: SliceStore, training: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`training` random subjects that serve as samples, and the remaining subjects; both sorted.

    Raises ValueError if either part would be empty.
    """
    subjects = np.unique(store.participant)
    if not 0 < training < len(subjects):
        raise ValueError(
            f"expected 1 to {len(subjects) - 1} training subjects of {len(subjects)}, found {training}"
        )
    order = np.random.default_rng(seed).permutation(subjects)
    return np.sort(order[:training]), np.sort(order[training:])


class SliceFeatures:
    """Caches features per slice; used instead of `FeatureCache`, which caches whole sets only."""

    def __init__(self):
        self._known: dict[tuple[str, bytes], np.ndarray] = {}

    def extract(self, images: np.ndarray, extractor: str, **settings) -> np.ndarray:
        """As `features.extract`: (N, H, W) uint8 to (N, D) float32."""
        if not len(images):
            return extract(images, extractor, progress=False, **settings)
        keys = [(extractor, image.tobytes()) for image in images]
        wanting = {key: row for row, key in enumerate(keys) if key not in self._known}
        if wanting:
            found = extract(images[list(wanting.values())], extractor, progress=False, **settings)
            self._known.update(zip(wanting, found, strict=True))
        return np.stack([self._known[key] for key in keys])

    def stored(self, images: np.ndarray | Rows, extractor: str, **settings) -> np.ndarray:
        """As `FeatureCache.stored`, in memory."""
        return self.extract(images[:], extractor, **settings)
