"""The comparison of variants as HTML: one table for each axis, and each row in words."""

from pathlib import Path

import pandas as pd

from slimdiff.dataframes import read_frame, write_frame
from slimdiff.evaluation.compare import ALL, COLUMNS
from slimdiff.evaluation.registry import AXES, SYMBOLS_LEGEND, describe, heading, order
from slimdiff.files import MISSING
from slimdiff.report.html_page import notes_list, table, text
from slimdiff.report.metric_table import Format, Notes

LEVEL = 0.05
TESTED_TOGETHER = ["metric", "extractor", "unit"]
NUMBER_COLUMNS = (
    "n",
    "mean_a",
    "mean_b",
    "mean_difference",
    "sd_difference",
    "a_better",
    "b_better",
    "wilcoxon_p",
    "smallest_p",
    "p_holm",
    "nemenyi_p",
    "nemenyi_exact_p",
    "cliffs_delta",
    "friedman",
    "friedman_p",
    "friedman_exact_p",
)
WORDS = {"lower": "lower", "higher": "higher", "floor": "closer to the floor", "zero": "closer to 0"}
HEADS = (
    "A",
    "B",
    "mean A",
    "mean B",
    "A − B ± sd",
    "in words",
    "p (smallest)",
    "p, Holm",
    "p, Nemenyi (exact)",
    "Cliff’s δ",
)
NUMBER_HEADS = (
    "mean A",
    "mean B",
    "A − B ± sd",
    "p (smallest)",
    "p, Holm",
    "p, Nemenyi (exact)",
    "Cliff’s δ",
)
REMARKS = (
    "A and B are compared where both have a number, over all z-bins; A − B ± sd (ddof 1) over these units. "
    "Metrics marked ≈ are compared by their distance to the floor, |value − floor|, those marked → 0 by their "
    "size, |value|.",
    f"{SYMBOLS_LEGEND}.",
    "The unit is the fold, one training of each variant; samples, replicas and z-bins of one trained model are not "
    "independent replicates and do not count. Folds share training subjects, so even an exact p is approximate.",
    "p: two-sided Wilcoxon signed rank test; in brackets the smallest p that n units can give. Holm: corrected for "
    "the pairs of one metric; there is no correction for the number of metrics. With three or more variants: "
    "Friedman's test and Nemenyi's post-hoc comparisons, by the large-sample distribution and, exact, by enumerating "
    "all orders within folds.",
    "Cliff’s δ: share of all combinations in which A is larger minus the share in which B is; thresholds of small, "
    "medium and large: 0.147, 0.33, 0.474 (Romano et al. 2006). A p above 0.05 does not show that variants are equal.",
)


def read_comparison(path: Path) -> pd.DataFrame:
    """comparison.tsv by axis and metric, in the order of the other tables, with column `axis`; text is empty for n/a.

    Rows of one metric, extractor and unit, which are corrected together, keep their order.
    """
    rows = read_frame(path, COLUMNS, NUMBER_COLUMNS)
    text = [name for name in COLUMNS if name not in NUMBER_COLUMNS]
    rows[text] = rows[text].where(rows[text] != MISSING, "")
    rows["axis"] = [describe(metric).axis for metric in rows["metric"]]
    place = rows["metric"].map({metric: order(metric) for metric in rows["metric"]})
    rows = rows.assign(place=place).sort_values(["place", "extractor", "unit"], kind="stable")
    return rows.drop(columns="place").reset_index(drop=True)


def _about_all(rows):
    """Whether a row is about all variants; of a frame, for each of its rows."""
    return (rows.variant_a == ALL) & (rows.variant_b == "")


def _units(row) -> str:
    """'3 folds', '1 subject'."""
    return f"{row.n:g} {row.unit if row.n != 1 else row.unit.removesuffix('s')}"


def verdict(row, pairs: int) -> str:
    """A row of `read_comparison` in words, without more than it says; empty where it has no number.

    pairs: how many tests Holm's correction goes over.
    """
    if _about_all(row):
        return _verdict_of_all(row)
    if row.n == 0:
        return ""
    return "; ".join(part for part in (_agreement(row), _decision(row, pairs)) if part)


def _agreement(row) -> str:
    a, b, units = row.variant_a, row.variant_b, _units(row)
    if row.better not in WORDS:
        return "no score, neither direction is better"
    word, a_better, b_better = WORDS[row.better], int(row.a_better), int(row.b_better)
    if not a_better and not b_better:
        return f"no difference in {units}"
    # The mean can favour another variant than most units do.
    mean = row.favours
    if a_better == b_better:
        return f"each {word} in {a_better} of {units}" + ("" if mean == "neither" else f", {mean} on average")
    leader = a if a_better > b_better else b
    text = f"{leader} {word} in {max(a_better, b_better)} of {units}"
    return text if mean == leader else f"{text}, but {mean} on average"


