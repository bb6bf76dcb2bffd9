"""report.html: Snakemake makes it in a private folder; it is checked and made safe before it is put into the results.

Snakemake writes its data as JSON into scripts of the page, one line each. A `</script>` in a text would end such a
script, and the parameters and paths of jobs name folders of the machine. A broken caption is no error for Snakemake,
only a text in the page.
"""

import html
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimdiff.files import write_text
from slimdiff.redaction import folders_in, redacted
from slimdiff.report.front.embedding import body_of, index_page, with_front

DATA = ("workflow_desc", "results", "categories", "rules")
"""Variables of the page that hold texts and paths."""
CONTENT = "data_uri"
"""Key of a result: the file itself, which its stage made safe."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src data:; frame-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""What the page may load: only what is in it."""
HEAD = '<meta charset="utf-8">'
BROKEN = re.compile(r'class="system-message".*?</(?:div|aside)>', re.DOTALL)
LAST_LINES = 15


class ReportError(RuntimeError):
    """Snakemake could not build the report, or a caption in it is broken; the message says why."""


def build(
    snakefile: Path,
    config: Mapping[str, Any],
    study: Mapping[str, Any],
    report: Path,
    targets: Sequence[str] = (),
) -> None:
    """Build report.html, and beside it index.html (the same without scripts) and config.json.

    config.json is the configuration as it was merged, without secrets. The front page is that of the stage tables.

    Args:
        snakefile: of the workflow.
        config: as Snakemake merged it.
        study: the validated study, as plain values.
        report: where the page goes; an earlier one stays if this one fails.
        targets: the results to show; none: those of `all`.

    Raises:
        ReportError: with the reason.
    """
    folders = folders_in(study)
    with tempfile.TemporaryDirectory(prefix="slimdiff-report-") as name:
        # Readable for this user only: the jobs' true paths and addresses are in them.
        merged, draft = Path(name) / "config.json", Path(name) / "report.html"
        merged.write_text(json.dumps(_with_safe_texts(config, folders)), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), *targets]
        # Without --quiet: a failing report would not say why.
        command += ["--configfile", str(merged), "--report", str(draft), "--nolock"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
        if done.returncode or not draft.is_file():
            raise ReportError(f"the report could not be built:\n{_last_lines(done.stdout + done.stderr)}")
        page = safe_page(draft.read_text(encoding="utf-8"), folders)
    title = (study.get("report") or {}).get("title") or study["study"]
    written = report.parent / "tables" / "front.html"
    front = body_of(written) if written.is_file() else ""
    if front:
        page, results, categories = _with_description(page, front)
        index = index_page(front, results, categories, title, str(report.parent))
        write_text(report.with_name("index.html"), index)
    page = with_front(page, front, title)
    write_text(report.with_name("config.json"), json.dumps(redacted(config, folders), indent=1) + "\n")
    write_text(report, page)


def _with_description(page: str, front: str) -> tuple[str, dict, dict]:
    """The page with `front` above its description; its results and their categories."""
    found = {name: _data_line(page, name) for name in ("results", "categories", "workflow_desc")}
    values = {name: json.loads(match[2]) for name, match in found.items()}
    place = found["workflow_desc"]
    text = _as_script(f"{front}<hr>{values['workflow_desc']}")
    page = f"{page[: place.start(2)]}{text}{page[place.end(2) :]}"
    return page, values["results"], values["categories"]


def _data_line(page: str, variable: str) -> re.Match[str]:
    """The line of a page that sets this variable."""
    line = re.compile(rf'(<script id="[a-z-]+">\n\s*var {variable} = )(.*);$', re.MULTILINE)
    if not (found := line.search(page)):
        raise ReportError(
            f"the report of this version of Snakemake has no `var {variable}`; install the version in "
            "envs/constraints.txt"
        )
    return found


def _with_safe_texts(config: Mapping[str, Any], folders: set[str]) -> dict[str, Any]:
    """The configuration with the texts that a caption shows; all else is what the jobs had."""
    report = config.get("report")
    return {**config, "report": redacted(report, folders)} if isinstance(report, Mapping) else dict(config)


def _last_lines(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-LAST_LINES:])


def safe_page(page: str, folders: set[str]) -> str:
    """Snakemake's page without secrets, from which no text can escape, and which fetches nothing.

    Raises ReportError if a caption is broken, or if the page is not as Snakemake 9 writes it.
    """
    for variable in DATA:
        found = _data_line(page, variable)
        values = json.loads(found[2])
        _check_captions(variable, values)
        text = _as_script(_apart_from_content(values, lambda value: redacted(value, folders)))
        page = f"{page[: found.start(2)]}{text}{page[found.end(2) :]}"
    if HEAD not in page:
        raise ReportError(f"the report of this version of Snakemake has no {HEAD}")
    return page.replace(
        HEAD, f'{HEAD}\n    <meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1
    )


def _as_script(values: Any) -> str:
    """JSON that a script may hold: `<` is written as its code."""
    return json.dumps(values).replace("<", "\\u003c")


def _apart_from_content(values: Any, change: Callable[[Any], Any]) -> Any:
    """`values` changed, but for the files that results hold."""
    if not (isinstance(values, dict) and all(isinstance(part, dict) for part in values.values())):
        return change(values)
    files = [part.pop(CONTENT, None) for part in values.values()]
    changed = change(values)
    for part, file in zip(changed.values(), files, strict=True):
        if file is not None:
            part[CONTENT] = file
    return changed


def _check_captions(variable: str, values: Any) -> None:
    if variable == "workflow_desc":
        captions = {"workflow.rst": values}
    elif variable == "results":
        captions = {path: part.get("caption") or "" for path, part in values.items()}
    else:
        return
    broken = {name: found[0] for name, text in captions.items() if (found := BROKEN.search(text))}
    if broken:
        lines = [f"  {redacted(name)}: {_plain(text)}" for name, text in broken.items()]
        raise ReportError("\n".join(["broken captions in the report:", *lines]))


def _plain(markup: str) -> str:
    """The text of a piece of HTML that begins inside of a tag, in one line."""
    text = re.sub(r"<[^>]*>", " ", markup.partition(">")[2])
    return " ".join(html.unescape(text).split())
