"""The metrics table: numbers with equally many digits within a metric, and footnotes with the reasons of n/a."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from slimdiff.evaluation.registry import AXES, SYMBOLS_LEGEND, describe
from slimdiff.evaluation.statistics.bootstrap import FoldSummary, fold_summary, smallest_wilcoxon_p
from slimdiff.report.results import by_metric, reason_of_missing

MINUS = "−"
SIGNIFICANT = 3
MOST_DECIMALS = 5
FLOOR_LEGEND = (
    "Floor: the same metric for training slices instead of samples, or the held-out slices' own value; for class "
    "shares and R the expected value; for suspects and their distances one half of the held-out subjects against the "
    "other; for utility the segmenter trained on real slices alone"
)


@dataclass(frozen=True)
class Format:
    """How the numbers of one metric are written: fixed decimals, or powers of ten where they are very small."""

    decimals: int
    scientific: bool = False

    @classmethod
    def of(cls, values: Iterable[float]) -> "Format":
        """Three significant digits for the middle one of the values."""
        sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
        if not sizes:
            return cls(SIGNIFICANT - 1)
        decimals = SIGNIFICANT - 1 - math.floor(math.log10(sizes[len(sizes) // 2]))
        if decimals > MOST_DECIMALS + 1 or decimals < -6:
            return cls(SIGNIFICANT - 1, scientific=True)
        return cls(min(max(decimals, 0), MOST_DECIMALS))

    def __call__(self, value: float) -> str:
        if not math.isfinite(value):
            return "n/a"
        if value == 0:
            return f"{0:.{self.decimals}f}"
        decimals, scientific = self.decimals, self.scientific
        magnitude = math.floor(math.log10(abs(value)))
        if not scientific and magnitude < -decimals:
            # A floor far below the values keeps two digits, rather than be a zero that it is not.
            decimals, scientific = 1 - magnitude, magnitude < -MOST_DECIMALS + 1
        if not scientific:
            return f"{value:.{decimals}f}".replace("-", MINUS)
        digits, power = f"{value:.{self.decimals if self.scientific else 1}e}".split("e")
        return f"{digits}×10^{{{int(power)}}}".replace("-", MINUS)

    def spread(self, value: float) -> str:
        """A standard deviation, with the digits of its mean."""
        return self(value) if self.scientific else f"{value:.{self.decimals}f}"


@dataclass
class Notes:
    """Footnotes: the same reason gets the same letter. A mark is written `^{a}`."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The mark of a footnote; an empty text gets none."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return "^{" + letters(self.texts.index(text)) + "}"

    def listed(self) -> list[tuple[str, str]]:
        """Letters with their texts, in order."""
        return [(letters(number), text) for number, text in enumerate(self.texts)]


def letters(number: int) -> str:
    """a … z, aa, ab, …"""
    first, last = divmod(number, 26)
    return (letters(first - 1) if first else "") + chr(ord("a") + last)


@dataclass(frozen=True)
class Line:
    """One metric of one variant: its number in every fold and over folds."""

    metric: str
    extractor: str
    variant: str
    folds: tuple
    """Row of `read_metrics` of every fold; None for a fold without one."""
    summary: FoldSummary
    floor: FoldSummary
    format: Format
    """Shared by all variants of the metric, so that digits align."""
    note: str
    """What holds in every fold and variant of the metric; empty where they differ."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Metric, extractor and variant."""
        return self.metric, self.extractor, self.variant


def lines(rows: pd.DataFrame, variants: Sequence[str], folds: int) -> list[Line]:
    """Metrics over all z-bins, by axis and metric, one line for each variant."""
    result = []
    for key, group in by_metric(rows[rows["z_bin"].isna()]):
        own = {(row.variant, row.fold): row for row in group.itertuples()}
        style = Format(3) if describe(key[0]).share else Format.of(group["value"])
        notes = group.loc[group["value"].notna(), "reason"].unique()
        note = notes[0] if len(notes) == 1 else ""
        for variant in variants:
            cells = tuple(own.get((variant, fold)) for fold in range(folds))
            value = fold_summary([row.value for row in cells if row])
            floor = fold_summary([row.floor for row in cells if row])
            result.append(Line(*key, variant, cells, value, floor, style, note))
    return result


def cell(row, style: Format, notes: Notes) -> str:
    """`value [low, high]` of a row of `read_metrics`; n/a for the value or for the interval, with a mark for the
    reason."""
    if row is None:
        return "n/a" + notes.mark("not computed in this fold")
    if row.value != row.value:
        return "n/a" + notes.mark(reason_of_missing(row))
    if row.ci_low == row.ci_low:
        return f"{style(row.value)} [{style(row.ci_low)}, {style(row.ci_high)}]"
    if row.interval_reason:
        return f"{style(row.value)} [n/a{notes.mark(row.interval_reason)}]"
    return style(row.value)


def mean_sd(summary: FoldSummary, style: Format, folds: int) -> str:
    """`mean ± sd`, with the number of folds where some have no value."""
    if not summary.n:
        return "n/a"
    text = style(summary.mean) + (f" ± {style.spread(summary.sd)}" if summary.n > 1 else "")
    return text if summary.n == folds else f"{text} ({summary.n} of {folds} folds)"


def ranked(table: Sequence[Line]) -> dict[tuple[str, str, str], str]:
    """Key of a line: `best` or `worst`, by the mean over folds, of the variants of its metric.

    The worst is marked among three or more variants. Equal means, and metrics that are no score, have no mark.
    """
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in table:
        groups.setdefault((line.metric, line.extractor), []).append(line)
    marks = {}
    for own in groups.values():
        scores = sorted((score, line.key) for line in own if (score := _badness(line)) is not None)
        if len(scores) < 2:
            continue
        if scores[0][0] < scores[1][0]:
            marks[scores[0][1]] = "best"
        if len(scores) > 2 and scores[-1][0] > scores[-2][0]:
            marks[scores[-1][1]] = "worst"
    return marks


def _badness(line: Line) -> float | None:
    """The mean over folds such that lower is better; None where there is none."""
    mean, floor = line.summary.mean, line.floor.mean
    value = {
        "lower": mean,
        "higher": -mean,
        "floor": abs(mean - floor),
        "zero": abs(mean),
    }.get(describe(line.metric).better)
    return None if value is None or not line.summary.n or not math.isfinite(value) else value


def sections(table: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Lines by axis, with the axis's name."""
    found = {}
    for line in table:
        found.setdefault(describe(line.metric).axis, []).append(line)
    return [(AXES[axis], own) for axis, own in found.items()]


def reading_remarks(variants: Sequence[str], folds: int) -> list[str]:
    """How to read the numbers, below every metrics table."""
    text = [
        "Each fold: value [95 % interval over held-out subjects, or over samples where a note says so]. "
        f"{FLOOR_LEGEND}.",
        f"{SYMBOLS_LEGEND}.",
        f"Mean ± sd (ddof 1) over {folds} folds. Samples of one trained model are not independent replicates; "
        "folds are.",
    ]
    if len(variants) > 1:
        worst = "; italic: the worst, of three or more" if len(variants) > 2 else ""
        text.append(
            f"Bold: the best mean of the variants{worst}. This is no test; see the comparison of the variants."
        )
        smallest = smallest_wilcoxon_p(folds)
        reach = ", so no difference between variants can reach 0.05" if smallest > 0.05 else ""
        text.append(
            f"With {folds} folds the smallest p of a two-sided Wilcoxon signed rank test is {smallest:g}{reach}."
        )
    return text
