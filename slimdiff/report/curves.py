"""The plots of numbers: training, metrics by variant, metrics by z-bin."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from slimdiff.evaluation.registry import SYMBOLS_LEGEND, describe, heading
from slimdiff.report.results import by_metric, reason_of_missing
from slimdiff.report.style import ALARM, FLOOR, QUIET, colour, dash, gaps, marker, new_plot

PANEL_COLUMNS = 4
LETTER_IN = 0.065  # width of a letter of a tick label
BARS = "bars: 95 % intervals over held-out subjects (shares and medians of samples: over samples)"
FAR = 2.5  # ranges of the data; an anchor that is farther off is named at the edge


def training(
    history: pd.DataFrame, validation: pd.DataFrame, variants: Sequence[str], folds: int, title: str
) -> Figure:
    """Loss of each channel on a log scale: lines in training, points on validation subjects; below in small panels
    the metrics of the validation samples, learning rate and speed.

    history, validation: see `results.read_history` and `results.read_validation`.
    """
    handles = [Line2D([], [], color=colour(i), label=variant) for i, variant in enumerate(variants)]
    handles += [Line2D([], [], color=QUIET, linestyle=dash(k), label=f"fold {k}") for k in range(folds)]
    if len(validation):
        handles.append(
            Line2D([], [], color=QUIET, linestyle="", marker="o", markersize=4, label="validation")
        )
    note = (
        "each point is the mean since the previous one; values of different losses or prediction targets are not "
        "comparable"
    )
    figure = new_plot(10, 4.8, title, handles, note)
    grid = figure.add_gridspec(2, 4, height_ratios=(2.4, 1))
    palette = [colour(i) for i in range(len(variants))]
    hue = {"hue": "variant", "hue_order": list(variants), "palette": palette}
    levels = range(folds)
    style = {"style": "fold", "style_order": list(levels), "legend": False}
    lines = {"dashes": {k: gaps(k) for k in levels}, "estimator": None, "sort": False, **hue, **style}
    points = {"markers": {k: marker(k) for k in levels}, "linewidth": 0, **hue, **style}

    def panel(place, text: str) -> Axes:
        axes = figure.add_subplot(place)
        axes.set_title(text)
        axes.grid(axis="y")
        return axes

    for name, text, place in (
        ("loss_image", "Loss, image channel", grid[0, :2]),
        ("loss_mask", "Loss, mask channel", grid[0, 2:]),
    ):
        axes = panel(place, text)
        _draw(sns.lineplot, axes, history, name, linewidth=1.2, **lines)
        _draw(sns.scatterplot, axes, validation, name, s=14, **points)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
        if not len(history):
            axes.text(0.5, 0.5, "n/a: no step was trained", transform=axes.transAxes, ha="center")
    for column, (name, text, source) in enumerate(
        (
            ("kid", "KID, validation", validation),
            ("memorisation_ratio", "R, validation", validation),
            ("learning_rate", "Learning rate", history),
            ("images_per_s", "Images per second", history),
        )
    ):
        axes = panel(grid[1, column], text)
        _draw(sns.lineplot, axes, source, name, linewidth=0.8, alpha=0.8, **lines)
        if source is validation:
            _draw(sns.scatterplot, axes, source, name, s=10, **points)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        if not source[name].notna().any():
            axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, ha="center", va="center")
            axes.set_yticks([])
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _draw(plot, axes: Axes, rows: pd.DataFrame, name: str, **plot_options) -> None:
    """A column of the rows by step, with seaborn's `plot`; nothing without a number."""
    if rows[name].notna().any():
        plot(rows, x="step", y=name, ax=axes, **plot_options)
    axes.set(xlabel="", ylabel="")


def with_places(
    rows: pd.DataFrame, along: str, positions: dict[object, float], folds: int, step: float
) -> pd.DataFrame:
    """One row for each key of `positions` and fold, empty where there is none; column `place`: where it is drawn.

    Folds are drawn `step` apart around the position, so that equal values and intervals stay visible.
    """
    levels = pd.MultiIndex.from_product([list(positions), range(folds)], names=[along, "fold"])
    rows = rows.set_index([along, "fold"]).reindex(levels).reset_index()
    rows["reason"] = rows["reason"].fillna("not computed")
    rows["place"] = rows[along].map(positions).astype(float) + (rows["fold"] - (folds - 1) / 2) * step
    return rows


