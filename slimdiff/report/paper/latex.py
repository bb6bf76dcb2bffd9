"""The metrics table as LaTeX with booktabs."""

import re
from collections.abc import Sequence

from slimdiff.evaluation.registry import SYMBOLS, describe
from slimdiff.redaction import shown_text
from slimdiff.report.metric_table import Notes, cell, mean_sd, ranked

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
}
LINES_OF_ONE_PAGE = 40
MARKS = {"": "{}", "best": r"\textbf{{{}}}", "worst": r"\textit{{{}}}"}


def latex_text(value: object) -> str:
    """Escaped for LaTeX, with marks and powers `^{…}` raised."""
    parts = re.split(r"\^\{([^}]*)\}", shown_text(value))
    written = ["".join(SPECIAL.get(character, character) for character in part) for part in parts]
    return "".join(
        rf"\textsuperscript{{{part}}}" if place % 2 else part for place, part in enumerate(written)
    )


def latex_metrics(sections, variants: Sequence[str], folds: int, remarks: Sequence[str], caption: str) -> str:
    """Mean ± sd and floor over folds, then value and interval of every fold; longer than a page: a longtable."""
    notes = Notes()
    several = len(variants) > 1
    columns = ["Metric", *(["Variant"] if several else []), "Mean ± sd", "Floor, mean"]
    columns += [f"Fold {fold}" for fold in range(folds)]
    layout = "l" * (1 + several) + "r" * (2 + folds)
    ranks = ranked([line for _, own in sections for line in own])
    body = []
    for name, own in sections:
        body.append(r"\addlinespace")
        body.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\textit{{{latex_text(name)}}}}} \\")
        for line in own:
            entry = describe(line.metric)
            label = f"{entry.label} {SYMBOLS[entry.better]}".strip()
            label += f" ({line.extractor})" if line.extractor else ""
            label += notes.mark(line.note)
            shown = not several or line.variant == variants[0]
            row = [label if shown else "", *([line.variant] if several else [])]
            rest = [line.format(line.floor.mean) if line.floor.n else "–"]
            rest += [cell(result, line.format, notes) for result in line.folds]
            mean = latex_text(mean_sd(line.summary, line.format, folds))
            marked = MARKS[ranks.get(line.key, "")].format(mean)
            body.append(" & ".join([*map(latex_text, row), marked, *map(latex_text, rest)]) + r" \\")
    below = [latex_text(remark) for remark in remarks]
    below += [rf"\textsuperscript{{{mark}}}~{latex_text(note)}." for mark, note in notes.listed()]
    head = " & ".join(latex_text(column) for column in columns) + r" \\"
    long = sum(len(own) for _, own in sections) > LINES_OF_ONE_PAGE
    return _document(body, head, layout, latex_text(caption), below, long)


def _document(body: list[str], head: str, layout: str, caption: str, below: list[str], long: bool) -> str:
    package = "booktabs and longtable" if long else "booktabs"
    start = [f"% needs the package {package}; written by slimdiff"]
    if long:
        start += [
            r"{\small",
            rf"\begin{{longtable}}{{{layout}}}",
            rf"\caption{{{caption}}} \\",
            r"\toprule",
            head,
        ]
        start += [r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
        end = [r"\end{longtable}", r"\noindent\footnotesize " + " ".join(below) + r"\par}"]
    else:
        start += [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{layout}}}",
        ]
        start += [r"\toprule", head, r"\midrule"]
        end = [
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\medskip\raggedright\footnotesize " + " ".join(below),
            r"\end{table}",
        ]
    return "\n".join([*start, *body, *end]) + "\n"
