import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.html_rows import Rows

from slimdiff.config import StudyPaths
from slimdiff.data.participants import Participant, read_participants
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.registry import COLUMNS
from slimdiff.files import read_table, write_table
from slimdiff.report import html_page, participants, tables
from slimdiff.report.metric_table import Format, Notes, cell, letters, lines, mean_sd, reading_remarks
from slimdiff.report.paper import latex
from slimdiff.report.results import all_metrics, reason_of_missing

ROW = {
    "variant": "base",
    "fold": 0,
    "z_bin": np.nan,
    "metric": "kid",
    "extractor": "alexnet",
    "value": 0.5,
    "ci_low": np.nan,
    "ci_high": np.nan,
    "floor": np.nan,
    "n": "12",
    "reason": "",
    "interval_reason": "",
}


def frame(*rows: dict) -> pd.DataFrame:
    """Metrics as read from a file: copies of ROW with changes."""
    return pd.DataFrame([ROW | row for row in rows])


def result(value=0.5, **changes):
    return next(frame({"value": value, **changes}).itertuples())


def test_digits_follow_the_middle_value_and_small_floors_stay_visible():
    style = Format.of([0.0213, 0.0313, np.nan])
    assert [style(value) for value in (0.0213, 0.1, -0.02, 0.0)] == ["0.0213", "0.1000", "−0.0200", "0.0000"]
    assert Format.of([11.7, 2.0, 1.5])(11.7) == "11.70"
    assert Format.of([789.6])(789.6) == "790"
    assert Format.of([2.75])(0.0049) == "0.0049"
    assert Format.of([3.2e-8])(3.2e-8) == "3.20×10^{−8}"
    assert Format.of([])(np.nan) == "n/a"


def test_a_cell_has_value_and_interval_or_a_reason():
    notes, style = Notes(), Format(2)
    assert cell(result(0.5, ci_low=0.4, ci_high=0.61), style, notes) == "0.50 [0.40, 0.61]"
    assert cell(result(0.5), style, notes) == "0.50"
    assert cell(result(0.5, reason="9 pairs", interval_reason="3 subjects"), style, notes) == "0.50 [n/a^{a}]"
    assert cell(result(np.nan, reason="expected 10 of each"), style, notes) == "n/a^{b}"
    assert cell(result(np.nan, n="0"), style, notes) == "n/a^{c}"
    assert cell(None, style, notes) == "n/a^{d}"
    assert cell(result(np.nan, reason="expected 10 of each"), style, notes) == "n/a^{b}"
    assert cell(result(np.nan), style, Notes()) == "n/a^{a}"
    assert reason_of_missing(result(np.nan)) == "no reason is given"
    assert [text for _, text in notes.listed()] == [
        "3 subjects",
        "expected 10 of each",
        "nothing to measure, n = 0",
        "not computed in this fold",
    ]


