"""The tables of a study: metrics (TSV, LaTeX, Markdown, HTML), comparison of variants, participants (HTML)."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_included
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.registry import describe, heading
from slimdiff.files import write_table, write_text
from slimdiff.report import comparison, html_page, participants
from slimdiff.report.front.page import write_front
from slimdiff.report.html_page import notes_list, table, text
from slimdiff.report.metric_table import (
    Line,
    Notes,
    cell,
    lines,
    mean_sd,
    ranked,
    reading_remarks,
    sections,
)
from slimdiff.report.paper import latex, markdown
from slimdiff.report.results import all_metrics


def metrics_body(sections, variants: Sequence[str], folds: int, remarks: Sequence[str]) -> str:
    """Metrics by axis: mean over folds, then each fold with its floor; footnotes give the reason of each n/a."""
    notes = Notes()
    several = len(variants) > 1
    ranks = ranked([line for _, own in sections for line in own])
    fold_heads = "".join(f'<th class="span" colspan="2">fold {fold}</th>' for fold in range(folds))
    head = (
        f'<tr><th colspan="{1 + several}"></th><th class="span" colspan="2">over folds</th>{fold_heads}</tr>'
        f"<tr><th>metric</th>{'<th>variant</th>' if several else ''}"
        '<th class="number">mean ± sd</th><th class="number">floor</th>'
        + '<th class="number">value [95 %]</th><th class="number">floor</th>' * folds
        + "</tr>"
    )
    body = []
    for name, own in sections:
        body.append(f'<tr class="group"><th colspan="{3 + several + 2 * folds}">{text(name)}</th></tr>')
        for line in own:
            cells = []
            if not several or line.variant == variants[0]:
                label = heading(line.metric, line.extractor) + notes.mark(line.note)
                span = f' rowspan="{len(variants)}"' if several else ""
                cells.append(f'<th scope="row"{span}>{text(label)}</th>')
            if several:
                cells.append(f"<td>{text(line.variant)}</td>")
            mean = text(mean_sd(line.summary, line.format, folds))
            cells.append(f'<td class="number">{MARKS[ranks.get(line.key, "")].format(mean)}</td>')
            cells.append(f'<td class="number floor">{text(_floor(line.floor.mean, line))}</td>')
            for result in line.folds:
                cells.append(f'<td class="number">{text(cell(result, line.format, notes))}</td>')
                floor = _floor(result.floor if result else float("nan"), line)
                cells.append(f'<td class="number floor">{text(floor)}</td>')
            first = ' class="first"' if several and line.variant == variants[0] else ""
            body.append(f"<tr{first}>{''.join(cells)}</tr>")
    return table(head, body) + notes_list(notes, remarks)


MARKS = {"": "{}", "best": "<b>{}</b>", "worst": "<i>{}</i>"}


def _floor(value: float, line: Line) -> str:
    return line.format(value) if value == value else "–"


def write_metrics_tsv(path: Path, table: Sequence[Line], folds: int) -> None:
    """One row for each metric and variant, full precision: over folds, then value, interval and floor of each fold."""
    columns = [
        "axis",
        "metric",
        "label",
        "extractor",
        "better",
        "variant",
        "mean",
        "sd",
        "folds",
        "floor_mean",
    ]
    parts = ("value", "low", "high", "floor", "n", "note")
    columns += [f"fold_{fold}_{name}" for fold in range(folds) for name in parts]
    rows = []
    for line in table:
        entry = describe(line.metric)
        row = {
            "axis": entry.axis,
            "metric": line.metric,
            "label": entry.label,
            "extractor": line.extractor,
            "better": entry.better,
            "variant": line.variant,
            "mean": line.summary.mean,
            "sd": line.summary.sd,
            "folds": line.summary.n,
            "floor_mean": line.floor.mean,
        }
        for fold, result in enumerate(line.folds):
            if result:
                values = (result.value, result.ci_low, result.ci_high, result.floor, result.n, _note(result))
                row |= {f"fold_{fold}_{name}": value for name, value in zip(parts, values, strict=True)}
        rows.append(row)
    write_table(path, rows, columns, sealed=False)


def _note(result) -> str:
    """Remark on a number and the reason of a missing interval, in one text."""
    missing = f"no interval: {result.interval_reason}" if result.interval_reason else ""
    return "; ".join(part for part in (result.reason, missing) if part)


def write_all(study: Study, variants: Sequence[str], folds: int) -> None:
    """Write every table of these variants and folds."""
    paths, report = study.paths, study.report
    table = lines(all_metrics(paths, variants, folds, study.utility.enabled), variants, folds)
    write_metrics_tsv(paths.tables / "metrics.tsv", table, folds)
    remarks = reading_remarks(variants, folds)
    body = metrics_body(sections(table), variants, folds, remarks)
    write_text(paths.tables / "metrics.html", html_page.page(f"{report.title}: metrics", report.notice, body))
    useful = [(name, own) for name, own in sections(table) if own[0].metric.startswith("utility_")]
    body = (
        metrics_body(useful, variants, folds, remarks)
        if useful
        else "<p>n/a: the study trains no segmenter (<code>utility.enabled</code>).</p>"
    )
    write_text(
        paths.tables / "usefulness.html", html_page.page(f"{report.title}: usefulness", report.notice, body)
    )
    if report.notice:
        remarks.insert(0, report.notice[0].upper() + report.notice[1:] + ".")
    write_text(
        paths.tables / "metrics.md",
        markdown.markdown_metrics(sections(table), variants, folds, remarks, report.title),
    )
    caption = f"Study {study.study}: metrics on held-out subjects."
    write_text(
        paths.tables / "metrics.tex", latex.latex_metrics(sections(table), variants, folds, remarks, caption)
    )

    compared = comparison.read_comparison(paths.comparison)
    comparison.write_comparison_tsv(paths.tables / "comparison.tsv", compared)
    body = comparison.comparison_body(compared, len(variants))
    write_text(
        paths.tables / "comparison.html", html_page.page(f"{report.title}: comparison", report.notice, body)
    )

    store = SliceStore.open(paths.store)
    people = read_included(paths.participants, paths.volume_json)
    splits = [read_folds(paths.folds, fold) for fold in range(folds)]
    records = {p.participant_id: paths.volume_json(p.participant_id) for p in people if p.included}
    body = participants.participants_body(people, participants.read_records(records), splits, store)
    write_text(
        paths.tables / "participants.html",
        html_page.page(f"{report.title}: participants", report.notice, body),
    )
    write_front(study, variants, folds)
