"""The comparison of variants: directions, folds with missing values, the unit of analysis, and significance."""

import json

import numpy as np
import pytest

from slimdiff import cli
from slimdiff.config import StudyPaths
from slimdiff.evaluation.compare import COLUMNS, compare, pair_row
from slimdiff.evaluation.registry import COLUMNS as METRIC_COLUMNS
from slimdiff.evaluation.registry import better
from slimdiff.files import read_table, write_table

KID = {"a": (0.01, 0.02, 0.03), "b": (0.02, 0.04, 0.06), "c": (0.03, 0.05, 0.09)}


def metric(name, value, floor=None, z_bin="all", extractor=None, n=12):
    return {"metric": name, "value": value, "floor": floor, "z_bin": z_bin, "extractor": extractor, "n": n}


@pytest.fixture
def paths(tmp_path):
    return StudyPaths(tmp_path / "tiny")


def write(paths, variant, fold, rows, name="metrics.tsv"):
    common = {"study": "tiny", "variant": variant, "fold": fold}
    write_table(paths.metrics(variant, fold) / name, [common | row for row in rows], METRIC_COLUMNS)


def compared(paths, variants, folds, **options):
    compare(paths, list(variants), folds, **options)
    return read_table(paths.comparison, COLUMNS)


def write_kid(paths, numbers=KID, extra=lambda value: []):
    for variant, values in numbers.items():
        for fold, value in enumerate(values):
            write(paths, variant, fold, [metric("kid", value, 0.001, extractor="alexnet"), *extra(value)])


def find(rows, a, b=None, name="kid"):
    (row,) = [
        row
        for row in rows
        if row["metric"] == name and row["variant_a"] == a and row["variant_b"] == (b or "n/a")
    ]
    return row


def test_a_pair_by_hand(paths):
    write_kid(paths)
    rows = compared(paths, "abc", 3)
    assert len(rows) == 4
    row = find(rows, "a", "b")
    numbers = {name: float(row[name]) for name in ("mean_a", "mean_b", "mean_difference", "sd_difference")}
    assert numbers == pytest.approx(
        {"mean_a": 0.02, "mean_b": 0.04, "mean_difference": -0.02, "sd_difference": 0.01}
    )
    assert (row["study"], row["extractor"], row["unit"], row["n"]) == ("tiny", "alexnet", "folds", "3")
    assert (row["better"], row["compared"], row["favours"]) == ("lower", "value", "a")
    assert (row["a_better"], row["b_better"], row["sign_agreement"]) == ("3", "0", "3/3")
    # Three differences of one sign: p = 2 / 2^3, times 3 for three pairs.
    assert (row["wilcoxon_p"], row["smallest_p"], row["p_holm"]) == ("0.25", "0.25", "0.75")
    # Of 9 combinations 1 is higher, 7 are lower and 1 is tied.
    assert float(row["cliffs_delta"]) == pytest.approx(-6 / 9)
    assert row["size"] == "large"


def test_the_row_of_all_variants_comes_first_and_nemenyi_is_given_for_pairs(paths):
    write_kid(paths)
    rows = compared(paths, "abc", 3)
    assert rows[0] == find(rows, "all")
    assert float(rows[0]["friedman_exact_p"]) == pytest.approx(1 / 36)
    assert float(rows[0]["friedman"]) == pytest.approx(6)
    assert rows[0]["wilcoxon_p"] == rows[0]["mean_a"] == "n/a"
    assert float(find(rows, "a", "c")["nemenyi_exact_p"]) == pytest.approx(1 / 36)
    assert 0.03 < float(find(rows, "a", "c")["nemenyi_p"]) < 0.05
    assert float(find(rows, "a", "b")["nemenyi_p"]) > 0.3


def test_two_variants_have_no_row_of_all_variants(paths):
    write_kid(paths, {name: KID[name] for name in "ab"})
    (row,) = compared(paths, "ab", 3)
    assert row["nemenyi_p"] == "n/a"
    assert row["p_holm"] == row["wilcoxon_p"] == "0.25"