def test_footnote_letters_continue_after_z():
    assert [letters(number) for number in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


def test_sd_over_folds_is_the_sample_sd():
    rows = [{"value": value, "fold": fold, "floor": 0.1 * fold} for fold, value in enumerate((1.0, 2.0, 4.0))]
    (line,) = lines(frame(*rows), ["base"], 3)
    assert line.summary.mean == pytest.approx(7 / 3)
    assert line.summary.sd == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert mean_sd(line.summary, Format(2), 3) == "2.33 ± 1.53"
    assert mean_sd(line.summary, Format(0), 3) == "2 ± 2"
    assert mean_sd(line.summary, Format(2), 4) == "2.33 ± 1.53 (3 of 4 folds)"


def test_extractors_are_never_pooled():
    rows = frame({"value": 1.0}, {"extractor": "inception", "value": 9.0})
    assert [(line.extractor, line.summary.mean) for line in lines(rows, ["base"], 1)] == [
        ("alexnet", 1.0),
        ("inception", 9.0),
    ]


def test_the_smallest_wilcoxon_p_is_given_only_where_variants_are_compared():
    assert not any("Wilcoxon" in text for text in reading_remarks(["base"], 2))
    (remark,) = [text for text in reading_remarks(["base", "other"], 3) if "Wilcoxon" in text]
    assert "0.25" in remark
    assert "can reach 0.05" in remark
    (enough,) = [text for text in reading_remarks(["base", "other"], 8) if "Wilcoxon" in text]
    assert "can reach 0.05" not in enough


@pytest.fixture(scope="module")
def written(finished):
    tables.write_all(finished, ["base", "other"], 2)
    return finished.paths.tables


def test_the_page_shows_value_interval_floor_and_extractor(written):
    text = (written / "metrics.html").read_text()
    page = Rows(text)
    assert page.open == []
    first, second = (
        row for row in page.rows if len(row) > 5 and ("base" in row or "other" in row) and "0.0041" in row
    )
    assert first[:4] == ["KID ↓ (alexnet)", "base", "0.0263 ± 0.0071", "0.0041"]
    assert first[4:6] == ["0.0213 [0.0163, 0.0253]", "0.0041"]
    assert second[0] == "other"
    assert "invented numbers, no patients" in page.text
    assert "A & B" in page.text  # the title has to be escaped
    assert "3 held-out subjects; expected at least 5" in page.text
    assert "7 real and 4 synthetic components; expected 10 of each" in page.text
    assert "smallest p" in page.text
    assert "<script" not in text
    assert "://" not in text


def test_a_remark_that_differs_between_folds_is_not_shown_for_all(written):
    text = Rows((written / "metrics.html").read_text()).text
    assert "held-out slices blurred by 2 px" in text
    assert "real and 12 synthetic components" not in text


def test_the_tsv_has_full_precision_and_every_fold(written):
    rows = read_table(written / "metrics.tsv")
    (kid,) = [row for row in rows if row["metric"] == "kid" and row["variant"] == "other"]
    assert float(kid["mean"]) == pytest.approx(0.0463)
    assert float(kid["fold_1_high"]) == pytest.approx(0.0553)
    assert kid["better"] == "lower"
    (none,) = [row for row in rows if row["metric"] == "mmd_pl" and row["variant"] == "base"]
    assert (none["mean"], none["folds"]) == ("n/a", "0")
    assert none["fold_0_note"].startswith("7 real")


def test_latex_rows_have_all_columns_and_no_bare_special_characters(written):
    text = (written / "metrics.tex").read_text()
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [row for row in body.splitlines() if row.endswith(r"\\") and "multicolumn" not in row]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text).group(1)
    assert len(rows) == 2 * 7
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    content = text.split("\n", 1)[1]
    assert all(ord(character) < 128 for character in content)
    assert not re.search(r"(?<!\\)[%#_]", content)
    assert content.count("{") == content.count("}")
    assert content.count("$") % 2 == 0
    assert r"0.0213 [0.0163, 0.0253]" in content
    assert r"n/a\textsuperscript{" in content


def test_latex_escapes_and_a_long_table_breaks_over_pages():
    assert latex.latex_text("a_b & 5 % ^{c} −1 ± 2") == r"a\_b \& 5 \% \textsuperscript{c} $-$1 $\pm$ 2"
    names = [f"v{number}" for number in range(50)]
    rows = frame(*({"variant": name} for name in names))
    long = latex.latex_metrics([("Images", lines(rows, names, 1))], names, 1, ["a remark"], "A caption.")
    assert r"\begin{longtable}" in long
    assert r"\begin{table}" not in long


def test_html_is_escaped_and_footnote_marks_are_superscripts():
    assert html_page.text("<b> & n/a^{a}") == "&lt;b&gt; &amp; n/a<sup>a</sup>"


def qc(**changes):
    values = {
        "lesion_ml_source": 2.0,
        "lesion_ml_grid": 2.1,
        "lesion_outside_foreground_share": 0.0,
        "foreground_ml": 1400.0,
        "source_spacing_mm": [1.0, 1.0, 1.2],
        "source_orientation": "LPS",
    }
    return values | changes


PATIENT = Participant("sub-01", "fcd", None, "mask.nii.gz")


@pytest.mark.parametrize(
    ("changes", "slices", "lesioned", "odd", "expected"),
    [
        ({}, 20, 4, False, []),
        ({"lesion_outside_foreground_share": 0.5}, 20, 4, False, ["50 % of the lesion outside the head"]),
        ({"lesion_ml_grid": 1.0}, 20, 4, False, ["lesion volume −50 % on the grid"]),
        ({}, 20, 0, False, ["no lesion slice kept"]),
        ({}, 0, 0, False, ["no slice in the store"]),
        ({"foreground_ml": 300.0}, 20, 4, True, ["unusual foreground, 300 ml"]),
    ],
)
def test_flags_name_the_problem(changes, slices, lesioned, odd, expected):
    assert participants.to_check(PATIENT, qc(**changes), slices, lesioned, odd) == expected


