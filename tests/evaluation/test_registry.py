"""The registry has a row for every metric that a stage writes, and alone defines how a metric is read."""

import random
import subprocess
import sys

import numpy as np
import pytest

from slimdiff.evaluation.registry import (
    AXES,
    METRICS,
    SYMBOLS,
    UTILITY_SCORES,
    better,
    describe,
    heading,
    order,
    utility_metric,
)
from slimdiff.evaluation.utility.scores import score_slices
from slimdiff.evaluation.utility.utility import SCORES, utility_rows

PERCENTS = (25, 50, 100)


@pytest.fixture(scope="module")
def rows():
    """The rows that the stage utility writes for three shares and no subjects."""
    nothing = score_slices(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4), bool), 1)
    conditions = [f"{kind}_{p}" for kind in ("real", "real_synthetic") for p in PERCENTS]
    names = {"study": "s", "variant": "base", "fold": 0}
    return utility_rows(names, PERCENTS, dict.fromkeys(conditions, nothing), (nothing, nothing), 10, 0)


def test_a_row_is_complete_and_its_key_is_its_name():
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.axis in AXES, name
        assert metric.better in SYMBOLS, name
        assert metric.label and isinstance(metric.headline, bool), name
        assert metric.anchor is None or metric.anchor[0] in METRICS, name
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(labels)) == len(labels)


def test_metrics_of_one_axis_are_one_block_in_the_order_of_the_axes():
    axes = [metric.axis for metric in METRICS.values()]
    assert list(dict.fromkeys(axes)) == list(AXES)
    assert axes == sorted(axes, key=list(AXES).index)


def test_every_utility_metric_is_in_the_registry(rows):
    assert set(SCORES) == set(UTILITY_SCORES)
    assert len(rows) == len(SCORES) * (3 * len(PERCENTS) + 2)
    assert all(describe(row["metric"]).axis == "utility" for row in rows)
    assert heading("utility_dice_real_synthetic_25") == "Dice, real + synthetic, 25 % ↑"
    gain = utility_metric("false_positives", "gain", 100)
    assert heading(gain) == "False positives per slice, gain from synthetic, 100 % ↓"
    assert heading("utility_dice_trts") == "Dice, tested on synthetic ≈"


def test_utility_is_sorted_by_score_condition_and_share(rows):
    names = [row["metric"] for row in rows]
    shuffled = random.Random(0).sample(names, len(names))
    expected = [
        f"utility_{score}_{condition}"
        for score in SCORES
        for condition in (
            *(f"{kind}_{p}" for kind in ("real", "real_synthetic", "gain") for p in PERCENTS),
            "synthetic",
            "trts",
        )
    ]
    assert sorted(shuffled, key=order) == expected
    assert order("memorisation_w1") < order(expected[0])


def test_which_direction_is_better():
    assert (better("kid"), better("precision"), better("lpips")) == ("lower", "higher", "floor")
    assert (better("frac_bright_gap"), better("kid_blurred")) == ("zero", "none")
    assert (better("mmd_mf_w1_area"), better("mmd_pl_w1_delta")) == ("lower", "lower")
    assert better("utility_dice_gain_100") == "higher"
    assert better("utility_false_positives_gain_50") == "lower"
    assert better("utility_dice_trts") == "floor"


@pytest.mark.parametrize(
    "name", ["unheard_of", "utility_other_real_25", "utility_dice_real_101", "mmd_mf_w1_"]
)
def test_an_unknown_metric_is_an_error_that_names_it(name):
    for function in (describe, better, heading, order):
        with pytest.raises(ValueError, match=f"metric {name}: .*registry.py"):
            function(name)


def test_the_registry_imports_nothing_heavy():
    script = "import sys, slimdiff.evaluation.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"torch", "scipy", "pandas", "matplotlib", "seaborn", "slimdiff.report", "slimdiff.config"}
    assert not heavy & set(done.stdout.split())
