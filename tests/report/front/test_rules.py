"""The rules of the colours: limits, folds, few subjects, absent rows, and their description in docs/metrics.md."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from slimdiff.report.front import rules
from slimdiff.report.front.verdicts import QUESTIONS, Answer, first_line, judge_samples, uses

ENOUGH = {0: (9, 7), 1: (9, 7)}
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def row(metric, value, low=None, high=None, floor=math.nan, fold=0, extractor=""):
    low, high = (math.nan if side is None else side for side in (low, high))
    return {
        "metric": metric,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "floor": floor,
        "fold": fold,
        "extractor": extractor,
        "z_bin": math.nan,
    }


AS_REAL = [
    row("kid", 0.01, -0.01, 0.03, 0.0, extractor="alexnet"),
    row("kid_blurred", 4.0, extractor="alexnet"),
    row("spectrum", 0.1, 0.05, 0.2, 0.1),
    row("mmd_mf_w1", 0.3, 0.1, 0.4, 0.2),
    row("lesion_area_gap", 0.1, -0.2, 0.3, 0.0),
    row("delta_median", 0.33, 0.3, 0.36, 0.34),
    row("delta_median_shuffled", 0.02),
    row("mmd_pl_w1", 0.3, 0.1, 0.4, 0.2),
    row("lesion_share_class1", 0.98, 0.9, 1, 1),
    row("lesion_share_class0", 0.01, 0, 0.02, 0),
    row("suspect_share", 0.01, 0, 0.02, 0.01, extractor="pixels"),
    row("memorisation_ratio", 0.99, 0.97, 1.01, 1, extractor="pixels"),
    row("outlier_share", 0.01, 0, 0.02, 0.01),
    row("utility_dice_real_100", 0.4),
    row("utility_dice_gain_100", 0.05, 0.02, 0.08, 0),
    row("utility_false_positives_gain_100", -0.1, -0.2, -0.01, 0),
]


def judged(changes=(), subjects=ENOUGH, drop=(), **options):
    """The states of AS_REAL with some rows changed or dropped."""
    rows = [entry for entry in AS_REAL if entry["metric"] not in drop]
    names = {(entry["metric"], entry["extractor"]) for entry in changes}
    rows = [entry for entry in rows if (entry["metric"], entry["extractor"]) not in names] + list(changes)
    verdicts = judge_samples(pd.DataFrame(rows), subjects, **options)
    return {verdict.key: verdict.state for verdict in verdicts}, verdicts


def test_as_close_as_real_slices_is_good_everywhere_and_says_so_first():
    states, verdicts = judged()
    assert set(states.values()) == {"good"} and len(states) == 7
    assert first_line(verdicts)[0] == "good"
    assert [use.allowed for use in uses(verdicts)] == ["yes", "with care", "yes", "no"]


@pytest.mark.parametrize(
    ("changed", "verdict", "state"),
    [
        (row("kid", 0.03, 0.01, 0.05, 0.0, extractor="alexnet"), "texture", "fair"),
        (row("kid", 2.0, 1.9, 2.1, 0.0, extractor="alexnet"), "texture", "bad"),
        (row("kid", 1.99, 1.9, 2.1, 0.0, extractor="alexnet"), "texture", "fair"),
        (row("spectrum", 3.0, 2.9, 3.1, 0.1), "texture", "bad"),
        (row("mmd_mf_w1", 0.9, 0.5, 1.1, 0.2), "shape", "fair"),
        (row("mmd_mf_w1", 1.0, 0.5, 1.1, 0.2), "shape", "bad"),
        (row("lesion_area_gap", -1.0, -1.2, -0.8, 0.0), "shape", "bad"),
        (row("lesion_area_gap", -0.5, -0.6, -0.4, 0.0), "shape", "fair"),
        (row("lesion_area_gap", -0.5, -0.6, -0.4, -0.5), "shape", "good"),
        (row("delta_median", 0.25, 0.22, 0.28, 0.34), "pair", "fair"),
        (row("delta_median", 0.10, 0.08, 0.12, 0.34), "pair", "bad"),
        (row("delta_median", 0.60, 0.55, 0.65, 0.34), "pair", "fair"),
        (row("lesion_share_class1", 0.94, 0.9, 0.97, 1), "class", "fair"),
        (row("lesion_share_class1", 0.79, 0.7, 0.9, 1), "class", "bad"),
        (row("lesion_share_class0", 0.21, 0.1, 0.3, 0), "class", "bad"),
        (row("suspect_share", 0.05, 0.03, 0.07, 0.01, extractor="pixels"), "copies", "fair"),
        (row("suspect_share", 0.10, 0.05, 0.2, 0.01, extractor="pixels"), "copies", "bad"),
        (row("suspect_share", 0.20, 0.01, 0.4, 0.01, extractor="pixels"), "copies", "fair"),
        (row("suspect_share", 0.09, 0.01, 0.4, 0.01, extractor="pixels"), "copies", "good"),
        (row("memorisation_ratio", 0.9, 0.85, 0.95, 1, extractor="pixels"), "copies", "fair"),
        (row("memorisation_ratio", 0.7, 0.65, 0.75, 1, extractor="pixels"), "copies", "bad"),
        (row("memorisation_ratio", 1.4, 1.3, 1.5, 1, extractor="pixels"), "copies", "good"),
        (row("outlier_share", 0.05, 0.03, 0.08, 0.01), "outliers", "fair"),
        (row("outlier_share", 0.30, 0.2, 0.4, 0.01), "outliers", "bad"),
        (row("utility_dice_gain_100", 0.01, -0.02, 0.04, 0), "useful", "fair"),
        (row("utility_dice_gain_100", -0.05, -0.08, -0.02, 0), "useful", "bad"),
        (row("utility_false_positives_gain_100", 0.05, 0.02, 0.08, 0), "useful", "bad"),
        (row("mmd_mf_w1", 0.3, None, None, 0.2), "shape", "unknown"),
    ],
)
def test_each_limit(changed, verdict, state):
    states, _ = judged([changed])
    assert states.pop(verdict) == state
    assert set(states.values()) == {"good"}


def test_a_further_space_of_copies_counts_as_the_others():
    lesions = row("suspect_share", 0.4, 0.3, 0.5, 0.01, extractor="lesion")
    states, verdicts = judged([lesions])
    assert states["copies"] == "bad"
    shown = next(verdict for verdict in verdicts if verdict.key == "copies")
    assert shown.value == "40\u00a0%" and "lesion" in shown.measure


def test_the_worst_fold_decides_and_is_shown():
    far = row("kid", 0.03, 0.01, 0.05, 0.0, extractor="alexnet", fold=1)
    rows = pd.DataFrame([*AS_REAL, far])
    texture = next(verdict for verdict in judge_samples(rows, ENOUGH) if verdict.key == "texture")
    assert (texture.state, texture.fold, texture.value) == ("fair", 1, "0.03")


@pytest.mark.parametrize("subjects", [4, 1, 0])
def test_below_five_held_out_subjects_nothing_that_is_compared_with_them_is_judged(subjects):
    terrible = [row("kid", 9.0, 8.0, 9.9, 0.0, extractor="alexnet"), row("spectrum", 30, 29, 31, 0.1)]
    states, verdicts = judged(terrible, subjects={0: (subjects, subjects)})
    assert states.pop("class") == "good"
    assert set(states.values()) == {"unknown"}
    state, line = first_line(verdicts)
    assert state == "unknown" and "cannot be told" in line
    assert f"fold 0 has {subjects} held-out subjects; at least 5 are needed" in line
    assert uses(verdicts)[0].allowed == "cannot be told"


def test_five_held_out_subjects_are_enough_and_lesions_need_five_with_a_lesion():
    states, verdicts = judged(subjects={0: (5, 4)})
    unknown = {key for key, state in states.items() if state == "unknown"}
    assert unknown == {"shape", "pair", "useful"}
    shape = next(verdict for verdict in verdicts if verdict.key == "shape")
    assert "4 held-out subjects with a lesion" in shape.answer


def test_absent_rows_and_values_are_no_error():
    every = {entry["metric"] for entry in AS_REAL}
    states, verdicts = judged(drop=every - {"spectrum"})
    assert states.pop("texture") == "good" and set(states.values()) == {"unknown"}
    assert first_line(verdicts)[1].startswith("Close to real slices as far as was measured. Cannot be told:")
    states, _ = judged([row("kid", math.nan, extractor="alexnet")])
    assert states["texture"] == "good"


def test_a_study_that_trains_no_segmenter_says_that_use_cannot_be_told():
    states, verdicts = judged(utility=False)
    assert states["useful"] == "unknown"
    assert "utility.enabled" in verdicts[-1].answer


def test_sites_are_judged_only_where_there_are_several():
    assert "sites" not in judged()[0]
    assert judged(sites=["a", "b"])[0]["sites"] == "unknown"
    worst_site = row("kid_worst_site", 0.2, 0.1, 0.3, 0.01, extractor="alexnet")
    assert judged([worst_site], sites=["a", "b"])[0]["sites"] == "fair"


@pytest.mark.parametrize("key", QUESTIONS)
def test_whatever_fails_is_named_in_the_first_line(key):
    verdicts = [Answer(name, "bad" if name == key else "good", "x") for name in QUESTIONS]
    state, line = first_line(verdicts)
    assert state == "bad" and line.startswith("Do not ")


def test_the_documentation_has_the_limits_of_the_module():
    section = (
        DOCS.read_text(encoding="utf-8")
        .partition("## The colours of the front page")[2]
        .partition("\n## ")[0]
    )
    words = " ".join(section.split())
    for text in (
        f"fewer than {['', '', '', '', '', 'five'][rules.FEWEST_SUBJECTS]} held-out subjects",
        f"{rules.BLURRED_SHARE:g} × `kid_blurred`",
        f"{rules.SPECTRUM_DB:g} dB",
        f"{rules.SHAPE_SD:g} standard deviation",
        f"{rules.AREA_DOUBLINGS:g} doubling",
        f"{rules.HALF_WAY:g} of the way",
        f"{rules.CLASS_GOOD:.0%}".replace("%", " %"),
        f"{rules.CLASS_BAD:.0%}".replace("%", " %"),
        f"R ≤ {rules.RATIO_BAD:g}",
        f"{rules.SHARE_BAD:.0%}".replace("%", " %"),
    ):
        assert text in words, text
    named = set(re.findall(r"`([a-z_0-9]+)`", section))
    used = {metric for metrics in rules.STATE_OF.values() for metric in metrics}
    assert used <= named