def test_a_control_has_no_lesion_flags():
    control = Participant("sub-02", "hc", None, None)
    assert participants.to_check(control, qc(lesion_ml_source=0.0, lesion_ml_grid=0.0), 20, 0, False) == []


def test_an_odd_foreground_is_far_from_the_median():
    sizes = (1400, 1420, 1390, 1410, 1405, 700)
    records = {f"sub-{number}": {"qc": qc(foreground_ml=size)} for number, size in enumerate(sizes)}
    assert participants.odd_sizes(records) == {"sub-5"}
    assert participants.odd_sizes(dict(list(records.items())[-3:])) == set()


def test_the_participants_page_has_splits_volumes_and_exclusions(finished):
    store = SliceStore.open(finished.paths.store)
    people = read_participants(finished.paths.participants)
    excluded = Participant("sub-99", "fcd", people[0].image, people[0].mask, excluded="moved <much>")
    records = participants.read_records(
        {p.participant_id: finished.paths.volume_json(p.participant_id) for p in people}
    )
    splits = [
        {"train": ["sub-01", "sub-02"], "val": [], "test": ["sub-03"]},
        {"train": ["sub-03"], "val": [], "test": ["sub-01"]},
    ]
    page = Rows(participants.participants_body([*people, excluded], records, splits, store))
    head, *rows = page.rows
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert (found["sub-01"]["fold 0"], found["sub-01"]["fold 1"]) == ("train", "test")
    assert (found["sub-02"]["fold 0"], found["sub-02"]["fold 1"]) == ("train", "–")
    source = records["sub-01"]["qc"]["lesion_ml_source"]
    assert found["sub-01"]["lesion, source [ml]"] == f"{source:.2f}"
    own = store.rows_of(["sub-01"])
    assert found["sub-01"]["slices"] == str(len(own))
    assert found["sub-01"]["with lesion"] == str(int(store.label[own].sum()))
    assert found["sub-99"]["to check"] == "excluded: moved <much>"
    assert head[1] == "to check"
    # What all participants share is said once.
    assert not {"axes", "source voxel [mm]"} & set(head)
    axes = records["sub-01"]["qc"]["source_orientation"]
    assert f"axes {axes}." in page.text
    records["sub-01"]["qc"]["source_orientation"] = "LPS"
    head, *rows = Rows(participants.participants_body(people, records, splits, store)).rows
    assert {row[0]: dict(zip(head, row, strict=True))["axes"] for row in rows}["sub-01"] == "LPS"
    assert (
        "Fold 0, participants: train 2 (2 with a lesion), val 0 (0 with a lesion), test 1 (1 with a lesion)."
        in page.text
    )
    assert f"{len(people)} participants in the study, " in page.text
    scans = [replace(row, person="P1" if row is not people[-1] else "n/a") for row in people]
    text = Rows(participants.participants_body(scans, records, splits, store)).text
    assert f"{len(people)} participants (2 persons) in the study, " in text
    # z-bins in which only one training subject has a lesion, or none.
    lesions = store.lesion_subjects(["sub-03"])
    assert lesions.tolist() == [
        int(((store.label == 1) & (store.participant == "sub-03") & (store.z_bin == z_bin)).any())
        for z_bin in range(store.n_bins)
    ]
    few = ", ".join(f"{z_bin} ({count})" for z_bin, count in enumerate(lesions))
    assert (
        f"Fold 1: z-bins in which fewer than 2 training subjects have a lesion (number of subjects): {few}."
        in page.text
    )


def test_utility_is_read_if_present(tmp_path):
    paths = StudyPaths(tmp_path)
    columns = tuple(dict.fromkeys((*COLUMNS, "reason", "interval_reason")))
    row = dict.fromkeys(columns) | {"study": "s", "fold": 0, "z_bin": "all", "metric": "kid", "value": 1.0}
    for variant in ("base", "other"):
        write_table(paths.metrics(variant, 0) / "metrics.tsv", [row | {"variant": variant}], columns)
    gain = row | {"metric": "utility_dice_gain_100", "variant": "base"}
    write_table(paths.utility("base", 0), [gain], columns)
    found = all_metrics(paths, ["base", "other"], 1)
    assert list(found[["variant", "metric"]].itertuples(index=False, name=None)) == [
        ("base", "kid"),
        ("base", "utility_dice_gain_100"),
        ("other", "kid"),
    ]
    assert len(all_metrics(paths, ["base", "other"], 1, utility=False)) == 2
