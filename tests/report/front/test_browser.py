"""The written pages in a browser, without Snakemake's report around them (that: tests/workflow/test_workflow.py)."""

import pytest
from helpers.report_browser import browser_page, check_front, check_samples

from slimdiff import cli


@pytest.fixture(scope="module")
def written(finished):
    assert cli.run_stage("tables", ["--config", finished.model_dump_json()]) == 0
    return finished.paths.tables


def test_the_front_page_answers_first_and_fits_the_window(written):
    with browser_page(scripts=False) as page:
        page.goto((written / "front.html").as_uri())
        check_front(page)
        assert page.locator("#front h1").inner_text().startswith("A & B")
        # Two variants: the first in full, and the states of both.
        assert page.locator("#front table.verdicts").nth(1).locator("tbody tr").count() == 2


def test_the_samples_are_filtered_without_scripts(written):
    check_samples(written / "samples_base.html")
