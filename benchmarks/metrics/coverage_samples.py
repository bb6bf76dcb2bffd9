"""The patients and the fixed sets of samples of `coverage.py`: altered slices of patients that are never held out."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from power_cohort import stored
from power_damages import damaged

from slimdiff.config import Study
from slimdiff.config.loading import study_from_mapping
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.evaluate import slices_as_samples
from slimdiff.generation.samples import Samples

DEMO = Path(__file__).resolve().parents[2] / "config" / "demo.yaml"
SHOWN, TRAINED, SEED = 14, 13, 0
"""Patients whose slices are the samples, and patients that a model would have been trained on beside them; the seed of
their choice."""
SETS: dict[str, tuple[str, ...]] = {
    "good": (),
    "fair": ("blur 0.4 px", "noise 0.03", "masks opened"),
    "poor": ("blur 0.8 px", "noise 0.06", "brighter 0.05", "masks dilated 1 px"),
}
"""Set to the damages (`power_damages.DAMAGES`) of its slices; `good` is a perfect model."""


def coverage_study(lgg: Path, work: Path) -> Study:
    """The patients with glioma at 64 x 64 px, as in the race (`benchmarks/quality/race_cohorts.py`).

    Raises SystemExit where the table of the patients is missing.
    """
    if not lgg.is_file():
        raise SystemExit(
            f"{lgg}: expected the table of the patients with glioma, found no such file; give it with --lgg"
        )
    values = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    return study_from_mapping(
        {
            "study": "coverage",
            "results_dir": str(work),
            "data": {"source": "table", "table": str(lgg)},
            "preprocess": {"spacing_mm": 3.0, "grid": [64, 64, 12]},
            "slices": {"z_range": "auto", "n_bins": 6, "min_lesion_mm2": 72},
            "evaluation": {"min_component_mm2": 45, "ring_mm": 9, "extractors": ["alexnet"]},
            **{name: values[name] for name in ("model", "training")},
        }
    )


def groups(lgg: Path) -> tuple[list[str], list[str], list[str]]:
    """Patients whose slices are samples, those of the training, and the others; each has the sites' shares."""
    table, rng = pd.read_csv(lgg, sep="\t"), np.random.default_rng(SEED)
    # Random within each site: every third patient is not held out, and every other one of these is shown.
    order = table.iloc[rng.permutation(len(table))].sort_values("site", kind="stable").participant_id.tolist()
    known = order[:: len(order) // (SHOWN + TRAINED)][: SHOWN + TRAINED]
    return sorted(known[::2]), sorted(known[1::2]), sorted(set(order) - set(known))


def store_of(study: Study) -> SliceStore:
    """The slices of all patients, made by the usual commands; an existing store is reused."""
    return stored(study, ("participants", "preprocess", "kfold", "cache"))


def samples_of(name: str, store: SliceStore, patients: list[str]) -> Samples:
    """The slices of these patients with the damages of a set."""
    rows = store.rows_of(patients)
    samples = slices_as_samples(store, rows)
    for damage in SETS[name]:
        samples = damaged(damage, samples, store.participant[rows], SEED)
    return samples
