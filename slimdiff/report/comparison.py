"""The comparison of variants as HTML: a table an axis, and what each row says in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from slimdiff.evaluation.compare import ALL, COLUMNS
from slimdiff.evaluation.registry import AXES, SYMBOLS_LEGEND, describe, heading, order
from slimdiff.files import MISSING, read_table, write_table
from slimdiff.report.html_page import notes_list, table, text
from slimdiff.report.metric_table import Format, Notes
from slimdiff.report.results import number

LEVEL = 0.05
WORDS = {"lower": "lower", "higher": "higher", "floor": "nearer to the floor", "zero": "nearer to 0"}
HEADS = (
    "A",
    "B",
    "mean A",
    "mean B",
    "A − B ± sd",
    "what it says",
    "p (smallest)",
    "p, Holm",
    "p, Nemenyi (exact)",
    "Cliff’s δ",
)
NUMBERS = ("mean A", "mean B", "A − B ± sd", "p (smallest)", "p, Holm", "p, Nemenyi (exact)", "Cliff’s δ")
REMARKS = (
    "A and B are compared where both have a number, over all z-bins; A − B ± sd (ddof 1) over these units. "
    "Metrics marked ≈ are compared by their distance to the floor, |value − floor|, those marked → 0 by their "
    "size, |value|.",
    f"{SYMBOLS_LEGEND}.",
    "The unit is the fold, one training of each variant; samples, replicas and z-bins of one trained model are no "
    "independent replicates and are not counted. Folds share training subjects, so even an exact p is a guide.",
    "p: two-sided Wilcoxon signed rank test; beside it the smallest that so many units can give. Holm: corrected for "
    "the pairs of one metric; nothing is corrected for the number of metrics. With three or more variants: Friedman's "
    "test and Nemenyi's comparisons after it, by the large-sample distribution and, exact, by counting all orders "
    "within folds.",
    "Cliff’s δ: share of all combinations in which A is larger less the share in which B is; negligible, small, medium "
    "or large by 0.147, 0.33, 0.474 (Romano et al. 2006). A p above 0.05 does not show that variants are alike.",
)


@dataclass(frozen=True)
class Row:
    """One row of comparison.tsv: its text, and numbers with NaN for n/a."""

    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def number(self, column: str) -> float:
        return number(self.cells[column])

    @property
    def key(self) -> tuple[str, str | None, str]:
        """Metric, extractor and unit: what is corrected together."""
        extractor = self["extractor"]
        return self["metric"], None if extractor == MISSING else extractor, self["unit"]

    @property
    def together(self) -> bool:
        """Whether the row is about all variants."""
        return self["variant_a"] == ALL and self["variant_b"] == MISSING

    @property
    def note(self) -> str:
        return "" if self["note"] == MISSING else self["note"]

    def units(self, count: int | None = None) -> str:
        """'3 folds', '1 subject'."""
        count = int(self["n"]) if count is None else count
        return f"{count} {self['unit'] if count != 1 else self['unit'].removesuffix('s')}"


def read_comparison(path: Path) -> list[Row]:
    """Rows by axis and metric, in the order of the other tables; within a metric as they stand."""
    rows = [Row(cells) for cells in read_table(path, COLUMNS)]
    return sorted(rows, key=lambda row: (order(row["metric"]), row.key[1] or "", row["unit"]))


def verdict(row: Row, pairs: int) -> str:
    """What a row says, without more than it says; empty where there is no number.

    pairs: how many tests Holm's correction goes over.
    """
    if row.together:
        return _verdict_of_all(row)
    if row["n"] == "0":
        return ""
    return "; ".join(part for part in (_agreement(row), _decision(row, pairs)) if part)


def _agreement(row: Row) -> str:
    a, b, units = row["variant_a"], row["variant_b"], row.units()
    if row["better"] not in WORDS:
        return "no score, neither direction is better"
    word, a_better, b_better = WORDS[row["better"]], int(row["a_better"]), int(row["b_better"])
    if not a_better and not b_better:
        return f"no difference in {units}"
    # The mean can go another way than most units.
    mean = row["favours"]
    if a_better == b_better:
        return f"each {word} in {a_better} of {units}" + ("" if mean == "neither" else f", {mean} on average")
    leader = a if a_better > b_better else b
    said = f"{leader} {word} in {max(a_better, b_better)} of {units}"
    return said if mean == leader else f"{said}, but {mean} on average"


def _decision(row: Row, pairs: int) -> str:
    p, smallest, corrected = (row.number(name) for name in ("wilcoxon_p", "smallest_p", "p_holm"))
    if p != p:
        return ""
    reached = f"p = {small(p)}"
    if smallest > LEVEL:
        if p <= smallest:
            return (
                f"{reached} is the smallest reachable with {row.units()}: the signed rank test cannot decide"
            )
        limit = f"none below {small(smallest)} is reachable with {row.units()}"
        return f"{reached}, {limit}: the signed rank test cannot decide"
    if smallest * pairs > LEVEL:
        return (
            f"{reached}; corrected for {pairs} pairs none below {small(min(1, smallest * pairs))} is reachable with "
            f"{row.units()}: the signed rank test cannot decide"
        )
    both = reached if pairs == 1 else f"{reached}, corrected {small(corrected)}"
    return f"{both}: {'a difference' if corrected <= LEVEL else 'no difference shown'}"


def _verdict_of_all(row: Row) -> str:
    p, smallest = row.number("friedman_exact_p"), row.number("smallest_p")
    if p != p:
        return ""
    chi_square = row.number("friedman")
    said = f"Friedman over {row.units()}: "
    if chi_square != chi_square:
        return said + "no difference in any"
    said += f"χ² = {chi_square:.3g} (p = {small(row.number('friedman_p'))}), exact p = {small(p)}"
    if smallest > LEVEL:
        return f"{said}, none below {small(smallest)} is reachable: this test cannot decide"
    if p > LEVEL:
        return f"{said}, smallest reachable {small(smallest)}: no common order shown"
    return f"{said}, smallest reachable {small(smallest)}: the variants' order recurs over folds"


def small(p: float) -> str:
    """A p with two digits that count."""
    if p != p:
        return "n/a"
    if p >= 0.0001 or p == 0:
        return f"{p:.2g}"
    digits, power = f"{p:.1e}".split("e")
    return f"{digits}×10^{{−{-int(power)}}}"


def tests_of(rows: Sequence[Row]) -> int:
    """How many p values Holm's correction of these rows (one metric, extractor and unit) went over."""
    return sum(row.number("wilcoxon_p") == row.number("wilcoxon_p") for row in rows)