@pytest.mark.parametrize(
    ("name", "a", "b", "favours"),
    [
        ("kid", (1, 1, 1), (2, 2, 3), "a"),
        ("recall", (1, 1, 1), (2, 2, 3), "b"),
        # Distances to a floor of 2: 1, 1, 1 and 0, 0, 1.
        ("lpips", (1, 1, 1), (2, 2, 3), "b"),
        ("lpips", (3, 1, 2), (6, -2, 2), "a"),
        ("kid_blurred", (1, 1, 1), (2, 2, 3), "n/a"),
        ("kid", (1, 2, 3), (3, 2, 1), "neither"),
    ],
)
def test_which_is_better_depends_on_the_metric(paths, name, a, b, favours):
    for variant, values in (("a", a), ("b", b)):
        for fold, value in enumerate(values):
            write(paths, variant, fold, [metric(name, value, 2.0)])
    (row,) = compared(paths, "ab", 3)
    assert row["favours"] == favours
    assert row["compared"] == ("|value - floor|" if better(name) == "floor" else "value")
    if name == "lpips":
        assert float(row["mean_a"]) == pytest.approx(np.abs(np.array(a) - 2.0).mean())


def test_pseudo_replicates_change_nothing(paths):
    """More samples, z-bins and replicas of the same trainings add no evidence."""
    write_kid(paths)
    plain = compared(paths, "abc", 3)

    def by_bin(value):
        shifts = (-0.005, 0, 0.005) * 20
        return [
            metric("kid", value + shift, 0.001, z_bin, "alexnet", n=2) for z_bin, shift in enumerate(shifts)
        ]

    write_kid(paths, extra=by_bin)
    assert compared(paths, "abc", 3) == plain
    for variant, values in KID.items():
        for fold, value in enumerate(values):
            write(paths, variant, fold, [metric("kid", value, 0.001, extractor="alexnet", n=24000)])
    assert compared(paths, "abc", 3) == plain


def test_a_duplicate_row_is_refused(paths):
    write_kid(paths, extra=lambda value: [metric("kid", value, extractor="alexnet")])
    with pytest.raises(
        ValueError, match=r"a/fold-0/metrics\.tsv: expected one row of kid \(alexnet\).*found a duplicate"
    ):
        compare(paths, ["a", "b", "c"], 3)


def test_folds_with_missing_values_are_left_out_and_named(paths):
    write_kid(paths, KID | {"b": (0.02, np.nan, 0.06)})
    rows = compared(paths, "abc", 3)
    assert (find(rows, "a", "b")["n"], find(rows, "a", "c")["n"], find(rows, "all")["n"]) == ("2", "3", "2")
    assert float(find(rows, "a", "b")["mean_a"]) == pytest.approx(0.02)
    assert find(rows, "a", "b")["smallest_p"] == "0.5"
    assert "fold 1 left out, no number of b" in find(rows, "a", "b")["note"]
    assert "fold 1 left out, no number of b" in find(rows, "all")["note"]
    assert find(rows, "a", "c")["note"] == "n/a"
    assert float(find(rows, "all")["smallest_p"]) == pytest.approx(1 / 6)


def test_a_missing_floor_counts_as_a_missing_value(paths):
    for variant in "ab":
        for fold in range(2):
            write(paths, variant, fold, [metric("lpips", 0.3 + fold, 0.2 if fold else None)])
    (row,) = compared(paths, "ab", 2)
    assert row["n"] == "1"
    assert "fold 0 left out, no number of a, b" in row["note"]


def test_a_variant_without_values_does_not_prevent_the_test_of_the_others(paths):
    write_kid(paths, KID | {"d": (np.nan,) * 3})
    rows = compared(paths, "abcd", 3)
    assert float(find(rows, "all")["friedman_exact_p"]) == pytest.approx(1 / 36)
    assert "without d: no number in any fold" in find(rows, "all")["note"]
    assert find(rows, "a", "d")["n"] == "0"
    assert "no fold with a number of both" in find(rows, "a", "d")["note"]
    # Holm counts the three tests that were made, not the six pairs.
    assert find(rows, "a", "b")["p_holm"] == "0.75"


