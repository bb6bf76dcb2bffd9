"""The metrics table for a paper: which variants are marked, and that LaTeX compiles and Markdown has whole rows."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from slimdiff.report import tables
from slimdiff.report.metric_table import lines, ranked, sections
from slimdiff.report.paper.latex import latex_metrics
from slimdiff.report.paper.markdown import markdown_metrics

NAMES = ["a", "b", "c"]
EMPTY = {"z_bin": float("nan"), "fold": 0, "ci_low": float("nan"), "ci_high": float("nan"), "reason": ""}
EMPTY |= {"interval_reason": "", "n": "12", "extractor": "", "floor": float("nan")}


def table_of(metric: str, values: dict[str, float], floor: float = float("nan")):
    rows = [
        {**EMPTY, "metric": metric, "variant": name, "value": value, "floor": floor}
        for name, value in values.items()
    ]
    return lines(pd.DataFrame(rows), list(values), 1)


@pytest.mark.parametrize(
    ("metric", "values", "floor", "best", "worst"),
    [
        ("kid", {"a": 0.2, "b": 0.1, "c": 0.3}, 0.0, "b", "c"),
        ("recall", {"a": 0.2, "b": 0.1, "c": 0.3}, 0.9, "c", "b"),
        # Closer to the floor, from either side.
        ("lpips", {"a": 0.30, "b": 0.18, "c": 0.26}, 0.2, "b", "a"),
        # Closer to 0, from either side.
        ("lesion_area_gap", {"a": -0.5, "b": 0.2, "c": -0.1}, 0.0, "c", "a"),
        ("kid", {"a": 0.2, "b": 0.1}, 0.0, "b", None),
        ("kid", {"a": 0.1, "b": 0.1, "c": 0.3}, 0.0, None, "c"),
        ("kid", {"a": float("nan"), "b": 0.1, "c": float("nan")}, 0.0, None, None),
        ("kid", {"a": 0.1}, 0.0, None, None),
        ("kid_blurred", {"a": 0.2, "b": 0.1, "c": 0.3}, 0.0, None, None),
    ],
)
def test_best_and_worst_are_by_the_direction_of_the_metric(metric, values, floor, best, worst):
    marks = {variant: mark for (_, _, variant), mark in ranked(table_of(metric, values, floor)).items()}
    wanted = {best: "best", worst: "worst"}
    wanted.pop(None, None)
    assert marks == wanted


def test_the_marks_are_in_every_form(finished):
    tables.write_all(finished, ["base", "other"], 2)
    folder = finished.paths.tables
    # KID of base is 0.0263, of the other variant 0.0463 (conftest.py).
    assert "<b>0.0263 ± 0.0071</b>" in (folder / "metrics.html").read_text()
    assert r"\textbf{0.0263 $\pm$ 0.0071}" in (folder / "metrics.tex").read_text()
    text = (folder / "metrics.md").read_text()
    assert "**0.0263 ± 0.0071**" in text and "**0.0463" not in text
    assert text.startswith("# A & B: metrics".replace("&", "\\&"))
    for part in re.split(r"\n\n", text):
        rows = part.splitlines()
        if rows[0].startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def three_variants():
    rows = table_of("kid", {"a": 0.2, "b": 0.1, "c": 0.3}, 0.01)
    return sections(rows), NAMES, 1, ["100 % & more_text: ±, Δ, τ, ×"]


def test_markdown_marks_the_worst_of_three(finished):
    text = markdown_metrics(*three_variants(), "t")
    assert "| **0.100** |" in text and "| *0.300* |" in text and "| 0.200 |" in text


@pytest.mark.parametrize("long", [False, True])
def test_latex_compiles(tmp_path, long):
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex: install Debian's texlive-latex-base and texlive-latex-recommended")
    own, names, folds, remarks = three_variants()
    found = latex_metrics(own * (20 if long else 1), names, folds, remarks, "A caption with 5 % & more.")
    assert (r"\begin{longtable}" in found) == long
    packages = "\n".join(rf"\usepackage{{{name}}}" for name in ("booktabs", "longtable"))
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{found}\n\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 5000