def _decision(row, pairs: int) -> str:
    p, smallest, corrected = row.wilcoxon_p, row.smallest_p, row.p_holm
    if p != p:
        return ""
    reached = f"p = {small(p)}"
    if smallest > LEVEL:
        if p <= smallest:
            return (
                f"{reached} is the smallest reachable with {_units(row)}: the signed rank test cannot decide"
            )
        limit = f"none below {small(smallest)} is reachable with {_units(row)}"
        return f"{reached}, {limit}: the signed rank test cannot decide"
    if smallest * pairs > LEVEL:
        return (
            f"{reached}; corrected for {pairs} pairs none below {small(min(1, smallest * pairs))} is reachable with "
            f"{_units(row)}: the signed rank test cannot decide"
        )
    both = reached if pairs == 1 else f"{reached}, corrected {small(corrected)}"
    return f"{both}: {'a difference' if corrected <= LEVEL else 'no difference shown'}"


def _verdict_of_all(row) -> str:
    p, smallest = row.friedman_exact_p, row.smallest_p
    if p != p:
        return ""
    text = f"Friedman over {_units(row)}: "
    if row.friedman != row.friedman:
        return text + "no difference in any"
    text += f"χ² = {row.friedman:.3g} (p = {small(row.friedman_p)}), exact p = {small(p)}"
    if smallest > LEVEL:
        return f"{text}, none below {small(smallest)} is reachable: this test cannot decide"
    if p > LEVEL:
        return f"{text}, smallest reachable {small(smallest)}: no common order shown"
    return f"{text}, smallest reachable {small(smallest)}: the variants' order recurs over folds"


def small(p: float) -> str:
    """A p with two digits that count."""
    if p != p:
        return "n/a"
    if p >= 0.0001 or p == 0:
        return f"{p:.2g}"
    digits, power = f"{p:.1e}".split("e")
    return f"{digits}×10^{{−{-int(power)}}}"


def tests_of(rows: pd.DataFrame) -> int:
    """How many p values Holm's correction covers in rows of one metric, extractor and unit."""
    return int(rows["wilcoxon_p"].notna().sum())


def comparison_body(rows: pd.DataFrame, variants: int) -> str:
    """The page's body: a table for each axis, its metrics as groups of rows, and the notes of them all.

    rows: from `read_comparison`; variants: how many the study has.
    """
    notes, parts = Notes(), []
    if variants < 2:
        parts.append("<p>This study has one variant; there is no other to compare it with.</p>")
    head = "".join(f"<th{_class(name)}>{text(name)}</th>" for name in HEADS)
    for axis, of_axis in rows.groupby("axis", sort=False):
        body = []
        for key, own in of_axis.groupby(TESTED_TOGETHER, sort=False):
            body += _metric(key, own, notes)
        parts += [f"<h2>{text(AXES[axis])}</h2>", table(f"<tr>{head}</tr>", body)]
    return "\n".join([*parts, notes_list(notes, REMARKS if len(rows) else ())])


def _metric(key: tuple[str, str, str], rows: pd.DataFrame, notes: Notes) -> list[str]:
    metric, extractor, unit = key
    label = heading(metric, extractor) + ("" if unit == "folds" else f", paired over {unit}")
    pairs = rows[~_about_all(rows)]
    tested, style = tests_of(rows), Format.of(pairs[["mean_a", "mean_b"]].to_numpy().ravel())
    lines = [f'<tr class="group"><th colspan="{len(HEADS)}">{text(label)}</th></tr>']
    for row in rows.itertuples():
        mark = "^{, }".join(notes.mark(part) for part in row.note.split("; "))
        words = (verdict(row, tested) or "n/a") + mark
        if _about_all(row):
            lines.append(
                f'<tr class="quiet"><td colspan="5">all variants</td><td class="wrap" colspan="{len(HEADS) - 5}">'
                f"{text(words)}</td></tr>"
            )
            continue
        delta = row.cliffs_delta
        cells = [
            f"<td>{text(row.variant_a)}</td>",
            f"<td>{text(row.variant_b)}</td>",
            _cell(style(row.mean_a)),
            _cell(style(row.mean_b)),
            _cell(_difference(row, style)),
            f'<td class="wrap said">{text(words)}</td>',
            _cell(_with_second(small(row.wilcoxon_p), small(row.smallest_p))),
            _cell(small(row.p_holm)),
            _cell(_with_second(small(row.nemenyi_p), small(row.nemenyi_exact_p))),
            _cell("n/a" if delta != delta else f"{Format(2)(delta)} {row.size}".strip()),
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return lines


def _difference(row, style: Format) -> str:
    mean, sd = row.mean_difference, row.sd_difference
    return style(mean) + ("" if sd != sd else f" ± {style.spread(sd)}")


def _with_second(first: str, second: str) -> str:
    return "n/a" if first == second == "n/a" else f"{first} ({second})"


def _cell(content: str) -> str:
    return f'<td class="number">{text(content)}</td>'


def _class(name: str) -> str:
    return ' class="number"' if name in NUMBER_HEADS else ""


def write_comparison_tsv(path: Path, rows: pd.DataFrame) -> None:
    """The rows of `read_comparison` with their labels and the words of the page."""
    words = [
        verdict(row, tests_of(own))
        for _, own in rows.groupby(TESTED_TOGETHER, sort=False)
        for row in own.itertuples()
    ]
    labels = [describe(metric).label for metric in rows["metric"]]
    write_frame(path, rows.assign(label=labels, says=words), ("axis", "label", *COLUMNS, "says"))