def test_one_fold_gives_means_and_a_reason_for_no_test(paths):
    write_kid(paths, {name: values[:1] for name, values in KID.items()})
    for row in compared(paths, "abc", 1):
        tested = ("wilcoxon_p", "smallest_p", "p_holm", "nemenyi_p", "cliffs_delta", "friedman_exact_p")
        assert {row[name] for name in (*tested, "sd_difference")} == {"n/a"}
        assert "no test" in row["note"]
    assert float(find(compared(paths, "abc", 1), "a", "b")["mean_difference"]) == pytest.approx(-0.01)


def test_one_variant_gives_only_a_header(paths):
    write_kid(paths, {"a": KID["a"]})
    assert compared(paths, "a", 3) == []


def test_folds_with_the_same_test_subjects_have_a_note(paths):
    write_kid(paths)
    for row in compared(paths, "abc", 3, same_test=True):
        assert "same test subjects" in row["note"]
    assert all("same test subjects" not in row["note"] for row in compared(paths, "abc", 3))


def test_extractors_are_compared_separately(paths):
    for variant, value in (("a", 1.0), ("b", 2.0)):
        rows = [metric("kid", value, extractor="alexnet"), metric("kid", 9 - value, extractor="vgg16")]
        for fold in range(2):
            write(paths, variant, fold, rows)
    assert [(row["extractor"], row["favours"]) for row in compared(paths, "ab", 2)] == [
        ("alexnet", "a"),
        ("vgg16", "b"),
    ]


def test_rounding_breaks_neither_ties_nor_zeros():
    # In floating point 0.3 - 0.2 and 0.2 - 0.1 differ, and so do 0.1 + 0.2 and 0.3.
    row = pair_row(np.array([0.3, 0.2, 0.1 + 0.2]), np.array([0.2, 0.1, 0.3]), "higher")
    assert (row["a_better"], row["b_better"], row["sign_agreement"]) == (2, 0, "2/3")
    assert row["smallest_p"] == 0.5
    assert "1 fold without a difference" in row["note"]


def test_exchanging_variants_exchanges_the_signs(paths):
    write_kid(paths)
    there, back = find(compared(paths, "ac", 3), "a", "c"), find(compared(paths, "ca", 3), "c", "a")
    assert float(there["mean_difference"]) == -float(back["mean_difference"])
    assert float(there["cliffs_delta"]) == -float(back["cliffs_delta"])
    for name in ("wilcoxon_p", "smallest_p", "favours", "sign_agreement", "sd_difference"):
        assert there[name] == back[name]


def write_subjects(paths, folder, fold, condition, scores, share=1.0, persons=None):
    columns = ("participant", "condition", "share", "dice", *(["person"] if persons else []))
    rows = [
        {"participant": name, "condition": condition, "share": share, "dice": dice}
        | ({"person": persons.get(name, name)} if persons else {})
        for name, dice in scores.items()
    ]
    write_table(paths.utility_subjects(folder, fold), rows, columns)


def test_segmenters_are_paired_over_all_held_out_subjects(paths):
    """Each subject is tested in one fold; controls have no Dice and are left out."""
    write_kid(paths, {"a": KID["a"][:2]})
    real = [{"s1": 0.5, "s2": 0.6, "s3": None}, {"s4": 0.4, "s5": 0.7}]
    both = [{"s3": None, "s2": 0.8, "s1": 0.6}, {"s5": 0.73, "s4": 0.44}]
    for fold in range(2):
        write_subjects(paths, "real", fold, "real", real[fold])
        write_subjects(paths, "a", fold, "real_synthetic", both[fold])
    (row,) = compared(paths, "a", 2)
    assert (row["metric"], row["unit"], row["n"]) == ("utility_dice_gain_100", "subjects", "4")
    assert (row["variant_a"], row["variant_b"], row["favours"]) == ("a", "real", "a")
    assert float(row["mean_difference"]) == pytest.approx((0.1 + 0.2 + 0.03 + 0.04) / 4)
    assert row["wilcoxon_p"] == row["smallest_p"] == "0.125"
    assert "the result may differ for another training" in row["note"]