def fold_points(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, folds: int, step: float, **plot_options
) -> None:
    """Points of every fold, `step` apart, joined by lines where `plot_options` say so; gaps where a value is n/a.

    rows: one row a position and fold.
    """
    levels = range(folds)
    plot_options = {
        "palette": [colour(k) for k in levels],
        "markers": [marker(k) for k in levels],
        **plot_options,
    }
    # Tables of several folds, one below the other, repeat their row labels.
    sns.pointplot(
        rows.reset_index(drop=True),
        x=x,
        y=y,
        hue="fold",
        hue_order=list(levels),
        dodge=step * (folds - 1),
        errorbar=None,
        legend=False,
        ax=axes,
        **plot_options,
    )
    axes.set(xlabel="", ylabel="")


def by_variant(rows: pd.DataFrame, variants: Sequence[str], folds: int, title: str) -> Figure:
    """A panel for each headline metric: folds as points with intervals, floors as ticks, an anchor if it has one."""
    overall = rows[rows["z_bin"].isna()]
    groups = dict(by_metric(overall))
    keys = [key for key in groups if describe(key[0]).headline]
    lines = max(1, -(-len(keys) // PANEL_COLUMNS))
    handles = [
        Line2D([], [], color=colour(k), marker=marker(k), markersize=4, linewidth=1.1, label=f"fold {k}")
        for k in range(folds)
    ]
    handles += [
        Line2D(
            [], [], color=FLOOR, marker="|", markersize=9, markeredgewidth=1.6, linestyle="", label="floor"
        ),
        Line2D([], [], color=ALARM, linestyle=":", linewidth=1.2, label="anchor, named below its panel"),
    ]
    height = lines * (0.66 + 0.12 * len(variants) * folds + 0.06 * len(variants))
    # Long names of variants must not narrow the panels: their titles need the room.
    width = 10 + LETTER_IN * max(0, max(map(len, variants)) - 5)
    figure = new_plot(width, height, title, handles, f"{BARS}; {SYMBOLS_LEGEND}")
    panels = figure.subplots(lines, PANEL_COLUMNS, sharey=True, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=False):
        own, entry = groups[key], describe(key[0])
        _variant_panel(axes, own, variants, folds)
        axes.set_title(heading(*key), fontsize=7.8)
        known = own.loc[own["value"].notna(), ["value", "floor"]]
        if known.empty:
            axes.set_xticks([])
        elif entry.share or not known.fillna(0).any(axis=None):
            axes.set(
                xlim=(-0.04, 1.04), xticks=(0, 0.25, 0.5, 0.75, 1), xticklabels=("0", "", "0.5", "", "1")
            )
        elif entry.better == "lower":
            axes.set_xlim(left=min(axes.get_xlim()[0], -0.04 * axes.get_xlim()[1]))
        anchor = groups.get((entry.anchor[0], key[1])) if entry.anchor else None
        if anchor is not None:
            _anchor(axes, anchor["value"].mean(), own, entry.anchor[1])
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    return figure


def _variant_panel(axes: Axes, own: pd.DataFrame, variants: Sequence[str], folds: int) -> None:
    step = 0.8 / folds
    rows = with_places(own, "variant", {name: i for i, name in enumerate(variants)}, folds, step)
    plot_options = {"orient": "y", "order": list(variants), "linestyles": "none"}
    ticks = {"markers": "|", "palette": [FLOOR] * folds, "markersize": 4 + 8 * step, "markeredgewidth": 1.6}
    known = rows.assign(floor=rows["floor"].where(rows["value"].notna()))
    fold_points(axes, known, "floor", "variant", folds, step, **plot_options, **ticks)
    fold_points(axes, rows, "value", "variant", folds, step, **plot_options, markersize=4, markeredgewidth=0)
    # After the points: seaborn sets the limits from lines alone.
    bars = rows.dropna(subset=["value", "ci_low"])
    axes.hlines(
        bars["place"],
        bars["ci_low"],
        bars["ci_high"],
        colors=[colour(k) for k in bars["fold"]],
        linewidth=1.1,
    )
    for row in rows[rows["value"].isna()].itertuples():
        text = textwrap.shorten(f"n/a: {reason_of_missing(row)}", 48, placeholder=" …")
        at = axes.get_yaxis_transform()
        axes.text(0.02, row.place, text, color=QUIET, fontsize=6, va="center", transform=at)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    for level in np.arange(0.5, len(variants) - 1):
        axes.axhline(level, color="#e3e3e3", linewidth=0.5)


def _anchor(axes: Axes, value: float, shown: pd.DataFrame, text: str) -> None:
    """Mark the mean anchor; one far from the data is named at the edge, so that the data keep their scale."""
    data = shown[["value", "ci_low", "ci_high", "floor"]].to_numpy()
    data = data[np.isfinite(data)]
    if not np.isfinite(value) or not len(data):
        return
    low, high = min(data.min(), 0), max(data.max(), 0)
    reach = FAR * (high - low)
    text = f"{text}: {value:.3g}"
    if low - reach <= value <= high + reach:
        axes.axvline(value, color=ALARM, linestyle=":", linewidth=1.2)
    else:
        text = f"{text} →" if value > high else f"← {text}"
    axes.set_xlabel(text, fontsize=6.5, color=ALARM, loc="right")


def by_z_bin(rows: pd.DataFrame, variant: str, folds: int, title: str) -> Figure:
    """Metrics of one variant by z-bin, a line for each fold, with its floor."""
    binned = rows[rows["z_bin"].notna() & (rows["variant"] == variant)]
    groups = [(key, own) for key, own in by_metric(binned) if describe(key[0]).by_z_bin]
    columns = min(3, max(1, len(groups)))
    lines = max(1, -(-len(groups) // columns))
    handles = [
        Line2D([], [], color=colour(k), marker=marker(k), markersize=4, label=f"samples, fold {k}")
        for k in range(folds)
    ]
    handles += [
        Line2D([], [], color=colour(k), linestyle=":", linewidth=1.3, label=f"floor, fold {k}")
        for k in range(folds)
    ]
    figure = new_plot(10, 2.25 * lines, title, handles, f"{BARS}; {SYMBOLS_LEGEND}")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, (key, own) in zip(panels.flat, groups, strict=False):
        _z_bin_panel(axes, own, folds)
        axes.set_title(heading(*key))
        if describe(key[0]).share:
            axes.set_ylim(-0.04, 1.04)
        else:
            bottom, top = min(0, axes.get_ylim()[0]), axes.get_ylim()[1]
            axes.set_ylim(bottom, top + 0.06 * (top - bottom))
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    if not groups:
        panels[0, 0].text(0.5, 0.5, "n/a: no metric by z-bin", transform=panels[0, 0].transAxes, ha="center")
    return figure


def _z_bin_panel(axes: Axes, own: pd.DataFrame, folds: int) -> None:
    bins = range(int(own["z_bin"].min()), int(own["z_bin"].max()) + 1)
    rows = with_places(own, "z_bin", {z_bin: z_bin for z_bin in bins}, folds, 0.12)
    along = {"native_scale": True}
    floors = {"markers": "", "linestyles": ":", "linewidth": 1.3}
    fold_points(axes, rows, "z_bin", "floor", folds, 0.12, **along, **floors)
    fold_points(
        axes, rows, "z_bin", "value", folds, 0.12, **along, linewidth=1.2, markersize=3.5, markeredgewidth=0
    )
    bars = rows.dropna(subset=["ci_low"])
    axes.vlines(
        bars["place"],
        bars["ci_low"],
        bars["ci_high"],
        colors=[colour(k) for k in bars["fold"]],
        linewidth=0.8,
    )
    empty = rows.groupby("z_bin")["value"].transform(lambda values: values.isna().all())
    label, missing = "z-bin (0 lowest)", rows[empty]
    for z_bin in missing["z_bin"].unique():
        at = axes.get_xaxis_transform()
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(z_bin, 0.03, "n/a", color=QUIET, fontsize=6, ha="center", transform=at, bbox=box)
    reasons = list(dict.fromkeys(reason_of_missing(row) for row in missing.itertuples()))
    if reasons:
        more = f" (and {len(reasons) - 1} more reason{'s' * (len(reasons) > 2)})" if len(reasons) > 1 else ""
        label += "\n" + textwrap.fill(f"n/a: {reasons[0]}{more}", 52)
    axes.set_xlabel(label)
    axes.set_xlim(bins[0] - 0.5, bins[-1] + 0.5)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