def comparison_tables(rows: Sequence[Row], variants: int) -> str:
    """The page's body: a table an axis, its metrics as groups of rows, and the notes of them all.

    variants: how many the study has.
    """
    notes, parts = Notes(), []
    if variants < 2:
        parts.append("<p>This study has one variant: there is no other to compare it with.</p>")
    head = "".join(f"<th{_class(name)}>{text(name)}</th>" for name in HEADS)
    for axis, of_axis in groupby(rows, lambda row: describe(row["metric"]).axis):
        body = []
        for key, own in groupby(of_axis, lambda row: row.key):
            body += _metric(key, list(own), notes)
        parts += [f"<h2>{text(AXES[axis])}</h2>", table(f"<tr>{head}</tr>", body)]
    return "\n".join([*parts, notes_list(notes, REMARKS if rows else ())])


def _metric(key: tuple[str, str | None, str], rows: list[Row], notes: Notes) -> list[str]:
    metric, extractor, unit = key
    label = heading(metric, extractor) + ("" if unit == "folds" else f", paired over {unit}")
    pairs = [row for row in rows if not row.together]
    tested, style = (
        tests_of(pairs),
        Format.of([row.number(name) for row in pairs for name in ("mean_a", "mean_b")]),
    )
    lines = [f'<tr class="group"><th colspan="{len(HEADS)}">{text(label)}</th></tr>']
    for row in rows:
        said = verdict(row, tested) or "n/a"
        mark = "^{, }".join(notes.mark(part) for part in row.note.split("; "))
        if row.together:
            lines.append(
                f'<tr class="quiet"><td colspan="5">all variants</td><td class="wrap" colspan="{len(HEADS) - 5}">'
                f"{text(said + mark)}</td></tr>"
            )
            continue
        cells = [f"<td>{text(row[name])}</td>" for name in ("variant_a", "variant_b")]
        for name in ("mean_a", "mean_b"):
            cells.append(_cell(style(row.number(name))))
        cells.append(_cell(_difference(row, style)))
        cells.append(f'<td class="wrap said">{text(said + mark)}</td>')
        cells.append(_cell(_beside(small(row.number("wilcoxon_p")), small(row.number("smallest_p")))))
        cells.append(_cell(small(row.number("p_holm"))))
        nemenyi = [small(row.number(name)) for name in ("nemenyi_p", "nemenyi_exact_p")]
        cells.append(_cell(_beside(*nemenyi)))
        delta = row.number("cliffs_delta")
        size = "" if row["size"] == MISSING else f" {row['size']}"
        cells.append(_cell("n/a" if delta != delta else f"{Format(2)(delta)}{size}"))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return lines


def _difference(row: Row, style: Format) -> str:
    mean, sd = row.number("mean_difference"), row.number("sd_difference")
    return style(mean) + ("" if sd != sd else f" ± {style.spread(sd)}")


def _beside(first: str, second: str) -> str:
    return "n/a" if first == second == "n/a" else f"{first} ({second})"


def _cell(content: str) -> str:
    return f'<td class="number">{text(content)}</td>'


def _class(name: str) -> str:
    return ' class="number"' if name in NUMBERS else ""


def write_tsv(path: Path, rows: Sequence[Row]) -> None:
    """The rows as they were, with axis, label and the words of the page."""
    written = []
    for _, own in groupby(rows, lambda row: row.key):
        own = list(own)
        tested = tests_of(own)
        for row in own:
            entry = describe(row["metric"])
            written.append(
                {"axis": entry.axis, "label": entry.label, **row.cells, "says": verdict(row, tested)}
            )
    write_table(path, written, ("axis", "label", *COLUMNS, "says"))
