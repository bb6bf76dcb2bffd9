"""The metrics table as Markdown, for a README, an issue or a supplement."""

import re
from collections.abc import Sequence

from slimdiff.evaluation.registry import heading
from slimdiff.redaction import markdown_text
from slimdiff.report.metric_table import Notes, cell, mean_sd, ranked

MARKS = {"": "{}", "best": "**{}**", "worst": "*{}*"}


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table of cells that are Markdown already; the first `words` columns are words, the others numbers."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def markdown_metrics(
    sections, variants: Sequence[str], folds: int, remarks: Sequence[str], title: str
) -> str:
    """Mean ± sd and floor over folds, then value and interval of every fold, one table for each axis."""
    notes = Notes()
    several = len(variants) > 1
    ranks = ranked([line for _, own in sections for line in own])
    head = ["metric", *(["variant"] if several else []), "mean ± sd", "floor, mean"]
    head += [f"fold {fold}" for fold in range(folds)]
    parts = [f"# {markdown_text(title)}: metrics"]
    for name, own in sections:
        rows = []
        for line in own:
            shown = not several or line.variant == variants[0]
            label = heading(line.metric, line.extractor) + notes.mark(line.note)
            row = [_text(label) if shown else "", *([_text(line.variant)] if several else [])]
            row.append(
                MARKS[ranks.get(line.key, "")].format(_text(mean_sd(line.summary, line.format, folds)))
            )
            row.append(_text(line.format(line.floor.mean)) if line.floor.n else "–")
            row += [_text(cell(result, line.format, notes)) for result in line.folds]
            rows.append(row)
        parts += [f"## {markdown_text(name)}", markdown_table(head, rows, 1 + several)]
    below = [markdown_text(remark) for remark in remarks]
    below += [f"<sup>{mark}</sup> {markdown_text(note)}." for mark, note in notes.listed()]
    return "\n\n".join([*parts, *below]) + "\n"


def _text(value: str) -> str:
    """One cell, with marks and powers `^{…}` raised."""
    parts = re.split(r"\^\{([^}]*)\}", value)
    return "".join(
        f"<sup>{part}</sup>" if place % 2 else markdown_text(part) for place, part in enumerate(parts)
    )
