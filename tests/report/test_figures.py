import xml.etree.ElementTree
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from slimdiff.data.folds import read_folds
from slimdiff.data.participants import Participant, read_participants
from slimdiff.evaluation.registry import METRICS
from slimdiff.generation.samples import read_samples
from slimdiff.report import curves, figures, nearest, slices
from slimdiff.report.names import figure_names
from slimdiff.report.results import all_metrics, read_history, read_neighbours, read_rounds
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
    assert slices.shown_slice(store, "nobody") is None


def test_the_cohort_names_everybody_and_the_reason_of_an_exclusion(finished, store):
    people = read_participants(finished.paths.participants)
    gone = Participant("sub-99", "fcd", people[0].image, people[0].mask, excluded="moved a lot")
    lost = Participant("sub-98", "fcd", people[0].image, people[0].mask)
    with figure_style():
        said = words(slices.cohort(store, [*people, gone, lost], DPI))
    assert {person.participant_id for person in people} <= set(said)
    assert any("sub-99, moved a lot" in text for text in said)
    assert "no slice\nin the store" in said
    patients = sum(person.is_patient for person in people) + 1
    assert said[0].startswith(f"{len(people) + 1} participants: {patients} with a lesion mask")


def test_bins_are_spread_from_the_lowest_to_the_highest():
    assert slices.spread_bins(6).tolist() == [0, 1, 2, 3, 4, 5]
    many = slices.spread_bins(30)
    assert len(many) == 10
    assert (many[0], many[-1]) == (0, 29)
    assert set(np.diff(many)) <= {3, 4}


def test_rows_are_drawn_by_seed_and_from_different_subjects_first():
    rows = np.arange(100, 120)
    owners = np.array(["a"] * 18 + ["b", "c"])
    drawn = slices.draw_rows(rows, owners, 3, (1, 0))
    assert set(owners[drawn - 100]) == {"a", "b", "c"}
    assert (drawn == slices.draw_rows(rows, owners, 3, (1, 0))).all()
    assert any((drawn != slices.draw_rows(rows, owners, 3, (1, seed))).any() for seed in range(1, 5))
    assert len(slices.draw_rows(rows[:2], owners[:2], 3, (1, 0))) == 2


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


def test_a_bin_without_real_slices_says_so(finished, store):
    samples = read_samples(finished.paths.samples("base", 0))
    with figure_style():
        said = words(slices.real_and_synthetic(store, [], samples, 1, DPI))
    assert said.count("no such\nslice") == 2 * store.n_bins


def test_the_closest_pairs_come_first_over_all_folds(finished, store):
    neighbours = read_neighbours(finished.paths, "base", 2)
    pairs = nearest.closest(neighbours, "pixels", 4)
    assert [pair.distance for pair in pairs] == pytest.approx([0.5, 0.5, 0.6, 0.6])
    assert [pair.fold for pair in pairs] == [0, 1, 0, 1]
    samples = {fold: read_samples(finished.paths.samples("base", fold)) for fold in range(2)}
    with figure_style():
        said = words(nearest.nearest_pairs(store, samples, neighbours, 6, DPI))
    # Two of six distances lie under the threshold in each fold, in two spaces; six pairs a space are shown.
    assert said.count("flagged") == 2 * 4
    assert said.count("not flagged") == 2 * 2
    count = len(samples[0].images)
    assert said.count(f"fold 1: 2 of {count} flagged") == 2
    assert said.count(pairs[0].participant) >= 2


def test_without_a_neighbour_the_sheet_says_why_it_is_empty(store):
    with figure_style():
        said = words(nearest.nearest_pairs(store, {}, [], 6, DPI))
    assert "n/a: no sample has a training slice in its z-bin" in said


def test_metrics_by_variant_show_value_interval_floor_and_reason(finished):
    rows = all_metrics(finished.paths, ["base", "other"], 2)
    with figure_style():
        figure = curves.by_variant(rows, ["base", "other"], 2, "a title")
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert "KID ↓ (alexnet)" in panels
    assert not any("blurred" in title for title in panels)
    drawn = {tuple(np.round(line.get_xdata(), 6)) for line in panels["KID ↓ (alexnet)"].lines}
    assert {(0.0213,), (0.0163, 0.0253), (0.0041,)} <= drawn
    # The anchor is far beyond the values: named at the edge, and the values keep their scale.
    assert panels["KID ↓ (alexnet)"].get_xlabel() == "held-out slices, blurred: 0.9 →"
    assert panels["KID ↓ (alexnet)"].get_xlim()[1] < 0.2
    reasons = [text.get_text() for text in panels["MMD-PL ↓"].texts]
    assert len(reasons) == 4
    assert all(reason.startswith("n/a: 7 real and 4 synthetic") for reason in reasons)


