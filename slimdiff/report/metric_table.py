"""Numbers as text: equally many digits within one metric, and letters that lead to the reasons of n/a."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slimdiff.evaluation.registry import AXES, SYMBOLS_LEGEND, describe, order
from slimdiff.evaluation.statistics.bootstrap import FoldSummary, fold_summary, smallest_wilcoxon_p
from slimdiff.report.results import Result

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
        """A standard deviation, with the digits of the mean that it stands beside."""
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
        "Each fold: value [95 % interval over held-out subjects, or over samples where a note says so]. "
        f"{FLOOR_LEGEND}.",
        f"{SYMBOLS_LEGEND}.",
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
