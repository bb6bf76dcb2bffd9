"""Summary over folds; comparison of variants, paired over folds, and of segmenters with and without samples, paired
over subjects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from slimdiff.config import StudyPaths
from slimdiff.dataframes import read_frame, write_frame
from slimdiff.evaluation.registry import CAUTION, better, utility_metric
from slimdiff.evaluation.registry import COLUMNS as METRIC_COLUMNS
from slimdiff.evaluation.statistics.bootstrap import fold_summary, sign_agreement
from slimdiff.evaluation.statistics.significance import (
    cliffs_delta,
    friedman,
    holm,
    size_of_delta,
    wilcoxon_signed_rank,
)
from slimdiff.files import MISSING, read_table, write_table

TOGETHER, ALONE = "real_synthetic", "real"
SUMMARY_COLUMNS = (
    "study",
    "variant",
    "z_bin",
    "metric",
    "extractor",
    "folds",
    "mean",
    "sd",
    "floor_mean",
    "reason",
)
NEEDED = ("participant", "condition", "share", "dice")


def subject_pairs(
    paths: StudyPaths, variant: str, folds: int
) -> dict[int, tuple[np.ndarray, np.ndarray, str]]:
    """Paired Dice of the held-out subjects, by the percentage of training subjects.

    The scores are read from `utility_subjects.tsv` of the variant and of `real`, for every fold that has this table
    for the variant. A subject is a person and counts once: its scores are averaged over its scans and over folds. In a
    table without the column `person`, each participant is a person.

    Returns:
        Percent to three values: (N,) Dice with real and synthetic slices, (N,) Dice with real slices alone, and a
        note. Only subjects with both scores in the same fold are included, sorted by name.

    Raises:
        OSError: a fold has no table of real slices alone; the message names the file.
        ValueError: a table lacks a column; the message names the file.
    """
    found: dict[int, dict[str, list[tuple[float, float]]]] = {}
    persons: dict[str, str] = {}
    for fold in range(folds):
        path = paths.utility_subjects(variant, fold)
        if not path.is_file():
            continue
        together = _scores(path, TOGETHER)
        persons |= {
            row["participant"]: row.get("person", row["participant"]) for row in read_table(path, NEEDED)
        }
        alone = _scores(paths.utility_subjects("real", fold), ALONE)
        for (percent, participant), score in together.items():
            own = found.setdefault(percent, {})
            pair = (score, alone.get((percent, participant), np.nan))
            if np.isfinite(pair).all():
                own.setdefault(persons[participant], []).append(pair)
    return {percent: _averaged(found[percent]) for percent in sorted(found)}


def _scores(path: Path, condition: str) -> dict[tuple[int, str], float]:
    """(percent, participant) to the mean Dice of its rows; NaN for a subject without a lesion."""
    found: dict[tuple[int, str], list[float]] = {}
    for row in read_table(path, NEEDED):
        if row["condition"] == condition:
            key = round(100 * float(row["share"])), row["participant"]
            found.setdefault(key, []).append(float("nan") if row["dice"] == MISSING else float(row["dice"]))
    return {key: float(np.mean(scores)) for key, scores in found.items()}


def _averaged(subjects: dict[str, list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, str]:
    pairs = np.array([np.mean(subjects[name], axis=0) for name in sorted(subjects)]).reshape(-1, 2)
    again = any(len(scores) > 1 for scores in subjects.values())
    return (*pairs.T, "a subject of several folds or scans counts once, by its mean" if again else "")


ALL = "all"
"""Value of variant_a in a row for all variants together."""
SEGMENTERS = "the subjects of a fold share their segmenters: the result may differ for another training"
COLUMNS = (
    "study",
    "metric",
    "extractor",
    "better",  # lower, higher, floor or zero (the closer the better) or none
    "compared",  # value, |value| or |value - floor|
    "unit",  # folds or subjects
    "variant_a",
    "variant_b",
    "n",  # units with values of both variants
    "mean_a",
    "mean_b",
    "mean_difference",  # a - b
    "sd_difference",  # ddof 1
    "favours",  # variant with the better mean, or neither
    "a_better",  # number of units
    "b_better",
    "sign_agreement",
    "wilcoxon_p",
    "smallest_p",  # smallest possible p of the test in this row
    "p_holm",  # over the pairs of this metric, extractor and unit
    "nemenyi_p",
    "nemenyi_exact_p",
    "cliffs_delta",
    "size",
    "friedman",
    "friedman_p",
    "friedman_exact_p",
    "note",
)


@dataclass
class Numbers:
    """One metric of one extractor, with one value per variant and fold."""

    study: str
    metric: str
    extractor: str
    values: np.ndarray
    """(variants, folds) the compared values; NaN for a missing value."""
    read: set[tuple[int, int]] = field(default_factory=set)

    @property
    def names(self) -> dict:
        way = better(self.metric)
        compared = {"floor": "|value - floor|", "zero": "|value|"}.get(way, "value")
        return {
            "study": self.study,
            "metric": self.metric,
            "extractor": self.extractor,
            "better": way,
            "compared": compared,
        }


def compare(
    paths: StudyPaths, variants: Sequence[str], folds: int, same_test: bool = False, utility: bool = True
) -> None:
    """Write `metrics/comparison.tsv` from the tables of every variant and fold.

    Args:
        paths: paths of the study.
        variants: names of the variants.
        folds: number of folds.
        same_test: whether every fold has the same test subjects.
        utility: whether to compare segmenters, if the study has any.

    Raises:
        ValueError: a fold has duplicate rows of a metric, or a table lacks a column; the message names the file.
    """
    notes = (
        ["every fold has the same test subjects: agreement over folds says nothing about other subjects"]
        if same_test and folds > 1
        else []
    )
    rows = []
    for numbers in read_numbers(paths, variants, folds, utility):
        rows += compare_variants(numbers, variants, notes)
    if utility:
        rows += compare_segmenters(paths, variants, folds)
    write_table(paths.comparison, rows, COLUMNS)


def read_numbers(
    paths: StudyPaths, variants: Sequence[str], folds: int, utility: bool = True
) -> list[Numbers]:
    """Every metric and extractor over all z-bins, in the order of metrics.tsv and, if present, utility.tsv."""
    found: dict[tuple, Numbers] = {}
    for i, variant in enumerate(variants):
        for fold in range(folds):
            for path in paths.results(variant, fold, utility):
                for row in read_table(path, METRIC_COLUMNS):
                    if row["z_bin"] != ALL:
                        continue
                    key = row["study"], row["metric"], row["extractor"]
                    own = found.setdefault(key, Numbers(*key, np.full((len(variants), folds), np.nan)))
                    if (i, fold) in own.read:
                        raise ValueError(
                            f"{path}: expected one row of {row['metric']} ({row['extractor']}) over all z-bins, "
                            "found a duplicate; remove one"
                        )
                    own.read.add((i, fold))
                    own.values[i, fold] = _compared(row)
    return list(found.values())


def _compared(row: dict[str, str]) -> float:
    value, floor = (float("nan") if row[name] == MISSING else float(row[name]) for name in ("value", "floor"))
    way = better(row["metric"])
    if way not in ("floor", "zero"):
        return value
    middle = floor if way == "floor" else 0.0
    # The tables have nine digits. Further digits are rounding error and would break ties between distances.
    return float(f"{abs(value - middle):.9g}")


def compare_variants(numbers: Numbers, variants: Sequence[str], notes: Sequence[str] = ()) -> list[dict]:
    """Rows of one metric: all variants together if there are three or more, then every pair.

    Args:
        numbers: values of the metric, one row per variant.
        variants: names of the variants.
        notes: notes that every row gets.
    """
    if len(variants) < 2:
        return []
    rows, post_hoc = [], {}
    if len(variants) > 2:
        together, post_hoc = _omnibus_row(numbers, variants)
        rows.append(together)
    pairs = []
    way = better(numbers.metric)
    for a, b in combinations(range(len(variants)), 2):
        row = pair_row(numbers.values[a], numbers.values[b], way)
        lost = _lost(numbers.values[[a, b]], [variants[a], variants[b]])
        row["note"] = "; ".join(part for part in (lost, row["note"]) if part)
        row |= {"variant_a": variants[a], "variant_b": variants[b], **post_hoc.get((a, b), {})}
        row["favours"] = {"a": variants[a], "b": variants[b]}.get(row["favours"], row["favours"])
        pairs.append(row)
    _correct(pairs)
    rows += pairs
    for row in rows:
        row["note"] = "; ".join(part for part in (row["note"], *notes) if part)
    return [{**numbers.names, "unit": "folds", **row} for row in rows]


def pair_row(a: np.ndarray, b: np.ndarray, way: str, unit: str = "fold") -> dict:
    """One row that compares paired values; units with NaN in a or b are left out.

    Args:
        a, b: (n,) values of the two variants.
        way: which value is better: `lower`, `higher`, `floor`, `zero` or `none`.
        unit: singular noun for a unit, used in notes.
    """
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    difference = _difference(a, b)
    summary = fold_summary(difference)
    row = {"n": summary.n, "mean_difference": summary.mean, "sd_difference": summary.sd}
    row |= {"mean_a": fold_summary(a).mean, "mean_b": fold_summary(b).mean, "favours": None, "note": ""}
    if not summary.n:
        return row | {"note": f"no {unit} with a number of both"}
    agree, n = sign_agreement(difference)
    row |= {"cliffs_delta": cliffs_delta(a, b), "sign_agreement": f"{agree}/{n}"}
    row["size"] = size_of_delta(row["cliffs_delta"])
    if way != "none":
        gain = difference if way == "higher" else -difference
        row |= {"a_better": int((gain > 0).sum()), "b_better": int((gain < 0).sum())}
        mean = float(gain.mean())
        row["favours"] = "a" if mean > 0 else "b" if mean < 0 else "neither"
    if summary.n < 2:
        row |= {"cliffs_delta": None, "size": None}
        return row | {"note": f"1 {unit} with a number of both: no spread, no test"}
    test = wilcoxon_signed_rank(difference)
    row |= {"wilcoxon_p": test.p, "smallest_p": test.smallest_p}
    notes = []
    if not test.n:
        notes.append(f"no difference in any {unit}: no test")
    elif test.zeros:
        notes.append(f"{_many(test.zeros, unit)} without a difference left out of the signed rank test")
    return row | {"note": "; ".join(notes)}


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Differences that agree to the digits of the tables are ties: 0.3 - 0.2 equals 0.2 - 0.1.
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return np.round((a - b) / scale, 8) * scale if scale else a - b


def _omnibus_row(numbers: Numbers, variants: Sequence[str]) -> tuple[dict, dict]:
    """The row for all variants together, and the post-hoc columns of each pair."""
    row = {"variant_a": ALL, "variant_b": None, "n": 0}
    some = np.isfinite(numbers.values).any(axis=1)
    kept = np.flatnonzero(some)
    notes = (
        [f"without {', '.join(np.array(variants)[~some])}: no number in any fold"] if not some.all() else []
    )
    if len(kept) < 3:
        return row | {"note": "; ".join([*notes, f"{_many(len(kept), 'variant')} with numbers: no test"])}, {}
    values = numbers.values[kept]
    lost = _lost(values, [variants[i] for i in kept])
    values = values[:, np.isfinite(values).all(axis=0)].T
    row["n"] = len(values)
    notes += [lost] if lost else []
    if len(values) < 2:
        notes.append(f"{_many(len(values), 'fold')} with a number of every variant: no test")
        return row | {"note": "; ".join(notes)}, {}
    found = friedman(values)
    row |= {
        "friedman": found.statistic,
        "friedman_p": found.p,
        "friedman_exact_p": found.exact_p,
        "smallest_p": found.smallest_p,
    }
    if found.draws:
        notes.append(f"exact p estimated from {found.draws} random orders")
    pairs = {
        (int(kept[i]), int(kept[j])): {
            "nemenyi_p": float(found.nemenyi_p[i, j]),
            "nemenyi_exact_p": float(found.nemenyi_exact_p[i, j]),
        }
        for i, j in combinations(range(len(kept)), 2)
    }
    return row | {"note": "; ".join(notes)}, pairs


def compare_segmenters(paths: StudyPaths, variants: Sequence[str], folds: int) -> list[dict]:
    """Real and synthetic slices against real slices alone: one row per variant and share of the training subjects.

    Dice is paired over all held-out subjects of all folds; variant_b is `real`. Holm's correction is over the variants.
    """
    found, study = {}, paths.root.name
    for variant in variants:
        for percent, (a, b, note) in subject_pairs(paths, variant, folds).items():
            row = pair_row(a, b, "higher", "subject")
            row["favours"] = {"a": variant, "b": "real"}.get(row["favours"], row["favours"])
            cautions = (SEGMENTERS, CAUTION if percent < 100 else "")
            row["note"] = "; ".join(part for part in (row["note"], note, *cautions) if part)
            found.setdefault(percent, []).append(row | {"variant_a": variant, "variant_b": "real"})
    rows = []
    for percent in sorted(found):
        _correct(found[percent])
        names = {"study": study, "metric": utility_metric("dice", "gain", percent), "extractor": None}
        names |= {"better": "higher", "compared": "value", "unit": "subjects"}
        rows += [names | row for row in found[percent]]
    return rows


def _correct(rows: list[dict]) -> None:
    for row, p in zip(rows, holm([row.get("wilcoxon_p", np.nan) for row in rows]), strict=True):
        row["p_holm"] = float(p)


def _lost(values: np.ndarray, names: Sequence[str]) -> str:
    """Note on the folds and variants without a value; empty if no value is missing."""
    missing = ~np.isfinite(values)
    folds = np.flatnonzero(missing.any(axis=0))
    if not len(folds):
        return ""
    whose = ", ".join(name for name, lacks in zip(names, missing.any(axis=1), strict=True) if lacks)
    which = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
    return f"{which} left out, no number of {whose}"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def summarise(paths: StudyPaths, variants: list[str], folds: int, utility: bool = True) -> None:
    """Write `metrics/summary.tsv`: mean and sd (ddof 1) of every metric over folds.

    Args:
        paths: paths of the study.
        variants: names of the variants.
        folds: number of folds.
        utility: whether to include the scores of segmenters, if the study has any.
    """
    numbers = ("value", "floor")
    tables = [
        read_frame(table, METRIC_COLUMNS, numbers)
        for variant in variants
        for fold in range(folds)
        for table in paths.results(variant, fold, utility)
    ]
    keys = ["study", "variant", "z_bin", "metric", "extractor"]
    rows = []
    for key, group in pd.concat(tables).groupby(keys, sort=False):
        value, floor = (fold_summary(group[column].tolist()) for column in numbers)
        reason = "" if value.n > 1 else f"{value.n} fold with a number: no spread"
        facts = (value.n, value.mean, value.sd, floor.mean, reason)
        rows.append(dict(zip(SUMMARY_COLUMNS, (*key, *facts), strict=True)))
    write_frame(paths.summary, pd.DataFrame(rows), SUMMARY_COLUMNS)
