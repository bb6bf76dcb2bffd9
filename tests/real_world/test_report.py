"""Free text of a study in its report: whatever a user writes is shown as written, or the report cannot be built."""

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
from docutils.core import publish_parts
from helpers.workflow_runs import ROOT, snakemake, write_study
from matplotlib.figure import Figure

from slimdiff.report import html_page
from slimdiff.report.style import save

TEXTS = {
    "braces": "for {internal} use, see {{wiki}} and {fold}",
    "bars": "a phantom |not a patient| or |both",
    "a trailing underscore": "study_ of sub-01_, draft__",
    "stars and quotes": "**bold** *thing `code` ``more`` :role:`x` 'it' \"is\"",
    "a link": "see `wiki <http://x.y>`_ and http://x.y/_ or [1]_ and .. note:: this",
    "a backslash": "C:\\data\\new_",
    "Jinja": "{% raw %} {{ 1/0 }} {# no #}",
    "HTML": "a < b & c > d </script><b>bold</b>",
    "formulas": "costs $5_{ and $6^}",
    "several lines": "first_\n\n  second|\n.. third::",
    "other alphabets": "Nur für Forschung – 研究のみ_",
    "a colon": "Warning: synthetic",
    "signs only": "_|{}*",
}
BROKEN = re.compile(r"\((ERROR|WARNING|SEVERE)/\d\)|system-message")
TARGET = "results/tiny/tables/quality.html"


def one_line(text: str) -> str:
    return " ".join(text.split())


def first_line(page: str) -> str:
    """Title and notice of the report's description, as a reader sees them."""
    return html.unescape(re.sub(r"<[^>]+>", "", re.search(r"<strong>.*?</p>", page, re.DOTALL)[0]))


def rendered(config: dict) -> str:
    """workflow.rst as Snakemake renders it: by Jinja, then by docutils."""
    text = (ROOT / "workflow" / "report" / "workflow.rst").read_text(encoding="utf-8")
    rst = (
        jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(text)
        .render(snakemake=SimpleNamespace(config=config))
    )
    return publish_parts(rst, writer="html")["html_body"]


@pytest.mark.parametrize("kind", TEXTS)
def test_title_and_notice_are_shown_as_they_are_written(kind):
    page = rendered({"study": "tiny", "report": {"title": TEXTS[kind], "notice": TEXTS[kind]}})
    assert not BROKEN.search(page)
    text = one_line(TEXTS[kind])
    assert first_line(page) == f"{text} (study tiny) – {text}"


@pytest.mark.parametrize("report", [None, {}, {"title": None, "notice": ""}, {"title": "", "notice": " "}])
def test_without_a_title_the_name_of_the_study_is_shown(report):
    assert first_line(rendered({"study": "tiny_", "report": report})) == "tiny_ (study tiny_)"


@pytest.mark.parametrize("kind", TEXTS)
def test_figures_and_pages_show_the_notice_as_it_is_written(tmp_path, kind):
    text = TEXTS[kind]
    save(Figure(figsize=(4, 1)), tmp_path / "f.svg", text, 50, "tiny")
    save(Figure(figsize=(4, 1)), tmp_path / "f.png", text, 50, "tiny")
    page = html_page.page(text, text, "")
    assert html.unescape(re.search("<h1>(.*?)</h1>", page, re.DOTALL)[1]) == text


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A folder in which the quality sheet of a study was made; its title and notice have signs, too."""
    folder = tmp_path_factory.mktemp("measured")
    text = {"title": "{t} |t| t_", "notice": "{n} |n| n_"}
    config = write_study(folder, report=text)
    done = snakemake(TARGET, "--cores", "1", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kinds", [list(TEXTS)[:3], list(TEXTS)[3:8], list(TEXTS)[8:]], ids=" ".join)
def test_the_engine_builds_the_report_whatever_title_and_notice_are(measured, kinds):
    text = "\n".join(TEXTS[kind] for kind in kinds)
    config = write_study(measured, report={"title": text, "notice": text})
    report = measured / "report.html"
    options = ("--configfile", str(config), "--report", str(report), "--nolock", "--quiet", "all")
    done = snakemake(TARGET, *options, folder=measured)
    assert done.returncode == 0, done.stdout + done.stderr
    page = report.read_text(encoding="utf-8")
    assert not BROKEN.search(page)
    description = json.loads(re.search(r'var workflow_desc = (".*?");\n', page)[1])
    assert first_line(description) == f"{one_line(text)} (study tiny) – {one_line(text)}"
