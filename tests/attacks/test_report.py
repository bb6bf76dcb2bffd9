"""Texts that attack report.html and pages, secrets in them, and captions that are broken."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.hostile_study import environment, secrets_in, titles_in_a_browser
from helpers.workflow_runs import ROOT

from slimdiff.config import load_study
from slimdiff.report import engine_report

SHEET = "tables/quality.html"


class Scripts(HTMLParser):
    """The scripts of a page, as a browser finds them."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            self.texts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.texts[-1] += data


def build(folder: Path, report: Path, monkeypatch, snakefile: Path = ROOT / "Snakefile") -> None:
    """report.html of the sheet, as the workflow builds it at its end."""
    study, config = load_study(folder / "study.json"), json.loads((folder / "study.json").read_text())
    monkeypatch.chdir(folder)
    for key, value in environment(folder).items():
        monkeypatch.setenv(key, value)
    target = str(study.paths.root / SHEET)
    engine_report.build(snakefile, config, study.model_dump(mode="json"), report, [target])


@pytest.fixture(scope="module")
def built(hostile, tmp_path_factory) -> Path:
    report = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        build(hostile, report, patch)
    return report


def test_no_script_of_a_text_runs_in_the_report(built, tmp_path):
    page = built.read_text(encoding="utf-8")
    assert "</script><script>document" not in page and "<img src=x" not in page
    scripts = Scripts()
    scripts.feed(page)
    assert len(scripts.texts) > 20 and not any(map(re.compile(r"\s*document\.title").match, scripts.texts))
    title = titles_in_a_browser(built, tmp_path)
    assert title is None or (title.endswith(": report") and not title.startswith("script of"))


def test_the_report_shows_the_texts_as_they_are_written(built):
    page = built.read_text(encoding="utf-8")
    described = json.loads(re.search(r"var workflow_desc = (.*);\n", page)[1])
    assert "&lt;script&gt;document.title" in described and "<script" not in described
    assert ".. include:: .../passwd" in described and "root:x:" not in page
    assert "https://host.example/data" in described


@pytest.mark.parametrize("name", ["report.html", "config.json"])
def test_the_report_and_its_configuration_have_no_secrets(built, name):
    assert not secrets_in(built.with_name(name))


def test_no_script_of_a_text_runs_in_a_page(hostile, tmp_path):
    for page in (hostile / "home").rglob("tables/*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and "<img src=x" not in text and "\u202e" not in text
        assert "default-src 'none'" in text
        assert not secrets_in(page)
        title = titles_in_a_browser(page, tmp_path)
        assert title is None or (title.startswith("&lt;/script&gt;") and not title.startswith("script of"))


@pytest.fixture
def copied_workflow(tmp_path) -> Path:
    for name in ("Snakefile", "workflow", "envs", "config"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("quality.rst", r"broken captions in the report:\n  .*quality\.html: System Message: ERROR/3"),
        ("workflow.rst", r"broken captions in the report:\n  workflow\.rst: System Message: ERROR/3"),
    ],
)
def test_a_broken_caption_is_named_with_its_fault(hostile, copied_workflow, monkeypatch, caption, words):
    path = copied_workflow / "workflow" / "report" / caption
    path.write_text(path.read_text() + "\n.. nosuchdirective:: here\n")
    report = copied_workflow / "report.html"
    report.write_text("the one before")
    with pytest.raises(engine_report.ReportError) as caught:
        build(hostile, report, monkeypatch, copied_workflow / "Snakefile")
    assert re.match(words, str(caught.value)) and 'Unknown directive type "nosuchdirective"' in str(
        caught.value
    )
    assert report.read_text() == "the one before"


def test_a_report_that_cannot_be_built_says_why(hostile, copied_workflow, monkeypatch):
    (copied_workflow / "workflow" / "report" / "quality.rst").write_text("{% if %}")
    with pytest.raises(engine_report.ReportError) as caught:
        build(hostile, copied_workflow / "report.html", monkeypatch, copied_workflow / "Snakefile")
    assert "the report could not be built" in str(caught.value)
    assert "quality.rst" in str(caught.value) and "Expected an expression" in str(caught.value)
    assert not (copied_workflow / "report.html").exists()


def test_a_page_of_another_form_is_no_report():
    with pytest.raises(engine_report.ReportError, match=r"no `var workflow_desc`; install the version"):
        engine_report.safe_page("<html></html>", set())
