"""The metrics table as HTML."""

from collections.abc import Sequence

from slimdiff.report.markup import notes_list, table, text
from slimdiff.report.metric_lines import Line, cell, mean_sd
from slimdiff.report.numbers import Notes
from slimdiff.report.vocabulary import SYMBOLS, describe


def metrics_table(sections, variants: Sequence[str], folds: int, remarks: Sequence[str]) -> str:
    """Metrics by axis: over folds, then every fold with its floor; footnotes give the reason of every n/a."""
    notes = Notes()
    several = len(variants) > 1
    fold_heads = "".join(f'<th class="span" colspan="2">fold {fold}</th>' for fold in range(folds))
    head = (
        f'<tr><th colspan="{2 + several}"></th><th class="span" colspan="2">over folds</th>{fold_heads}</tr>'
        f"<tr><th>metric</th><th>extractor</th>{'<th>variant</th>' if several else ''}"
        '<th class="number">mean ± sd</th><th class="number">floor</th>'
        + '<th class="number">value [95 %]</th><th class="number">floor</th>' * folds
        + "</tr>"
    )
    body = []
    for name, own in sections:
        body.append(f'<tr class="group"><th colspan="{4 + several + 2 * folds}">{text(name)}</th></tr>')
        for line in own:
            cells = []
            if not several or line.variant == variants[0]:
                entry = describe(line.metric)
                label = f"{entry.label} {SYMBOLS[entry.better]}".strip() + notes.mark(line.note)
                span = f' rowspan="{len(variants)}"' if several else ""
                cells.append(
                    f'<th scope="row"{span}>{text(label)}</th><td{span}>{text(line.extractor or "–")}</td>'
                )
            if several:
                cells.append(f"<td>{text(line.variant)}</td>")
            cells.append(f'<td class="number">{text(mean_sd(line.summary, line.format, folds))}</td>')
            cells.append(f'<td class="number floor">{text(_floor(line.floor.mean, line))}</td>')
            for result in line.folds:
                cells.append(f'<td class="number">{text(cell(result, line.format, notes))}</td>')
                floor = _floor(result.floor if result else float("nan"), line)
                cells.append(f'<td class="number floor">{text(floor)}</td>')
            first = ' class="first"' if several and line.variant == variants[0] else ""
            body.append(f"<tr{first}>{''.join(cells)}</tr>")
    return table(head, body) + notes_list(notes, remarks)


def _floor(value: float, line: Line) -> str:
    return line.format(value) if value == value else "–"
