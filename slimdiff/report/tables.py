"""The tables of a study: metrics as TSV, LaTeX (booktabs) and HTML, variants compared, and the participants as HTML."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.data.taking_part import read_taking_part
from slimdiff.files import write_table, write_text
from slimdiff.report import comparison_page, latex, markup, metrics_page, participants
from slimdiff.report.metric_lines import Line, lines, remarks, sections
from slimdiff.report.results import all_metrics
from slimdiff.report.vocabulary import describe


def write_metrics_tsv(path: Path, table: Sequence[Line], folds: int) -> None:
    """One row a metric and variant, full precision: over folds, then value, interval and floor of each fold."""
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
                row |= {f"fold_{fold}_{name}": getattr(result, name) for name in parts}
        rows.append(row)
    write_table(path, rows, columns)


def write_all(study: Study, variants: Sequence[str], folds: int) -> None:
    """Write every table of these variants and folds."""
    paths, report = study.paths, study.report
    table = lines(all_metrics(paths, variants, folds, study.utility.enabled), variants, folds)
    write_metrics_tsv(paths.tables / "metrics.tsv", table, folds)
    say = remarks(variants, folds)
    body = metrics_page.metrics_table(sections(table), variants, folds, say)
    write_text(paths.tables / "metrics.html", markup.page(f"{report.title}: metrics", report.notice, body))
    if report.notice:
        say.insert(0, report.notice[0].upper() + report.notice[1:] + ".")
    caption = f"Study {study.study}: metrics on held-out subjects."
    write_text(
        paths.tables / "metrics.tex", latex.metrics_table(sections(table), variants, folds, say, caption)
    )

    compared = comparison_page.read_comparison(paths.comparison)
    comparison_page.write_tsv(paths.tables / "comparison.tsv", compared)
    body = comparison_page.comparison_tables(compared, len(variants))
    write_text(
        paths.tables / "comparison.html", markup.page(f"{report.title}: comparison", report.notice, body)
    )

    store = SliceStore.open(paths.store)
    people = read_taking_part(paths.participants, paths.volume_json)
    splits = [read_folds(paths.folds, fold) for fold in range(folds)]
    records = {p.participant_id: paths.volume_json(p.participant_id) for p in people if p.included}
    body = participants.table(people, participants.read_records(records), splits, store)
    write_text(
        paths.tables / "participants.html", markup.page(f"{report.title}: participants", report.notice, body)
    )
