import re
import xml.etree.ElementTree

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from slimdiff import stages
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import Participant, read_participants
from slimdiff.evaluation.registry import METRICS
from slimdiff.generation.samples import read_samples
from slimdiff.report import curves, figures, nearest, slices
from slimdiff.report.outliers import outlier_sheet
from slimdiff.report.results import (
    all_metrics,
    read_history,
    read_neighbours,
    read_outliers,
    read_training_subjects,
    read_validation,
)
from slimdiff.report.style import figure_style, save

DPI = 80


def words(figure):
    """Every text of a figure, axes' titles and labels included."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_a_participant_is_shown_by_the_slice_with_the_largest_lesion(finished, store):
    for person in read_participants(finished.paths.participants):
        row = slices.shown_slice(store, person.participant_id)
        own = store.rows_of([person.participant_id])
        areas = {int(r): int(store.masks[r].sum()) for r in own}
        if max(areas.values()):
            assert areas[row] == max(areas.values())
        else:
            assert sorted(store.z[own])[len(own) // 2] == store.z[row]
    assert slices.shown_slice(store, "absent") is None


def test_the_cohort_shows_all_participants_and_the_reason_of_an_exclusion(finished, store):
    people = read_participants(finished.paths.participants)
    excluded_one = Participant("sub-99", "fcd", people[0].image, people[0].mask, excluded="moved a lot")
    without_slices = Participant("sub-98", "fcd", people[0].image, people[0].mask)
    with figure_style():
        texts = words(slices.cohort(store, [*people, excluded_one, without_slices], DPI))
    assert {person.participant_id for person in people} <= set(texts)
    assert any("sub-99, moved a lot" in text for text in texts)
    assert "no slice\nin the store" in texts
    patients = sum(person.is_patient for person in people) + 1
    assert texts[0].startswith(f"{len(people) + 1} participants: {patients} with a lesion mask")


def test_bins_are_spread_from_the_lowest_to_the_highest():
    assert slices.spread_bins(6).tolist() == [0, 1, 2, 3, 4, 5]
    many = slices.spread_bins(30)
    assert len(many) == 10
    assert (many[0], many[-1]) == (0, 29)
    assert set(np.diff(many)) <= {3, 4}


def test_rows_are_selected_by_seed_and_from_different_subjects_first():
    rows = np.arange(100, 120)
    owners = np.array(["a"] * 18 + ["b", "c"])
    drawn = slices.select_rows(rows, owners, 3, (1, 0))
    assert set(owners[drawn - 100]) == {"a", "b", "c"}
    assert (drawn == slices.select_rows(rows, owners, 3, (1, 0))).all()
    assert any((drawn != slices.select_rows(rows, owners, 3, (1, seed))).any() for seed in range(1, 5))
    assert len(slices.select_rows(rows[:2], owners[:2], 3, (1, 0))) == 2


def test_synthetic_masks_are_outlined_above_tau_and_only_held_out_subjects_are_shown(finished, store):
    held_out = read_folds(finished.paths.folds, 0)["test"]
    samples = read_samples(finished.paths.samples("base", 0))
    with figure_style():
        low = slices.real_and_synthetic(store, held_out, samples, 2, DPI, 0.0)
        high = slices.real_and_synthetic(store, held_out, samples, 2, DPI, 1.5)

    def outlined(figure):
        return sum(bool(item.get_paths()) for item in figure.findobj(LineCollection))

    # Two samples of class 1 in each of three z-bins have a mask of value 1.
    assert outlined(low) - outlined(high) == 6
    shown = {text for text in words(low) if text.startswith("sub-")}
    assert shown
    assert shown <= set(held_out)


def test_a_bin_without_real_slices_is_labelled(finished, store):
    samples = read_samples(finished.paths.samples("base", 0))
    with figure_style():
        texts = words(slices.real_and_synthetic(store, [], samples, 1, DPI))
    assert texts.count("no such\nslice") == 2 * store.n_bins


def test_the_closest_pairs_come_first_over_all_folds(finished, store):
    neighbours = read_neighbours(finished.paths, "base", 2)
    pairs = nearest.closest(neighbours, "pixels", 4)
    assert pairs["distance"].tolist() == pytest.approx([0.5, 0.5, 0.6, 0.6])
    assert pairs["fold"].tolist() == [0, 1, 0, 1]
    samples = {fold: read_samples(finished.paths.samples("base", fold)) for fold in range(2)}
    with figure_style():
        texts = words(nearest.nearest_sheet(store, samples, neighbours, *others(finished), 6, DPI))
    # Two of six distances are below the threshold in each fold, in two spaces; six samples are shown in each space.
    assert texts.count("flagged") == 2 * 4
    assert texts.count("not flagged") == 2 * 2
    count = len(samples[0].images)
    assert texts.count(f"fold 1: 2 of {count} flagged") == 2
    assert texts.count(pairs["train_participant"].iloc[0]) >= 2


def test_the_highest_scores_come_first_and_outliers_are_named(finished, store):
    scored = read_outliers(finished.paths, "base", 2)
    samples = {fold: read_samples(finished.paths.samples("base", fold)) for fold in range(2)}
    count = len(samples[0].id)
    with figure_style():
        texts = words(outlier_sheet(store, samples, scored, 8, DPI))
    # Three outliers in each of two folds, of which the last samples have no score.
    assert any(text.startswith(f"6 of {2 * (count - 1)} samples are outliers") for text in texts)
    assert any("2 samples without a score" in text for text in texts)
    assert [text for text in texts if re.fullmatch(r"\d\.\d", text)] == [
        "5.0",
        "5.0",
        "4.5",
        "4.5",
        "4.0",
        "4.0",
        "3.5",
        "3.5",
    ]
    assert texts.count("spots") == 6
    scored["outlier"] = False
    with figure_style():
        texts = words(outlier_sheet(store, samples, scored.head(0), 8, DPI))
    assert any(text.startswith("no sample is an outlier") for text in texts)


def others(finished):
    """Training subjects and metrics of the variant base."""
    return read_training_subjects(finished.paths, "base", 2), all_metrics(finished.paths, ["base"], 2)


def test_without_a_neighbour_the_sheet_says_why_it_is_empty(finished, store):
    nothing = read_neighbours(finished.paths, "base", 2).head(0)
    with figure_style():
        texts = words(nearest.nearest_sheet(store, {}, nothing, *others(finished), 6, DPI))
    assert "n/a: no sample has a training slice in its z-bin" in texts


def test_metrics_by_variant_show_value_interval_floor_and_reason(finished):
    rows = all_metrics(finished.paths, ["base", "other"], 2)
    with figure_style():
        figure = curves.by_variant(rows, ["base", "other"], 2, "a title")
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert "KID ↓ (alexnet)" in panels
    assert not any("blurred" in title for title in panels)
    kid = panels["KID ↓ (alexnet)"]
    drawn = {tuple(np.round(line.get_xdata(), 6)) for line in kid.lines}
    # In one fold: the floors of both variants, and their values.
    assert {(0.0041, 0.0041), (0.0213, 0.0413)} <= drawn
    bars = [path.vertices for lines in kid.collections for path in lines.get_paths()]
    first = next(bar for bar in bars if bar[:, 0] == pytest.approx([0.0163, 0.0253]))
    assert all(kid.get_xlim()[1] > bar[:, 0].max() for bar in bars)
    values = next(line for line in kid.lines if line.get_xdata()[0] == pytest.approx(0.0213))
    assert first[:, 1] == pytest.approx([values.get_ydata()[0]] * 2)
    # The anchor is far beyond the values: it is labelled at the edge, and the scale fits the values.
    assert panels["KID ↓ (alexnet)"].get_xlabel() == "held-out slices, blurred: 0.9 →"
    assert panels["KID ↓ (alexnet)"].get_xlim()[1] < 0.2
    reasons = [text.get_text() for text in panels["MMD-PL ↓"].texts]
    assert len(reasons) == 4
    assert all(reason.startswith("n/a: 7 real and 4 synthetic") for reason in reasons)


@pytest.mark.parametrize("variant", ["base", "a_variant_with_a_long_name"])
def test_panel_titles_do_not_overlap(finished, variant):
    measured = all_metrics(finished.paths, ["base"], 1)
    # Of the 100 possible shares of utility, only the default ones.
    left_out = {f"utility_dice_gain_{percent}" for percent in range(1, 101) if percent not in (25, 50, 100)}
    headlines = [name for name, entry in METRICS.items() if entry.headline and name not in left_out]
    rows = pd.concat(
        [measured.head(1).assign(metric=name, extractor="", variant=variant) for name in headlines]
    )
    with figure_style():
        figure = curves.by_variant(rows, [variant], 1, "a title")
        figure.draw_without_rendering()
    texts = {axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()} - {""}
    titles = [text for text in figure.findobj(Text) if text.get_text() in texts]
    boxes = [title.get_window_extent() for title in titles]
    assert len(boxes) == len(headlines)
    for index, box in enumerate(boxes):
        assert figure.bbox.x1 >= box.x1, titles[index].get_text()
        for other in boxes[index + 1 :]:
            assert not box.padded(2).overlaps(other), titles[index].get_text()


def test_metrics_by_z_bin_have_a_gap_with_its_reason(finished):
    rows = all_metrics(finished.paths, ["base"], 2)
    with figure_style():
        figure = curves.by_z_bin(rows, "base", 2, "a title")
    panel = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("KID"))
    assert "expected 10 of each" in panel.get_xlabel().replace("\n", " ")
    assert [text.get_text() for text in panel.texts] == ["n/a"]
    values = [line.get_ydata() for line in panel.lines if line.get_marker() == "o"]
    assert np.isnan(values[0][0])
    np.testing.assert_allclose(values[0][1:], 0.0213)


def test_training_shows_both_losses_and_the_validation(finished):
    history, validation = (read(finished.paths, ["base"], 2) for read in (read_history, read_validation))
    with figure_style():
        figure = curves.training(history, validation, ["base"], 2, "Training")
    assert [axes.get_yscale() for axes in figure.axes] == [
        "log",
        "log",
        "linear",
        "linear",
        "linear",
        "linear",
    ]
    trained = figure.axes[0].lines
    assert [line.get_ydata()[-1] for line in trained] == pytest.approx([1 / 6, 1 / 6])
    # The first of the two averages, in both folds.
    (validated,) = figure.axes[0].collections
    np.testing.assert_allclose(validated.get_offsets()[:, 1], [0.3, 0.15] * 2)
    kid = next(axes for axes in figure.axes if axes.get_title(loc="left") == "KID, validation")
    assert list(kid.lines[0].get_xdata()) == [3, 6] and list(kid.lines[0].get_ydata()) == [1, 0.5]


def test_an_untrained_model_is_reported_and_missing_validation_is_no_error(finished):
    history = read_history(finished.paths, ["base"], 1)
    nothing = read_validation(finished.paths, ["base"], 1).head(0)
    with figure_style():
        bare = curves.training(history.head(0), nothing, ["base"], 1, "Training")
        unvalidated = curves.training(history, nothing, ["base"], 1, "Training")
    assert "n/a: no step was trained" in words(bare)
    assert words(unvalidated).count("n/a") == 2
    assert not any(text == "validation" for text in words(unvalidated))


def test_every_figure_is_written_with_the_notice(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(
        figures, "save", lambda figure, *rest: (save(figure, *rest), seen.append(words(figure)))
    )
    figures.draw_all(finished, ["base", "other"], 2)
    folder = finished.paths.figures
    names = {path.name for path in folder.iterdir()}
    listed = stages.module_of("figures").outputs(finished.paths, ["base", "other"])
    assert names == {path.name for paths in listed.values() for path in paths}
    assert all(any("invented numbers, no patients" in text for text in texts) for texts in seen)
    for path in folder.iterdir():
        if path.suffix == ".png":
            picture = matplotlib.image.imread(path)
            assert picture[:, :, :3].std() > 0.1
        else:
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")
