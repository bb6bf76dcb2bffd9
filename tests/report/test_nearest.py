"""The panels below the closest samples show the numbers of the tables."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from slimdiff.generation.samples import read_samples
from slimdiff.report import nearest
from slimdiff.report.results import METRIC_COLUMNS, read_neighbours, read_training_subjects
from slimdiff.report.style import ALARM, figure_style


def words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.fixture
def axes():
    with figure_style():
        yield Figure(figsize=(4, 3)).add_subplot()


def test_subjects_are_read_with_the_count_expected_by_chance(finished):
    found = read_training_subjects(finished.paths, "base", 2)
    neighbours = read_neighbours(finished.paths, "base", 2)
    for fold in (0, 1):
        for space in ("alexnet", "pixels"):
            own, pairs = (
                rows[(rows["fold"] == fold) & (rows["space"] == space)] for rows in (found, neighbours)
            )
            assert own["n_nearest"].sum() == len(pairs) > 0
            assert own["expected"].sum() == pytest.approx(len(pairs))
            assert own["n_suspects"].sum() == pairs["flagged"].sum() > 0


def subjects(*rows):
    """Rows of `read_training_subjects` in the space of pixels."""
    columns = ("fold", "participant", "n_nearest", "expected", "n_suspects")
    return pd.DataFrame(rows, columns=columns).assign(space="pixels")


def test_bars_are_summed_over_folds_with_suspects_first(axes):
    rows = subjects((0, "a", 9, 4.0, 0), (1, "a", 1, 3.5, 0), (0, "b", 2, 5.0, 2), (1, "c", 3, 3.0, 1))
    nearest.subject_bars(axes, rows, 0.15)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    lengths = [bar.get_width() for bar in axes.patches]
    assert lengths[:3] == [2, 3, 10] and lengths[3:] == [2, 1, 0]
    (marks,) = axes.collections
    assert [path.vertices[:, 0].tolist() for path in marks.get_paths()] == [[5, 5], [3, 3], [7.5, 7.5]]


def test_subjects_that_are_not_shown_are_counted(axes):
    rows = subjects(*((0, f"sub-{i:02d}", 30 - i, 3.0, 0) for i in range(20)))
    nearest.subject_bars(axes, rows, 0.15)
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"sub-{i:02d}" for i in range(12)]
    assert "8 more not shown" in axes.get_xlabel()


def ratios(*rows):
    """Rows of `read_metrics`: fold, z-bin, R, its interval, and the reason of a missing R."""
    frame = pd.DataFrame(rows, columns=("fold", "z_bin", "value", "ci_low", "ci_high", "reason"))
    frame = frame.assign(variant="base", metric="memorisation_ratio", extractor="pixels", floor=1.0, n="9")
    frame = frame.astype({"z_bin": float, "value": float, "ci_low": float, "ci_high": float})
    return frame.assign(interval_reason="")[list(METRIC_COLUMNS)]


def test_the_ratio_is_drawn_at_its_bin_with_a_line_at_one(axes):
    rows = ratios(
        (0, None, 5.0, None, None, ""),
        (0, 1, 1.2, 1.1, 1.4, ""),
        (0, 0, 0.7, None, None, ""),
        (1, 0, 0.8, 0.6, 0.9, ""),
    )
    nearest.ratio_by_bin(axes, rows, 0.15)
    first, second, one = axes.lines
    assert list(first.get_ydata()) == [0.7, 1.2]
    np.testing.assert_array_equal(second.get_ydata(), [0.8, np.nan])
    assert [round(float(x)) for x in first.get_xdata()] == [0, 1]
    assert list(one.get_ydata()) == [1, 1]
    spans = [path.vertices[:, 1].tolist() for lines in axes.collections for path in lines.get_paths()]
    assert [1.1, 1.4] in spans and [0.6, 0.9] in spans


def test_panels_without_values_give_a_reason(axes):
    nearest.ratio_by_bin(axes, ratios((0, 0, None, None, None, "no held-out slice")), 0.15)
    nearest.subject_bars(axes, subjects(), 0.15)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["n/a: no held-out slice", "n/a: no training subject"]


def test_each_space_has_its_own_panels(finished, store):
    samples = {fold: read_samples(finished.paths.samples("base", fold)) for fold in range(2)}
    neighbours = read_neighbours(finished.paths, "base", 2)
    near = read_training_subjects(finished.paths, "base", 2)
    rows = ratios(*((0, z_bin, 1.0 + z_bin, None, None, "") for z_bin in range(3)))
    with figure_style():
        figure = nearest.nearest_sheet(store, samples, neighbours, near, rows, 4, 80)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1:] == ["Samples by distance", "Closest training subjects", "R by z-bin"] * 2
    assert words(figure).count("n/a: no ratio by z-bin") == 1
    thresholds = [line for line in figure.axes[1].lines if line.get_color() == ALARM]
    # Distances are shown relative to the threshold.
    assert [line.get_xdata()[0] for line in thresholds] == [1]
