"""The metrics table as lines: one metric of one variant, in every fold and over folds, and its cells as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from slimdiff.evaluation.statistics import FoldSummary, fold_summary, smallest_wilcoxon_p
from slimdiff.report.numbers import Format, Notes
from slimdiff.report.results import Result
from slimdiff.report.vocabulary import AXES, FLOOR_READ, SYMBOLS_READ, describe, order


@dataclass(frozen=True)
class Line:
    """One metric of one variant: its number in every fold and over folds."""

    metric: str
    extractor: str | None
    variant: str
    folds: tuple[Result | None, ...]
    summary: FoldSummary
    floor: FoldSummary
    format: Format
    """Shared by all variants of the metric, so that digits stand under each other."""
    note: str
    """What holds in every fold and variant of the metric; empty where they differ."""


def lines(rows: Sequence[Result], variants: Sequence[str], folds: int) -> list[Line]:
    """Metrics over all z-bins, by axis and metric, one line a variant; an absent fold is None."""
    overall = [row for row in rows if row.z_bin is None]
    keys = sorted({row.key for row in overall}, key=lambda key: (order(key[0]), key[1] or ""))
    result = []
    for key in keys:
        own = {(row.variant, row.fold): row for row in overall if row.key == key}
        style = Format.of(row.value for row in own.values())
        style = Format(3) if describe(key[0]).share else style
        notes = {row.remark for row in own.values() if row.value == row.value}
        note = notes.pop() if len(notes) == 1 else ""
        for variant in variants:
            cells = tuple(own.get((variant, fold)) for fold in range(folds))
            value = fold_summary([row.value for row in cells if row])
            floor = fold_summary([row.floor for row in cells if row])
            result.append(Line(*key, variant, cells, value, floor, style, note))
    return result


def cell(row: Result | None, style: Format, notes: Notes) -> str:
    """`value [low, high]`; n/a, for the value or for the interval alone, with a mark for the reason."""
    if row is None:
        return "n/a" + notes.mark("not computed in this fold")
    if row.value != row.value:
        return "n/a" + notes.mark(row.missing)
    if row.low == row.low:
        return f"{style(row.value)} [{style(row.low)}, {style(row.high)}]"
    if row.no_interval:
        return f"{style(row.value)} [n/a{notes.mark(row.no_interval)}]"
    return style(row.value)


def mean_sd(summary: FoldSummary, style: Format, folds: int) -> str:
    """`mean ± sd`, with the number of folds behind it where some gave none."""
    if not summary.n:
        return "n/a"
    text = style(summary.mean) + (f" ± {style.spread(summary.sd)}" if summary.n > 1 else "")
    return text if summary.n == folds else f"{text} ({summary.n} of {folds} folds)"


def sections(table: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Lines by axis, with the axis's name."""
    found = {}
    for line in table:
        found.setdefault(describe(line.metric).axis, []).append(line)
    return [(AXES[axis], own) for axis, own in found.items()]


def remarks(variants: Sequence[str], folds: int) -> list[str]:
    """How the numbers are to be read, beneath every metrics table."""
    text = [
        f"Each fold: value [95 % interval over held-out subjects, or over samples where a note says so]. {FLOOR_READ}.",
        f"{SYMBOLS_READ}.",
        f"Mean ± sd (ddof 1) over {folds} folds. Samples of one trained model are no independent replicates: "
        "the folds are.",
    ]
    if len(variants) > 1:
        smallest = smallest_wilcoxon_p(folds)
        reach = ", so no difference between variants can reach 0.05" if smallest > 0.05 else ""
        text.append(
            f"With {folds} folds the smallest p of a two-sided Wilcoxon signed rank test is {smallest:g}{reach}."
        )
    return text
