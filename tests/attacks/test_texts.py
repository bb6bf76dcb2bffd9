"""Texts of a study in figures, tables, exports and arguments: shown as written, and nothing else."""

import html
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.hostile_study import ADDRESS, MARKUP, SECRETS, text
from matplotlib.figure import Figure

from slimdiff.config import needs_json, study_from_mapping
from slimdiff.data.participants import Participant
from slimdiff.redaction import markdown_text
from slimdiff.report import html_page, slices
from slimdiff.report.paper.latex import latex_text
from slimdiff.report.style import save

PRIVATE = f" {ADDRESS} /home/annasecret/notes.txt"
NOTICE = text("notice") + MARKUP + PRIVATE


def without_secrets(written: str) -> bool:
    return not any(word in written for word in SECRETS)


def test_an_svg_figure_is_valid_and_has_no_script(tmp_path):
    save(Figure(figsize=(4, 1)), tmp_path / "f.svg", NOTICE, 50, "tiny")
    written = (tmp_path / "f.svg").read_text(encoding="utf-8")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(written).iter()}
    assert not {"script", "a", "image", "foreignObject"} & tags
    assert without_secrets(written) and "\u202e" not in written


def test_the_figure_of_the_cohort_takes_any_group_and_reason(store, tmp_path):
    """A $ in a group was read as a formula, which ended the stage."""
    names = sorted(set(store.participant))
    people = [Participant(name, text("group"), Path("i"), Path("m")) for name in names]
    out = Participant("sub-x", "$x_{$", Path("i"), None).without(NOTICE)
    figure = slices.cohort(store, [*people, out], 50)
    save(figure, tmp_path / "data.png", NOTICE, 50, "tiny")
    written = [part.get_text() for part in figure.axes[0].texts]
    assert all(map(without_secrets, written))
    assert max(len(part) for part in written if part.startswith("</script>")) <= slices.GROUP_LETTERS


def test_a_page_shows_text_and_loads_nothing():
    page = html_page.page(NOTICE, NOTICE, f"<p>{html_page.text(NOTICE)}</p>")
    assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert page.count("&lt;img src=x onerror=") == 4 and "\\u202eabc" in page
    assert "default-src 'none'" in page and without_secrets(page)


def test_latex_executes_no_command_of_a_text():
    written = latex_text(NOTICE)
    assert "\\input" not in written and "\\textbackslash{}input" in written
    assert without_secrets(written)


def test_a_readme_has_one_line_without_markup():
    written = markdown_text(NOTICE)
    assert "\n" not in written and without_secrets(written)
    for sign in "<`*_[]|&":
        assert written.count(sign) == written.count(f"\\{sign}"), sign
    assert markdown_text("a phantom, not patients (v1.2)") == "a phantom, not patients (v1.2)"


def test_an_argument_of_a_rule_cannot_end_a_script_and_is_the_same_study():
    values = {
        "report": {"title": text("title"), "notice": text("notice")},
        "data": {"exclude": {"a": text("x")}},
    }
    study = study_from_mapping(values, complete=False)
    written = needs_json(study, ("report", "data.exclude"))
    assert "<" not in written
    again = study_from_mapping(json.loads(written), complete=False)
    assert (again.report, again.data.exclude) == (study.report, study.data.exclude)
    assert study.report.title.startswith("</script><script>")


@pytest.mark.parametrize("key", ["title", "notice"])
def test_a_text_of_the_study_loses_its_secrets_when_it_is_read(key):
    report = study_from_mapping({"report": {key: NOTICE}}, complete=False).report
    assert without_secrets(getattr(report, key)) and "https://host.example/data" in getattr(report, key)
    assert html.escape(getattr(report, key)).startswith("&lt;/script")