def test_no_panel_title_runs_into_its_neighbour(finished):
    measured = all_metrics(finished.paths, ["base"], 1)
    # Of utility's 100 shares those that a study has by default.
    left_out = {f"utility_dice_gain_{percent}" for percent in range(1, 101) if percent not in (25, 50, 100)}
    headlines = [name for name, entry in METRICS.items() if entry.headline and name not in left_out]
    rows = [replace(measured[0], metric=name, z_bin=None, extractor=None) for name in headlines]
    with figure_style():
        figure = curves.by_variant(rows, ["base"], 1, "a title")
        figure.draw_without_rendering()
    said = {axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()} - {""}
    titles = [text for text in figure.findobj(Text) if text.get_text() in said]
    boxes = [title.get_window_extent() for title in titles]
    assert len(boxes) == len(headlines)
    for index, box in enumerate(boxes):
        assert figure.bbox.x1 >= box.x1, titles[index].get_text()
        for other in boxes[index + 1 :]:
            assert not box.padded(2).overlaps(other), titles[index].get_text()


def test_metrics_along_z_leave_a_gap_with_its_reason(finished):
    rows = all_metrics(finished.paths, ["base"], 2)
    with figure_style():
        figure = curves.by_z_bin(rows, "base", 2, "a title")
    panel = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("KID"))
    assert "10 of each wanted" in panel.get_xlabel().replace("\n", " ")
    assert [text.get_text() for text in panel.texts] == ["n/a"]
    values = [line.get_ydata() for line in panel.lines if line.get_marker() == "o"]
    assert np.isnan(values[0][0])
    np.testing.assert_allclose(values[0][1:], 0.0213)


def test_training_shows_both_losses_and_what_was_watched(finished):
    cells = [("base", fold) for fold in range(2)]
    histories, rounds = (
        {cell: read(finished.paths, *cell) for cell in cells} for read in (read_history, read_rounds)
    )
    with figure_style():
        figure = curves.training(histories, rounds, "Training")
    assert [axes.get_yscale() for axes in figure.axes] == [
        "log",
        "log",
        "linear",
        "linear",
        "linear",
        "linear",
    ]
    trained, watched = figure.axes[0].lines[:2], figure.axes[0].lines[2:]
    assert [line.get_ydata()[-1] for line in trained] == pytest.approx([1 / 6, 1 / 6])
    # Of the two averages the first.
    assert [list(line.get_ydata()) for line in watched] == [pytest.approx([0.3, 0.15])] * 2
    kid = next(axes for axes in figure.axes if axes.get_title(loc="left") == "KID, validation")
    assert list(kid.lines[0].get_xdata()) == [3, 6] and list(kid.lines[0].get_ydata()) == [1, 0.5]


def test_an_untrained_model_is_named_and_nothing_watched_is_no_error(finished):
    histories = {("base", 0): read_history(finished.paths, "base", 0)}
    rounds = {("base", 0): {name: [] for name in read_rounds(finished.paths, "base", 0)}}
    empty = {("base", 0): {name: [] for name in histories["base", 0]}}
    with figure_style():
        bare = curves.training(empty, rounds, "Training")
        unwatched = curves.training(histories, rounds, "Training")
    assert "n/a: no step was trained" in words(bare)
    assert words(unwatched).count("n/a") == 2
    assert not any(text == "validation" for text in words(unwatched))


def test_every_figure_is_written_and_bears_the_notice(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(
        figures, "save", lambda figure, *rest: (save(figure, *rest), seen.append(words(figure)))
    )
    figures.draw_all(finished, ["base", "other"], 2)
    folder = finished.paths.figures
    names = {path.name for path in folder.iterdir()}
    assert names == set(figure_names(["base", "other"]))
    assert all(any("invented numbers, no patients" in text for text in said) for said in seen)
    for path in folder.iterdir():
        if path.suffix == ".png":
            picture = matplotlib.image.imread(path)
            assert picture[:, :, :3].std() > 0.1
        else:
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")
