"""What is made of docs/tables/usefulness.tsv: python benchmarks/quality/usefulness/usefulness_table.py

Writes the tables of docs/usefulness.md, between its two marks. A difference is paired over held-out patients and seeds:
its interval is over resamplings of both, drawn independently with replacement (Efron 1979); with a single seed, over
patients alone. Seeds that one of the two arms lacks are left out.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from usefulness import ARMS, MEAN, SEEDS, SEGMENTERS, table

from slimdiff.evaluation.statistics.bootstrap import Interval, percentile_interval, resample_counts
from slimdiff.evaluation.statistics.significance import wilcoxon_signed_rank
from slimdiff.files import write_text

PAGE = Path(__file__).resolve().parents[3] / "docs" / "usefulness.md"
MARKS = ("<!-- the tables, written by usefulness_table.py -->", "<!-- end of the tables -->")
RESAMPLINGS, SEED = 10_000, 0
BESIDE = ("real", "augmentation", "copy-paste")
"""Arms from which the others are subtracted."""
NAMES = {
    "real": "real",
    "augmentation": "real, augmentation",
    "copy-paste": "real, copy-paste",
    "synthetic-1": "real + samples 1 ×",
    "both": "real + samples 1 ×, augmentation",
    "synthetic-3": "real + samples 3 ×",
    "synthetic": "samples alone",
}
Cell = tuple[str, int, str]
"""Segmenter, percent, arm."""


def read(rows: list[dict]) -> dict[Cell, dict[int, dict[str, np.ndarray]]]:
    """Cell: seed: column: values of the held-out patients in order; of `steps` and `seconds` the one value."""
    found: dict = {}
    for row in rows:
        own = found.setdefault((row["segmenter"], int(row["percent"]), row["arm"]), {})
        of_seed = own.setdefault(int(row["seed"]), {})
        columns = ("steps", "seconds") if row["participant"] == MEAN else ("dice", "sensitivity")
        for column in columns:
            value = np.nan if row[column] == "n/a" else float(row[column])
            of_seed.setdefault(column, []).append(value)
    return {
        cell: {
            seed: {column: np.array(values) for column, values in of_seed.items()}
            for seed, of_seed in sorted(seeds.items())
        }
        for cell, seeds in found.items()
    }


def interval(values: np.ndarray) -> tuple[float, Interval]:
    """Mean of values (seeds, patients) and its interval over both; patients with a NaN are left out."""
    values = values[:, np.isfinite(values).all(axis=0)]
    seeds, patients = values.shape
    over_patients = resample_counts(patients, RESAMPLINGS, SEED)
    over_seeds = resample_counts(seeds, RESAMPLINGS, SEED + 1)
    means = np.einsum("bs,sp,bp->b", over_seeds, values, over_patients) / (seeds * patients)
    return float(values.mean()), percentile_interval(means, patients)


def together(seeds: dict[int, dict[str, np.ndarray]], column: str, kept=None) -> np.ndarray:
    """Values (seeds, patients) of a cell; kept: the seeds, None: all."""
    return np.stack([of_seed[column] for seed, of_seed in seeds.items() if kept is None or seed in kept])


def difference(one: dict, other: dict, column: str = "dice") -> np.ndarray | None:
    """Differences (seeds, patients) of two cells over the seeds that both have; None without any."""
    kept = sorted(one.keys() & other.keys())
    return together(one, column, kept) - together(other, column, kept) if kept else None


def shown(values: np.ndarray | None, signed: bool = False) -> str:
    """Mean and interval, in three decimals."""
    if values is None:
        return ""
    mean, own = interval(values)
    sign = "+" if signed else ""
    if own.reason:
        return f"{mean:{sign}.3f}".replace("-", "−")
    return f"{mean:{sign}.3f} [{own.low:{sign}.3f}, {own.high:{sign}.3f}]".replace("-", "−")


def markdown(cells: dict[Cell, dict]) -> str:
    """A table for each segmenter and share, and the answers to the questions."""
    lines = []
    for segmenter, percent in sorted(
        {cell[:2] for cell in cells}, key=lambda one: (SEGMENTERS.index(one[0]), one[1])
    ):
        name = {"unet": "the project's U-Net", "nnunet": "nnU-Net v2"}[segmenter]
        lines += [f"### {percent} % of the training patients, {name}", ""]
        beside = [arm for arm in BESIDE if (segmenter, percent, arm) in cells]
        heads = ["training set", "seeds", "Dice", "lesion sensitivity"]
        heads += [f"Dice minus {NAMES[arm]}" for arm in beside] + ["steps", "minutes"]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for arm in ARMS:
            seeds = cells.get((segmenter, percent, arm))
            if seeds is None:
                continue
            row = [NAMES[arm], f"{len(seeds)} of {len(SEEDS)}"]
            row += [shown(together(seeds, column)) for column in ("dice", "sensitivity")]
            for other in beside:
                own = None if other == arm else difference(seeds, cells[segmenter, percent, other])
                row.append(shown(own, signed=True))
            row.append("; ".join(f"{of_seed['steps'][0]:,.0f}" for of_seed in seeds.values()))
            row.append("; ".join(f"{of_seed['seconds'][0] / 60:.1f}" for of_seed in seeds.values()))
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    lines += ["### The questions", "", "| question | difference of Dice or ratio | |", "|---|---|---|"]
    lines += questions(cells)
    return "\n".join(lines)


def questions(cells: dict[Cell, dict]) -> list[str]:
    """Rows of the table of questions that the runs so far can answer."""
    asked = [
        ("samples against augmentation", 25, "synthetic-1", "augmentation", 0.04),
        ("samples and augmentation against augmentation", 25, "both", "augmentation", 0.04),
        ("samples against copy-paste", 25, "synthetic-1", "copy-paste", 0.0),
        ("samples against augmentation", 100, "synthetic-1", "augmentation", 0.02),
        ("samples and augmentation against augmentation", 100, "both", "augmentation", 0.02),
        ("samples against real slices alone", 100, "synthetic-1", "real", 0.02),
    ]
    lines = []
    for name, percent, one, other, goal in asked:
        pair = [cells.get(("unet", percent, arm)) for arm in (one, other)]
        values = difference(*pair) if all(pair) else None
        if values is None:
            continue
        mean, own = interval(values)
        p = wilcoxon_signed_rank(np.nanmean(values, axis=0)).p
        answer = "yes" if mean >= goal and own.low > 0 else "no"
        verdict = f"goal ≥ {goal:+.2f}, interval above 0: {answer}; p = {p:.2g} over patients"
        lines.append(f"| {name}, {percent} % | {shown(values, signed=True)} | {verdict} |")
    for percent in (10, 25, 50, 100):
        pair = [cells.get(("unet", percent, arm)) for arm in ("synthetic", "real")]
        if all(pair) and pair[0].keys() & pair[1].keys():
            kept = sorted(pair[0].keys() & pair[1].keys())
            alone, real = (np.nanmean(together(seeds, "dice", kept)) for seeds in pair)
            verdict = f"goal ≥ 1: {'yes' if alone >= real else 'no'}"
            lines.append(f"| samples alone / real slices, {percent} % | {alone / real:.2f} | {verdict} |")
    return lines


def main() -> None:
    """Write the tables into the page."""
    rows = table().rows()
    if not rows:
        raise SystemExit(f"{table().path}: expected runs, found none; run usefulness.py first")
    text = PAGE.read_text(encoding="utf-8")
    if [text.count(mark) for mark in MARKS] != [1, 1]:
        raise SystemExit(f"{PAGE}: expected each of the marks {MARKS[0]} and {MARKS[1]} once; restore them")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    write_text(PAGE, f"{before}{MARKS[0]}\n\n{markdown(read(rows))}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
