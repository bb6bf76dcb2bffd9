import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from slimdiff.data.folds import read_folds
from slimdiff.generation.samples import Samples, read_samples
from slimdiff.report.curves import fold_points
from slimdiff.report.lesions import SETS, lesion_sheet, read_lesions
from slimdiff.report.results import all_metrics
from slimdiff.report.style import figure_style


@pytest.fixture(scope="module")
def sheet(finished, store):
    paths = finished.paths
    with figure_style():
        return lesion_sheet(
            paths,
            store,
            read_folds(paths.folds, 0),
            read_samples(paths.samples("base", 0)),
            all_metrics(paths, ["base"], 2),
            "base",
            2,
            0,
            0.0,
        )


def panel(figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def test_maps_are_the_share_of_lesion_slices_on_one_scale(sheet, finished, store):
    drawn = panel(sheet, "synthetic").images[0]
    share = np.zeros(store.size)
    share[10:14, 8:12] = 1
    np.testing.assert_array_equal(np.ma.filled(drawn.get_array(), 0), share)
    rows = store.rows_of(read_folds(finished.paths.folds, 0)["test"])
    lesion = store.masks[rows][store.label[rows] == 1] > 0
    held_out = panel(sheet, "held-out").images[0]
    np.testing.assert_allclose(np.ma.filled(held_out.get_array(), 0), lesion.mean(axis=0))
    assert panel(sheet, "held-out").get_title(loc="left") == f"held-out: {len(lesion)} lesion slices"
    assert held_out.get_clim() == drawn.get_clim() == (0, 1)


def test_sizes_are_medians_and_quartiles_per_z_bin(sheet):
    axes = panel(sheet, "Area by z-bin")
    found = {}
    for line in axes.lines:
        name = next(name for name, colour in SETS.items() if colour == line.get_color())
        points = np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
        for x, y in points[np.isfinite(points).all(axis=1)]:
            found.setdefault((name, round(x)), []).append(y)
    # Median, then both quartiles; a single lesion has no quartile bar.
    assert found["held-out", 0] == [10]
    assert found["held-out", 2] == [35, 32.5, 37.5]
    assert found["synthetic", 1] == [75, 52.5, 97.5]
    assert ("synthetic", 0) not in found


def test_distributions_are_empirical(sheet):
    line = next(line for line in panel(sheet, "Area [px]").lines if line.get_color() == SETS["training"])
    x, y = line.get_data()
    assert np.interp(41, x, y) == pytest.approx(0.5, abs=0.03)
    assert sorted(set(x[np.isfinite(x)])) == [20, 40, 60, 80]


def test_the_sweep_shows_every_fold_and_its_floor(sheet):
    axes = panel(sheet, "MMD-MF ↓")
    curves = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(curves, [[0.3, 0.4, 0.5], [1.3, 1.4, 1.5]])
    floors = [
        line.get_ydata()[0]
        for line in axes.lines
        if list(line.get_xdata()) == [0, 1] and line.get_linestyle() != "-"
    ]
    assert floors == [0.05, 0.05]


def test_lines_of_the_legend_differ_in_colour_style_or_marker(sheet):
    (legend,) = sheet.legends
    styles = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in legend.get_lines()]
    assert len(set(styles)) == len(styles)
    swept = {line.get_color() for line in panel(sheet, "MMD-MF ↓").lines if len(line.get_xdata()) == 3}
    assert swept == {SETS["synthetic"]}


def test_samples_without_lesions_are_labelled(finished, store):
    paths = finished.paths
    samples = read_samples(paths.samples("base", 0))
    empty = Samples(samples.images, np.full_like(samples.masks, -1), samples.z_bin, samples.label, samples.id)
    with figure_style():
        rows = all_metrics(paths, ["base"], 2).head(0)
        figure = lesion_sheet(paths, store, read_folds(paths.folds, 0), empty, rows, "base", 2, 0, 0.0)
    (text,) = [text.get_text() for text in panel(figure, "synthetic: 0").texts]
    assert text == "n/a: no lesion"


def test_lesions_are_read_as_numbers_by_set(finished):
    found = read_lesions(finished.paths.metrics("base", 0) / "lesions.tsv")
    assert {name: lesions["area"].tolist() for name, lesions in found.groupby("set")} == {
        "held-out": [10, 20, 30, 40],
        "training": [20, 40, 60, 80],
        "synthetic": [30, 60, 90, 120],
    }


def test_folds_whose_tables_repeat_their_row_labels_are_drawn():
    """Each fold's table counts its rows from 0, and a metric may be n/a at some thresholds."""
    one = pd.DataFrame({"tau": [-0.1, 0.0, 0.1], "mmd_mf": [1.0, np.nan, 2.0]})
    rows = pd.concat([one.assign(fold=0), one.assign(fold=1, mmd_mf=[np.nan, 3.0, 4.0])])
    axes = plt.figure().add_subplot()
    fold_points(axes, rows, "tau", "mmd_mf", 2, 0, native_scale=True)
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata())]
    found = sorted(value for line in drawn for value in np.asarray(line, float) if np.isfinite(value))
    assert found == [1.0, 2.0, 3.0, 4.0]
