"""From subjects' scores to rows: pairing, intervals, floors, and reasons for missing values."""

import math
from itertools import product

import numpy as np
import pytest

from slimdiff.evaluation.registry import COLUMNS
from slimdiff.evaluation.utility.scores import Scores, score_slices
from slimdiff.evaluation.utility.utility import signed_rank, utility_rows


def subjects(dice_parts, n_empty=1) -> Scores:
    """Scores of subjects with 10 lesion px and 10 predicted px, `dice_parts` of them correct; then empty subjects."""
    n, whole = len(dice_parts) + n_empty, np.array([*[10] * len(dice_parts), *[0] * n_empty])
    overlap = np.array([*dice_parts, *[0] * n_empty])
    ones = np.ones(n, int)
    return Scores(4 * ones, 2 * ones, 0 * ones, whole, whole, overlap, whole // 10, overlap // 5, ones)


NO_SAMPLES = score_slices(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4), bool), 1)


def table(real, both, percents=(100,), trts=NO_SAMPLES, trts_floor=NO_SAMPLES, **further) -> dict[str, dict]:
    scores = {f"real_{p}": real for p in percents} | {f"real_synthetic_{p}": both for p in percents}
    names = {"study": "s", "variant": "v", "fold": 0}
    rows = utility_rows(names, percents, scores | {"synthetic": real}, (trts, trts_floor), 100, 0, **further)
    assert all(tuple(row) == COLUMNS for row in rows)
    return {row["metric"]: row for row in rows}


def test_a_gain_is_paired_over_subjects():
    # Subjects differ far more than the conditions do.
    real, both = subjects([0, 2, 4, 6, 8, 9]), subjects([1, 3, 5, 7, 9, 10])
    rows = table(real, both)
    gain = rows["utility_dice_gain_100"]
    assert gain["value"] == pytest.approx(0.1)
    assert gain["ci_low"] == pytest.approx(0.1) and gain["ci_high"] == pytest.approx(0.1)
    alone = rows["utility_dice_real_100"]
    assert alone["ci_high"] - alone["ci_low"] > 0.3
    assert (gain["n"], gain["floor"]) == (6, 0.0)
    # All six signs agree: 2 of 2^6 arrangements are as extreme.
    assert "p = 0.031 over 6 subjects that differ, smallest reachable 0.031" in gain["reason"]
    assert "1 of 7 held-out participants have no lesion and no score" in alone["reason"]
    assert "2 held-out" not in gain["reason"]


def test_signed_rank_agrees_with_the_enumeration_of_all_signs():
    for differences in ([0.3, -0.1, 0.5, 0.7, 0.2], [0.2, 0.2, -0.2, 0.4, 0.4, 0.4], [0.5]):
        d = np.array(differences)
        ranks = np.array([np.mean([1 + np.flatnonzero(np.sort(abs(d)) == abs(one))]) for one in d])
        sums = np.array([ranks @ signs for signs in product((0, 1), repeat=len(d))])
        middle, own = ranks.sum() / 2, ranks @ (d > 0)
        p = np.mean(np.abs(sums - middle) >= abs(own - middle) - 1e-9)
        smallest = 2 / 2 ** len(d)
        found = signed_rank(np.array([*differences, 0.0, np.nan]))
        assert found == f"p = {p:.2g} over {len(d)} subjects that differ, smallest reachable {smallest:.2g}"
    assert signed_rank(np.array([0.0, 0.0, np.nan])) == "no difference in any of 2 subjects"


def test_scans_of_one_person_are_no_further_subjects():
    """Every participant twice: as scans of one person they change no interval and no p, as persons they do."""
    dice = [0, 2, 4, 6, 8, 9], [1, 3, 5, 7, 9, 8]
    names = [f"sub-{number}" for number in range(6)]
    once, scans, persons = (
        table(*(subjects(part * times, 0) for part in dice), persons=own)
        for times, own in ((1, names), (2, 2 * names), (2, [*names, *(f"{name}-b" for name in names)]))
    )
    for metric in ("utility_dice_real_100", "utility_dice_gain_100"):
        one, two, many = (rows[metric] for rows in (once, scans, persons))
        assert two["value"] == pytest.approx(one["value"]) == pytest.approx(many["value"])
        widths = [row["ci_high"] - row["ci_low"] for row in (one, two, many)]
        assert widths[1] == pytest.approx(widths[0]) and widths[2] < 0.9 * widths[1], metric
    assert "over 6 subjects" in scans["utility_dice_gain_100"]["reason"]
    assert scans["utility_dice_gain_100"]["reason"] == once["utility_dice_gain_100"]["reason"]
    assert "over 12 subjects" in persons["utility_dice_gain_100"]["reason"]
    # Four persons with two scans each are fewer than five subjects.
    few = table(subjects([4] * 8, 0), subjects([5] * 8, 0), persons=2 * names[:4])["utility_dice_gain_100"]
    assert math.isnan(few["ci_low"]) and few["interval_reason"].startswith("4 held-out subjects")


def test_few_subjects_give_no_interval_and_subjects_without_lesion_no_value():
    rows = table(subjects([4, 6]), subjects([5, 6]), percents=(25, 100))
    for metric, row in rows.items():
        if metric.endswith("_trts") or "false_positive" in metric:
            continue
        assert math.isnan(row["ci_low"])
        assert "2 held-out subjects, at least 5 are required" in row["interval_reason"], metric
    none = table(subjects([], 3), subjects([], 3))
    assert math.isnan(none["utility_dice_real_100"]["value"])
    assert "no held-out subject has a lesion" in none["utility_dice_gain_100"]["reason"]
    assert none["utility_false_positives_real_100"]["value"] == pytest.approx(1 / 4)


def test_rows_of_a_smaller_share_note_that_the_generator_was_trained_on_all_subjects():
    rows = table(subjects([4] * 6), subjects([5] * 6), percents=(25, 100))
    for metric, row in rows.items():
        noted = "generator of the samples was trained on all training subjects" in row["reason"]
        assert noted == (metric.endswith("_25") and "_real_25" not in metric), metric


def test_trts_is_pooled_over_samples_and_its_floor_over_held_out_slices():
    truth, prediction = np.zeros((20, 6, 6), bool), np.zeros((20, 6, 6), bool)
    truth[::2, 1:4, 1:4] = True
    prediction[:8, 1:4, 2:5] = True
    trts = score_slices(truth, prediction, 1)
    held_out = subjects([2, 9, 9, 9, 9, 9])
    row = table(held_out, held_out, trts=trts, trts_floor=held_out)["utility_dice_trts"]
    assert row["value"] == pytest.approx(2 * 4 * 6 / (10 * 9 + 8 * 9))
    assert row["floor"] == pytest.approx(2 * 47 / 120)
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["n"] == 20 and "interval over samples" in row["reason"]
    assert "no sample with a lesion" in table(held_out, held_out)["utility_dice_trts"]["reason"]


def test_samples_without_a_lesion_give_a_reason_in_the_rows_of_samples_alone():
    scores = {"real_100": subjects([4] * 6), "real_synthetic_100": subjects([4] * 6)}
    names = {"study": "s", "variant": "v", "fold": 0}
    rows = utility_rows(
        names,
        (100,),
        scores,
        (NO_SAMPLES, NO_SAMPLES),
        10,
        0,
        "none of 9 samples has a lesion of at least 5 px",
    )
    (row,) = [row for row in rows if row["metric"] == "utility_dice_synthetic"]
    assert math.isnan(row["value"]) and row["reason"].startswith("none of 9 samples")
