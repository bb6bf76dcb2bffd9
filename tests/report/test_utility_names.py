"""Rows of usefulness are named for people, sorted by score, condition and share, and read where they are."""

import random

import numpy as np
import pytest

from slimdiff.config import StudyPaths
from slimdiff.evaluation.axes.fold_evaluation import COLUMNS
from slimdiff.evaluation.utility.scores import score_slices
from slimdiff.evaluation.utility.utility import SCORES, utility_rows
from slimdiff.files import write_table
from slimdiff.report.results import all_metrics
from slimdiff.report.vocabulary import describe, heading, order


@pytest.fixture(scope="module")
def rows():
    """What the stage writes for three shares and no subject."""
    nothing = score_slices(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4), bool), 1)
    conditions = [f"{kind}_{p}" for kind in ("real", "real_synthetic") for p in (25, 50, 100)]
    names = {"study": "s", "variant": "base", "fold": 0}
    return utility_rows(names, (25, 50, 100), dict.fromkeys(conditions, nothing), (nothing, nothing), 10, 0)


def test_every_row_that_is_written_has_a_name(rows):
    assert len(rows) == len(SCORES) * (3 * 3 + 2)
    labels = [describe(row["metric"]).label for row in rows]
    assert len(set(labels)) == len(labels)
    assert all(describe(row["metric"]).axis == "utility" for row in rows)
    assert not any(label.startswith("utility_") for label in labels)
    assert heading("utility_dice_real_synthetic_25") == "Dice, real + synthetic, 25 % ↑"
    assert (
        heading("utility_false_positives_gain_100") == "False positives a slice, gain by synthetic, 100 % ↓"
    )
    assert heading("utility_dice_trts") == "Dice, tested on synthetic ≈"
    assert describe("utility_other_real_25").axis == "other"


def test_shares_stand_in_their_order(rows):
    names = [row["metric"] for row in rows]
    shuffled = random.Random(0).sample(names, len(names))
    wanted = [
        f"utility_{score}_{condition}"
        for score in SCORES
        for condition in (
            *(f"{kind}_{p}" for kind in ("real", "real_synthetic", "gain") for p in (25, 50, 100)),
            "synthetic",
            "trts",
        )
    ]
    assert sorted(shuffled, key=order) == wanted
    assert order("memorisation_w1") < order(wanted[0]) < order("unheard_of")


def test_rows_are_read_where_there_are_any(rows, tmp_path):
    paths = StudyPaths(tmp_path)
    row = dict.fromkeys(COLUMNS) | {"study": "s", "fold": 0, "z_bin": "all", "metric": "kid", "value": 1.0}
    for variant in ("base", "other"):
        write_table(paths.metrics(variant, 0) / "metrics.tsv", [row | {"variant": variant}], COLUMNS)
    write_table(paths.utility("base", 0), rows, COLUMNS)
    found = all_metrics(paths, ["base", "other"], 1)
    counts = {name: sum(row.variant == name for row in found) for name in ("base", "other")}
    assert counts == {"base": 1 + len(rows), "other": 1}
