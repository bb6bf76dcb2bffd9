"""The facts of the front page: the cohort in numbers, the training, and what the study cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from slimdiff.data.participants import Participant, first_scans
from slimdiff.data.store import SliceStore
from slimdiff.files import MISSING
from slimdiff.report.provenance import jobs

FALLING = 0.97
"""Last validation KID over the one before, below which it is still falling."""
COSTS = {
    "training": ("train",),
    "sampling": ("generate",),
    "metrics": ("metrics", "compare"),
    "segmenters": ("segmenter", "utility"),
}
"""Words to the stages whose measured time they sum."""


def held_out_subjects(
    store: SliceStore, splits: Sequence[Mapping[str, list[str]]]
) -> dict[int, tuple[int, int]]:
    """Fold to the number of held-out persons with a slice, and with a lesion slice."""
    result = {}
    for fold, split in enumerate(splits):
        rows = store.rows_of(split["test"])
        result[fold] = (len(set(store.person[rows])), len(set(store.person[rows[store.label[rows] == 1]])))
    return result


def sites_of(people: Sequence[Participant]) -> list[str]:
    """Names of the sites of included participants; of acquisitions where no site is known."""
    included = [person for person in people if person.included]
    for known in ({person.site for person in included}, {person.acquisition for person in included}):
        if found := sorted(known - {MISSING, "", None}):
            return found
    return []


def cohort_facts(
    people: Sequence[Participant], store: SliceStore, splits: Sequence[Mapping[str, list[str]]]
) -> list[str]:
    """Sentences: who is in the study, and where data are thin."""
    included = [person for person in people if person.included]
    patients = sum(person.is_patient for person in included)
    persons = len(set(first_scans(included).values()))
    scans = f" ({persons} persons)" if persons < len(included) else ""
    excluded = len(people) - len(included)
    counts = held_out_subjects(store, splits)
    tested = ", ".join(
        f"{subjects} ({lesioned} with a lesion) in fold {fold}"
        for fold, (subjects, lesioned) in counts.items()
    )
    lines = [
        f"{len(included)} participants{scans}: {patients} with a lesion mask, {len(included) - patients} without; "
        f"{excluded} excluded.",
        f"{len(store)} slices of {store.size[0]} × {store.size[1]} px at {store.spacing_mm:g} mm, "
        f"{int((store.label == 1).sum())} with a lesion, in {store.n_bins} z-bins.",
        f"Held-out subjects: {tested}.",
    ]
    thin = [
        f"fold {fold}: {few}"
        for fold, split in enumerate(splits)
        if (few := store.few_lesions(split["train"]))
    ]
    lines.append(
        f"z-bins with too few training subjects with a lesion (number): {'; '.join(thin)}."
        if thin
        else "Every z-bin has at least two training subjects with a lesion."
    )
    return lines


def training_facts(history: pd.DataFrame, validation: pd.DataFrame) -> tuple[list[str], bool]:
    """Sentences about the trainings of one variant, and whether validation was still improving.

    history, validation: of `results.read_history` and `read_validation`, one variant.
    """
    if history.empty:
        return ["n/a: no training step was recorded."], False
    steps = history.groupby("fold")["step"].max()
    low, high = int(steps.min()), int(steps.max())
    last = f"step {high:,}" if low == high else f"steps {low:,} to {high:,}"
    lines = [f"{len(steps)} models, trained to {last}."]
    falling = []
    for _, own in validation.dropna(subset=["kid"]).groupby("fold"):
        scores = own.sort_values("step")["kid"].tolist()
        if len(scores) > 1:
            falling.append((scores[-2], scores[-1]))
    still = bool(falling) and sum(after < FALLING * before for before, after in falling) * 2 > len(falling)
    if falling:
        before, after = (sum(pair[side] for pair in falling) / len(falling) for side in (0, 1))
        trend = "still falling" if still else "no longer falling"
        lines.append(f"Validation KID, last two rounds: {before:.3g} → {after:.3g}, {trend}.")
    return lines, still


def cost_facts(benchmarks: Path) -> list[str]:
    """Sentences: time of the jobs and peak memory, as the workflow measured them up to here."""
    measured = jobs(benchmarks) if benchmarks.is_dir() else {}
    if not measured:
        return ["Not measured: only the workflow measures its jobs."]
    parts = []
    for words, stages in COSTS.items():
        seconds = sum(measured[stage]["seconds"] for stage in stages if stage in measured)
        if seconds:
            parts.append(f"{words} {shown_time(seconds)}")
    total = sum(job["seconds"] for job in measured.values())
    peak = max(job["peak_memory_mb"] for job in measured.values())
    lines = [f"Time of all jobs, one after the other: {shown_time(total)} ({', '.join(parts)})."]
    if math.isfinite(peak) and peak > 0:
        lines.append(f"Peak memory of a job: {peak / 1000:.1f} GB.")
    return lines


def shown_time(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
