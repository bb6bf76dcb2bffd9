"""The panels beneath the closest pairs show what the tables say."""

import math

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from slimdiff.generation.samples import read_samples
from slimdiff.report import nearest
from slimdiff.report.results import Result, TrainingSubject, read_neighbours, read_training_subjects
from slimdiff.report.style import ALARM, figure_style


def words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.fixture
def axes():
    with figure_style():
        yield Figure(figsize=(4, 3)).add_subplot()


def test_subjects_are_read_with_the_count_that_chance_would_give(finished):
    found = read_training_subjects(finished.paths, "base", 2)
    neighbours = read_neighbours(finished.paths, "base", 2)
    for fold in (0, 1):
        for space in ("alexnet", "pixels"):
            own = [row for row in found if (row.fold, row.space) == (fold, space)]
            pairs = [pair for pair in neighbours if (pair.fold, pair.space) == (fold, space)]
            assert sum(row.n_nearest for row in own) == len(pairs)
            assert sum(row.expected for row in own) == pytest.approx(len(pairs))
            assert sum(row.n_suspects for row in own) == sum(pair.flagged for pair in pairs)


def test_bars_are_summed_over_folds_with_suspects_first(axes):
    rows = [
        TrainingSubject(0, "pixels", "a", 9, 4.0, 0),
        TrainingSubject(1, "pixels", "a", 1, 3.5, 0),
        TrainingSubject(0, "pixels", "b", 2, 5.0, 2),
        TrainingSubject(1, "pixels", "c", 3, 3.0, 1),
    ]
    nearest.near_subjects(axes, rows, 0.15)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    lengths = [bar.get_width() for bar in axes.patches]
    assert lengths[0::2] == [2, 3, 10] and lengths[1::2] == [2, 1, 0]
    marks = [line.get_xdata()[0] for line in axes.lines]
    assert marks == [5.0, 3.0, 7.5]


def test_subjects_that_find_no_place_are_counted(axes):
    rows = [TrainingSubject(0, "pixels", f"sub-{i:02d}", 30 - i, 3.0, 0) for i in range(20)]
    nearest.near_subjects(axes, rows, 0.15)
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"sub-{i:02d}" for i in range(12)]
    assert "8 more not shown" in axes.get_xlabel()


def ratio(fold, z_bin, value, low=math.nan, high=math.nan, note=""):
    return Result("base", fold, z_bin, "memorisation_ratio", "pixels", value, low, high, 1.0, "9", note)


def test_the_ratio_stands_at_its_bin_beside_one(axes):
    rows = [ratio(0, None, 5.0), ratio(0, 1, 1.2, 1.1, 1.4), ratio(0, 0, 0.7), ratio(1, 0, 0.8, 0.6, 0.9)]
    nearest.ratio_by_bin(axes, rows, 0.15)
    first, second, one = axes.lines
    assert list(first.get_ydata()) == [0.7, 1.2] and list(second.get_ydata()) == [0.8]
    assert [round(float(x)) for x in first.get_xdata()] == [0, 1]
    assert list(one.get_ydata()) == [1, 1]
    spans = [path.vertices[:, 1].tolist() for lines in axes.collections for path in lines.get_paths()]
    assert [1.1, 1.4] in spans and [0.6, 0.9] in spans


def test_panels_without_numbers_say_why(axes):
    nearest.ratio_by_bin(axes, [ratio(0, 0, math.nan, note="no held-out slice")], 0.15)
    nearest.near_subjects(axes, [], 0.15)
    said = [text.get_text() for text in axes.texts]
    assert said == ["n/a: no held-out slice", "n/a: no training subject"]


def test_each_space_has_its_own_panels(finished, store):
    samples = {fold: read_samples(finished.paths.samples("base", fold)) for fold in range(2)}
    neighbours = read_neighbours(finished.paths, "base", 2)
    subjects = read_training_subjects(finished.paths, "base", 2)
    ratios = [ratio(0, z_bin, 1.0 + z_bin) for z_bin in range(3)]
    with figure_style():
        figure = nearest.nearest_pairs(store, samples, neighbours, 4, 80, subjects=subjects, metrics=ratios)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1:] == ["Samples by distance", "Closest training subjects", "R by height"] * 2
    assert words(figure).count("n/a: no ratio by z-bin") == 1
    thresholds = [line for line in figure.axes[1].lines if line.get_color() == ALARM]
    assert [line.get_xdata()[0] for line in thresholds] == [0.65, 0.65]
