"""Reading what the other stages wrote: metrics, closest pairs and training histories, with numbers as numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config import StudyPaths
from slimdiff.files import MISSING, read_table

NO_INTERVAL = "no interval: "


@dataclass(frozen=True)
class Result:
    """One number of metrics.tsv; NaN where it says n/a."""

    variant: str
    fold: int
    z_bin: int | None
    """None: over all z-bins."""
    metric: str
    extractor: str | None
    value: float
    low: float
    high: float
    floor: float
    n: str
    note: str
    """Empty where there is none."""

    @property
    def key(self) -> tuple[str, str | None]:
        """What makes two numbers comparable: metric and extractor."""
        return self.metric, self.extractor

    @property
    def no_interval(self) -> str:
        """Why the interval is n/a; empty where it is not, or where none was ever meant."""
        return next(
            (part.removeprefix(NO_INTERVAL) for part in self._notes if part.startswith(NO_INTERVAL)), ""
        )

    @property
    def missing(self) -> str:
        """Why the value is n/a."""
        if self.n == "0" and "wanted" not in self.note:
            return "nothing to measure, n = 0"
        return self.note or "no reason is given"

    @property
    def remark(self) -> str:
        """The note without the reason of the interval."""
        return "; ".join(part for part in self._notes if not part.startswith(NO_INTERVAL))

    @property
    def _notes(self) -> list[str]:
        return self.note.split("; ") if self.note else []


@dataclass(frozen=True)
class Neighbour:
    """A sample and its closest training slice in one space."""

    variant: str
    fold: int
    sample: int
    """Row in the order of `read_samples`."""
    z_bin: int
    train_row: int
    """Row in the slice store."""
    participant: str
    distance: float
    threshold: float
    flagged: bool
    space: str


@dataclass(frozen=True)
class TrainingSubject:
    """How often a training subject holds the slice that is closest to a sample, in one space and fold."""

    fold: int
    space: str
    participant: str
    n_nearest: int
    expected: float
    """How often it would if every training slice of a sample's z-bin were as likely."""
    n_suspects: int


def number(text: str) -> float:
    """A cell as a float; NaN for n/a and for an empty one."""
    return math.nan if text in (MISSING, "", "nan") else float(text)


def read_metrics(path: Path) -> list[Result]:
    """Rows of one `metrics.tsv`."""
    needed = ("variant", "fold", "z_bin", "metric", "extractor", "value", "ci_low", "ci_high", "floor")
    return [
        Result(
            row["variant"],
            int(row["fold"]),
            None if row["z_bin"] == "all" else int(row["z_bin"]),
            row["metric"],
            None if row["extractor"] == MISSING else row["extractor"],
            *(number(row[name]) for name in ("value", "ci_low", "ci_high", "floor")),
            row.get("n", MISSING),
            "" if row.get("note", MISSING) == MISSING else row["note"],
        )
        for row in read_table(path, needed)
    ]


def all_metrics(paths: StudyPaths, variants: Sequence[str], folds: int, utility: bool = True) -> list[Result]:
    """Rows of every variant and fold: of metrics.tsv, and of utility.tsv where there is one and it is wanted."""
    return [
        row
        for variant in variants
        for fold in range(folds)
        for table in paths.results(variant, fold, utility)
        for row in read_metrics(table)
    ]


def read_neighbours(paths: StudyPaths, variant: str, folds: int) -> list[Neighbour]:
    """The closest training slices of one variant's samples; samples without one in their z-bin are left out."""
    needed = (
        "sample",
        "z_bin",
        "train_row",
        "train_participant",
        "distance",
        "threshold",
        "flagged",
        "space",
    )
    found = []
    for fold in range(folds):
        for row in read_table(paths.metrics(variant, fold) / "nearest.tsv", needed):
            if MISSING in (row["train_row"], row["distance"]):
                continue
            found.append(
                Neighbour(
                    variant,
                    fold,
                    int(row["sample"]),
                    int(row["z_bin"]),
                    int(row["train_row"]),
                    row["train_participant"],
                    float(row["distance"]),
                    number(row["threshold"]),
                    row["flagged"] == "1",
                    row["space"],
                )
            )
    return found


def read_training_subjects(paths: StudyPaths, variant: str, folds: int) -> list[TrainingSubject]:
    """Rows of every fold's `memorisation_subjects.tsv`."""
    needed = ("space", "participant", "n_nearest", "expected_share", "n_suspects")
    found = []
    for fold in range(folds):
        rows = read_table(paths.metrics(variant, fold) / "memorisation_subjects.tsv", needed)
        for row in rows:
            samples = sum(int(other["n_nearest"]) for other in rows if other["space"] == row["space"])
            expected = samples * number(row["expected_share"]) if samples else 0.0
            counts = int(row["n_nearest"]), expected, int(row["n_suspects"])
            found.append(TrainingSubject(fold, row["space"], row["participant"], *counts))
    return found


def read_history(paths: StudyPaths, variant: str, fold: int) -> dict[str, list[float]]:
    """Columns of `history.tsv` as numbers; every column is empty where no step was trained."""
    rows = read_table(paths.model(variant, fold) / "history.tsv", ("step", "loss_image", "loss_mask"))
    names = ("step", "loss_image", "loss_mask", "learning_rate", "images_per_s")
    return {name: [number(row.get(name, MISSING)) for row in rows] for name in names}


def read_rounds(paths: StudyPaths, variant: str, fold: int) -> dict[str, list[float]]:
    """Columns of `validation.tsv` as numbers, of the first moving average; empty where nothing was watched."""
    names = ("step", "loss_image", "loss_mask", "kid", "memorisation_ratio")
    rows = read_table(paths.model(variant, fold) / "validation.tsv", ("ema_decay", *names))
    rows = [row for row in rows if row["ema_decay"] == rows[0]["ema_decay"]]
    return {name: [number(row[name]) for row in rows] for name in names}
