"""Self-contained HTML pages: no script, nothing from the network."""

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slimdiff.redaction import shown_text

if TYPE_CHECKING:
    from slimdiff.report.metric_table import Notes

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""What a page may load: its own styles and images. Scripts never run, and nothing is fetched."""
CSS = """
body { font: 13px/1.4 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; color: #222; margin: 1.5rem; }
h1 { font-size: 1.25rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
.notice { color: #a33f00; margin: 0 0 .8rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid #222; border-bottom: 2px solid #222; }
sup { line-height: 0; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: baseline; white-space: nowrap; }
thead tr:last-child > * { border-bottom: 1px solid #222; } th { font-weight: 600; }
tbody th { font-weight: 400; white-space: normal; min-width: 7rem; } tr.first > * { border-top: 1px solid #eee; }
tr.group th { font-weight: 600; padding-top: .7rem; border-bottom: 1px solid #ccc; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
th.span { text-align: center; } .quiet, td.floor { color: #666; } td.wrap { white-space: normal; min-width: 9rem; }
.alarm { color: #a33f00; } ul.notes { list-style: none; padding: 0; max-width: 60rem; color: #444; font-size: .9em; }
p.prose { max-width: 46rem; }
code { font-size: .92em; } dl { display: grid; grid-template-columns: max-content auto; gap: .15rem 1.2rem; margin: 0; }
dt { color: #666; } dd { margin: 0; overflow-wrap: anywhere; }
span, b, code, dt, dd { unicode-bidi: isolate; }
"""


def page(title: str, notice: str, body: str, heading: bool = True) -> str:
    """A complete page; the notice is under the title. heading: False if the body has its own."""
    title, notice = html.escape(shown_text(title)), html.escape(shown_text(notice))
    below = f'<p class="notice">{notice}</p>' if notice else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{CSS}</style></head>\n"
        f"<body>{f'<h1>{title}</h1>' if heading else ''}{below}\n{body}\n</body></html>\n"
    )


def text(value: object) -> str:
    """Escaped and without secrets (`slimdiff.redaction`), with marks and powers `^{…}` raised."""
    return re.sub(r"\^\{([^}]*)\}", r"<sup>\1</sup>", html.escape(shown_text(value)))


def table(head: str, body: Sequence[str]) -> str:
    """A table from its head rows and body rows."""
    rows = "\n".join(body)
    return f'<div class="scroll"><table><thead>{head}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def notes_list(notes: "Notes", remarks: Sequence[str]) -> str:
    """Remarks, then footnotes."""
    items = [f"<li>{text(remark)}</li>" for remark in remarks]
    items += [f"<li><sup>{mark}</sup> {text(note)}</li>" for mark, note in notes.listed()]
    return f'<ul class="notes">{"".join(items)}</ul>'
