"""Secrets in every path, address and text of a study, and in none of its results."""

from pathlib import Path

import pytest
from helpers.hostile_study import run, secrets_in, titles_in_a_browser, write_hostile_study

from slimdiff import weights
from slimdiff.config import load_study

WORKING = ("participants.tsv", "quality.tsv", "quality/", "logs/")
"""Later stages read their inputs from these, and logs are for the user alone (docs/publishing.md)."""


def leaks(root: Path) -> dict[str, set[str]]:
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    found = {name: secrets_in(path) for name, path in files.items() if not name.startswith(WORKING)}
    return {name: words for name, words in found.items() if words}


def test_no_result_as_far_as_the_sheet_has_a_secret(hostile):
    root = load_study(hostile / "study.json").paths.root
    assert (root / "volumes").is_dir() and not leaks(root)


@pytest.mark.slow
def test_no_result_of_a_whole_study_has_a_secret_or_runs_a_script(tmp_path):
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"extractor weights: {error}")
    root = load_study(write_hostile_study(tmp_path)).paths.root
    done = run(tmp_path, "all", "export")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "report.html").is_file() and (root / "export" / "bids").is_dir()
    assert not leaks(root)
    for page in (root / "report.html", *root.rglob("tables/*.html")):
        assert not (titles_in_a_browser(page, tmp_path / "browser") or "").startswith("script of"), page.name