def test_a_subject_of_several_folds_counts_once(paths):
    write_kid(paths, {"a": KID["a"][:2]})
    for fold in range(2):
        write_subjects(paths, "real", fold, "real", {"s1": 0.5, "s2": 0.6}, 0.5)
        write_subjects(paths, "a", fold, "real_synthetic", {"s1": 0.6 + 0.2 * fold, "s2": 0.7}, 0.5)
    (row,) = compared(paths, "a", 2)
    assert (row["metric"], row["n"]) == ("utility_dice_gain_50", "2")
    assert float(row["mean_a"]) == pytest.approx((0.7 + 0.7) / 2)
    assert "counts once" in row["note"]
    assert "trained on all training subjects" in row["note"]


def test_scans_of_one_person_count_once(paths):
    """A column `person` makes one pair of two scans; without it, each participant is a subject."""
    real = {"s1": 0.5, "s2": 0.6, "s3": 0.4}
    both = {"s1": 0.6, "s2": 0.9, "s3": 0.45}
    found = []
    for persons in (None, {"s2": "s1"}):
        write_kid(paths, {"a": KID["a"][:1]})
        write_subjects(paths, "real", 0, "real", real, persons=persons)
        write_subjects(paths, "a", 0, "real_synthetic", both, persons=persons)
        found += compared(paths, "a", 1)
    assert [row["n"] for row in found] == ["3", "2"]
    differences = [float(row["mean_difference"]) for row in found]
    assert differences == pytest.approx([(0.1 + 0.3 + 0.05) / 3, (0.2 + 0.05) / 2])
    assert [float(row["smallest_p"]) for row in found] == [0.25, 0.5]
    assert ["counts once" in row["note"] for row in found] == [False, True]


def test_utility_rows_are_compared_like_metrics_and_holm_corrects_for_variants(paths):
    write_kid(paths, {name: KID[name] for name in "ab"})
    scores = {f"s{number}": 0.3 + 0.05 * number for number in range(6)}
    for fold in range(3):
        own = {f"{name}-{fold}": score for name, score in scores.items()}
        write_subjects(paths, "real", fold, "real", own)
        for number, variant in enumerate("ab"):
            gain = {name: score + (0.02 if number else 0.01) * score for name, score in own.items()}
            write_subjects(paths, variant, fold, "real_synthetic", gain)
            row = metric("utility_dice_gain_100", 0.01 + number, 0)
            write(paths, variant, fold, [row], "utility.tsv")
    rows = [row for row in compared(paths, "ab", 3) if row["metric"] == "utility_dice_gain_100"]
    assert [(row["unit"], row["favours"]) for row in rows] == [
        ("folds", "b"),
        ("subjects", "a"),
        ("subjects", "b"),
    ]
    for row in rows[1:]:
        assert (row["n"], float(row["p_holm"])) == ("18", pytest.approx(2 * float(row["wilcoxon_p"])))


def test_a_missing_column_or_table_is_named(paths):
    write_kid(paths)
    write_table(paths.metrics("b", 1) / "metrics.tsv", [{"metric": "kid"}], ("metric", "value"))
    with pytest.raises(ValueError, match=r"b/fold-1/metrics\.tsv: no column"):
        compare(paths, ["a", "b"], 3)
    write_kid(paths)
    write_subjects(paths, "a", 0, "real_synthetic", {"s1": 0.5})
    with pytest.raises(OSError, match=r"real/fold-0/utility_subjects\.tsv"):
        compare(paths, ["a", "b"], 3)


@pytest.mark.parametrize("use_split", [False, True])
def test_the_command_takes_variants_and_folds_from_the_study(tmp_path, use_split):
    study = {
        "study": "tiny",
        "results_dir": str(tmp_path),
        "variants": {"a": {}, "b": {}},
        "folds": {"k": 2, "use_split": use_split},
    }
    paths = StudyPaths.of(str(tmp_path), "tiny")
    write_kid(paths)
    assert cli.metrics(["compare", "--config", json.dumps(study)]) == 0
    (row,) = read_table(paths.comparison)
    assert (row["variant_a"], row["variant_b"], row["n"]) == ("a", "b", "2")
    assert ("same test subjects" in row["note"]) == use_split
