"""Segmenters with and without synthetic pairs, on the same held-out subjects: the pairs that are tested."""

from pathlib import Path

import numpy as np

from slimdiff.config import StudyPaths
from slimdiff.files import MISSING, read_table

TOGETHER, ALONE = "real_synthetic", "real"
NEEDED = ("participant", "condition", "share", "dice")


def subject_pairs(
    paths: StudyPaths, variant: str, folds: int
) -> dict[int, tuple[np.ndarray, np.ndarray, str]]:
    """Dice of the same subjects, by the share of the training subjects in percent.

    Read from `utility_subjects.tsv` of every fold that has one, and from that of the folder `real` beside it. A subject
    counts once: its rows of a fold are averaged, and so are its folds, where folds share their test subjects.

    Returns:
        Percent to (N,) Dice of real and synthetic together, (N,) Dice of real alone, both of the subjects that have
        both in the same fold, sorted by name, and a note.

    Raises:
        OSError, ValueError: a fold has no table of real slices alone, or a table lacks a column; the file is named.
    """
    found: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for fold in range(folds):
        path = paths.utility_subjects(variant, fold)
        if not path.is_file():
            continue
        together = _scores(path, TOGETHER)
        alone = _scores(paths.utility_subjects("real", fold), ALONE)
        for (percent, participant), score in together.items():
            own = found.setdefault(percent, {})
            pair = (score, alone.get((percent, participant), np.nan))
            if np.isfinite(pair).all():
                own.setdefault(participant, []).append(pair)
    return {percent: _averaged(found[percent]) for percent in sorted(found)}


def _scores(path: Path, condition: str) -> dict[tuple[int, str], float]:
    """(percent, participant) -> mean Dice of its rows; NaN for a subject without a lesion."""
    found: dict[tuple[int, str], list[float]] = {}
    for row in read_table(path, NEEDED):
        if row["condition"] == condition:
            key = round(100 * float(row["share"])), row["participant"]
            found.setdefault(key, []).append(float("nan") if row["dice"] == MISSING else float(row["dice"]))
    return {key: float(np.mean(scores)) for key, scores in found.items()}


def _averaged(subjects: dict[str, list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, str]:
    pairs = np.array([np.mean(subjects[name], axis=0) for name in sorted(subjects)]).reshape(-1, 2)
    again = any(len(folds) > 1 for folds in subjects.values())
    return (*pairs.T, "a subject of several folds counts once, with its mean" if again else "")
