"""The comparison in words: it states what the values support, and no more."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers.html_rows import Rows

from slimdiff.evaluation.compare import COLUMNS, pair_row
from slimdiff.evaluation.registry import describe
from slimdiff.files import MISSING, read_table, write_table, written
from slimdiff.report import comparison, tables
from slimdiff.report.comparison import NUMBER_COLUMNS, comparison_body, small, verdict


def as_read(row: dict):
    """A row as `read_comparison` gives it."""
    cells = {name: str(written(row.get(name))) for name in COLUMNS}
    cells = {name: "" if cell == MISSING else cell for name, cell in cells.items()}
    numbers = {name: float(cells[name] or "nan") for name in NUMBER_COLUMNS}
    return next(pd.DataFrame([cells | numbers]).itertuples())


def pair(a, b, way="lower", unit="fold", **changes):
    """The row that compares values a of variant A with values b of variant B, as read from the file."""
    row = pair_row(np.array(a, float), np.array(b, float), way, unit)
    row |= {"metric": "kid", "better": way, "unit": f"{unit}s", "variant_a": "A", "variant_b": "B"}
    row |= {
        "favours": {"a": "A", "b": "B"}.get(row["favours"], row["favours"]),
        "p_holm": row.get("wilcoxon_p"),
    }
    return as_read(row | changes)


def test_three_folds_of_one_sign_cannot_decide():
    assert verdict(pair([1, 2, 3], [2, 4, 6]), 1) == (
        "A lower in 3 of 3 folds; p = 0.25 is the smallest reachable with 3 folds: the signed rank test cannot decide"
    )


@pytest.mark.parametrize(
    ("a", "b", "way", "expected"),
    [
        ([1, 2, 3], [2, 4, 6], "higher", "B higher in 3 of 3 folds;"),
        ([1, 2, 3], [2, 4, 6], "floor", "A closer to the floor in 3 of 3 folds;"),
        ([1, 2, 9], [2, 4, 3], "lower", "A lower in 2 of 3 folds, but B on average;"),
        ([1, 2], [2, 1], "lower", "each lower in 1 of 2 folds;"),
        ([1, 4], [2, 1], "lower", "each lower in 1 of 2 folds, B on average;"),
        ([1, 1, 4], [2, 2, 2], "lower", "A lower in 2 of 3 folds, but neither on average;"),
        ([1, 1], [1, 1], "lower", "no difference in 2 folds"),
        ([1, 2], [2, 4], "none", "no score, neither direction is better;"),
    ],
)
def test_verdict_counts_the_folds_in_which_a_variant_is_better(a, b, way, expected):
    text = verdict(pair(a, b, way), 1)
    assert text.startswith(expected)
    if "no difference" in expected:
        assert text == expected


def test_a_test_that_cannot_decide_after_correction_is_reported():
    row = pair(range(6), range(1, 12, 2))
    assert row.smallest_p == 0.03125
    alone = verdict(row, 1)
    assert alone == "A lower in 6 of 6 folds; p = 0.031: a difference"
    assert "corrected for 3 pairs none below 0.094 is reachable with 6 folds" in verdict(row, 3)


def test_a_large_p_is_not_reported_as_equality():
    text = verdict(pair([1, 2, 3, 4, 5, 6, 7], [2, 1, 4, 3, 6, 5, 7.5], p_holm=1.0), 2)
    assert text.endswith("corrected 1: no difference shown")
    assert "A lower in 4 of 7 folds" in text


def test_the_corrected_p_decides():
    row = pair(range(10), range(1, 20, 2), unit="subject", p_holm=0.004)
    assert verdict(row, 2) == "A lower in 10 of 10 subjects; p = 0.002, corrected 0.004: a difference"
    assert verdict(row._replace(p_holm=0.06), 2).endswith("corrected 0.06: no difference shown")


def test_one_fold_has_no_test_and_a_missing_value_no_verdict():
    assert verdict(pair([1], [2]), 0) == "A lower in 1 of 1 fold"
    assert verdict(pair([math.nan], [2]), 0) == ""


def all_variants(**numbers):
    row = {"metric": "kid", "unit": "folds", "variant_a": "all", "n": 3, "better": "lower"} | numbers
    return as_read(row)


def test_friedman_in_words():
    found = {"friedman": 6.0, "friedman_p": 0.0498, "friedman_exact_p": 1 / 36, "smallest_p": 1 / 36}
    text = verdict(all_variants(**found), 3)
    assert text == (
        "Friedman over 3 folds: χ² = 6 (p = 0.05), exact p = 0.028, smallest reachable 0.028: "
        "the variants' order recurs over folds"
    )
    assert verdict(all_variants(**(found | {"friedman_exact_p": 0.5})), 3).endswith("no common order shown")
    found |= {"friedman_exact_p": 1 / 6, "smallest_p": 1 / 6}
    assert "none below 0.17 is reachable: this test cannot decide" in verdict(all_variants(**found), 3)
    assert verdict(all_variants(), 0) == ""


def test_small_numbers_keep_two_digits():
    assert [small(p) for p in (0.25, 0.0312, 1.0, 0.00012, 3.1e-8, math.nan, 0.0)] == [
        "0.25",
        "0.031",
        "1",
        "0.00012",
        "3.1×10^{−8}",
        "n/a",
        "0",
    ]


@pytest.fixture(scope="module")
def made(finished):
    tables.write_all(finished, ["base", "other"], 2)
    return finished.paths


def test_every_row_of_the_comparison_is_on_the_page_with_its_axis(made):
    text = (made.tables / "comparison.html").read_text()
    page, rows = Rows(text), read_table(made.comparison)
    assert page.open == []
    assert len(rows) == 7
    shown = [row for row in page.rows if row[:2] == ["base", "other"]]
    assert len(shown) == len(rows)
    for row in rows:
        label = describe(row["metric"]).label
        assert any(label in cells[0] for cells in page.rows), label
    assert "invented numbers, no patients" in page.text
    assert "<script" not in text and "://" not in text


def test_cells_of_a_row_and_the_reasons_below(made):
    page = Rows((made.tables / "comparison.html").read_text())
    kid = page.rows[next(i for i, row in enumerate(page.rows) if row[0] == "KID ↓ (alexnet)") + 1]
    assert kid[2:5] == ["0.0263", "0.0463", "−0.0200 ± 0.0000"]
    assert kid[5].startswith("base lower in 2 of 2 folds; p = 0.5 is the smallest reachable with 2 folds")
    assert kid[6:9] == ["0.5 (0.5)", "0.5", "n/a"]
    empty = page.rows[next(i for i, row in enumerate(page.rows) if row[0] == "MMD-PL ↓") + 1]
    assert empty[2:5] == ["n/a"] * 3
    assert empty[5].startswith("n/a")
    assert "no fold with a number of both" in page.text
    assert "no difference in any fold: no test" in page.text


def test_the_tsv_has_the_numbers_and_the_words(made):
    rows, source = read_table(made.tables / "comparison.tsv"), read_table(made.comparison)
    assert sorted(tuple(row[name] for name in COLUMNS) for row in rows) == sorted(
        tuple(row[name] for name in COLUMNS) for row in source
    )
    (kid,) = [row for row in rows if row["metric"] == "kid"]
    assert (kid["axis"], kid["label"]) == ("image", "KID")
    assert kid["says"].startswith("base lower in 2 of 2 folds")


def test_one_variant_gives_a_reason_for_no_comparison(tmp_path):
    write_table(tmp_path / "comparison.tsv", [], COLUMNS)
    body = comparison_body(comparison.read_comparison(tmp_path / "comparison.tsv"), 1)
    assert "one variant" in body
    assert "<table" not in body
