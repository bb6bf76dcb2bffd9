"""The plots: training, and metrics by variant and by z-bin."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from slimdiff.evaluation.registry import SYMBOLS_LEGEND, describe, heading, order
from slimdiff.report.results import Result
from slimdiff.report.style import ALARM, FLOOR, QUIET, colour, dash, marker, new_plot

PANEL_COLUMNS = 4
BARS = "bars: 95 % intervals over held-out subjects (shares and medians of samples: over samples)"
FAR = 2.5  # an anchor so many times beyond the data is named at the edge instead of squeezing them


Curves = dict[tuple[str, int], dict[str, list[float]]]
"""(variant, fold) to the columns of a table."""


def training(histories: Curves, rounds: Curves, title: str) -> Figure:
    """Loss of each channel on a log scale, in training as lines and on validation subjects as points; beneath, small,
    what the validation rounds' samples were judged by, learning rate and speed.

    Args:
        histories: columns of history.tsv.
        rounds: columns of validation.tsv.
    """
    variants = list(dict.fromkeys(variant for variant, _ in histories))
    folds = sorted({fold for _, fold in histories})
    watched = any(columns["step"] for columns in rounds.values())
    handles = [Line2D([], [], color=colour(i), label=variant) for i, variant in enumerate(variants)]
    handles += [Line2D([], [], color=QUIET, linestyle=dash(fold), label=f"fold {fold}") for fold in folds]
    if watched:
        handles.append(
            Line2D([], [], color=QUIET, linestyle="", marker="o", markersize=4, label="validation")
        )
    note = "every point is the mean since the one before; losses of different losses or predictions do not compare"
    figure = new_plot(10, 4.8, title, handles, note)
    grid = figure.add_gridspec(2, 4, height_ratios=(2.4, 1))
    losses = {
        "loss_image": ("Loss, image channel", grid[0, :2]),
        "loss_mask": ("Loss, mask channel", grid[0, 2:]),
    }
    for name, (text, place) in losses.items():
        axes = _training_panel(figure, place, text, histories, name, variants, linewidth=1.2)
        _plot_curves(axes, rounds, name, variants, linewidth=0, marker="o", markersize=3.5)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
        if not any(columns["step"] for columns in histories.values()):
            axes.text(0.5, 0.5, "n/a: no step was trained", transform=axes.transAxes, ha="center")
    minor = {
        "kid": ("KID, validation", rounds),
        "memorisation_ratio": ("R, validation", rounds),
        "learning_rate": ("Learning rate", histories),
        "images_per_s": ("Images per second", histories),
    }
    for column, (name, (text, source)) in enumerate(minor.items()):
        points = {"marker": "o", "markersize": 3} if source is rounds else {"alpha": 0.7}
        axes = _training_panel(figure, grid[1, column], text, source, name, variants, linewidth=0.8, **points)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        if not any(np.isfinite(columns[name]).any() for columns in source.values()):
            axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, ha="center", va="center")
            axes.set_yticks([])
    return figure


def _training_panel(
    figure: Figure, place, text: str, source: Curves, name: str, variants: list[str], **line
) -> Axes:
    axes = figure.add_subplot(place)
    axes.set_title(text)
    _plot_curves(axes, source, name, variants, **line)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")
    return axes


def _plot_curves(axes: Axes, source: Curves, name: str, variants: list[str], **line) -> None:
    for (variant, fold), columns in source.items():
        style = {"color": colour(variants.index(variant)), "linestyle": dash(fold), **line}
        if "marker" in line:
            style["marker"] = marker(fold)
        axes.plot(columns["step"], columns[name], **style)


def by_variant(rows: Sequence[Result], variants: Sequence[str], folds: int, title: str) -> Figure:
    """A panel a headline metric: folds as points with intervals, floors as ticks, an anchor where there is one."""
    overall = [row for row in rows if row.z_bin is None]
    keys = {row.key for row in overall if describe(row.metric).headline}
    keys = sorted(keys, key=lambda key: (order(key[0]), key[1] or ""))
    lines = max(1, -(-len(keys) // PANEL_COLUMNS))
    handles = [
        Line2D(
            [], [], color=colour(fold), marker=marker(fold), markersize=4, linewidth=1.1, label=f"fold {fold}"
        )
        for fold in range(folds)
    ]
    handles += [
        Line2D(
            [], [], color=FLOOR, marker="|", markersize=9, markeredgewidth=1.6, linestyle="", label="floor"
        ),
        Line2D([], [], color=ALARM, linestyle=":", linewidth=1.2, label="anchor, named beneath its panel"),
    ]
    note = f"{BARS}; {SYMBOLS_LEGEND}"
    height = lines * (0.66 + 0.12 * len(variants) * folds + 0.06 * len(variants))
    figure = new_plot(10, height, title, handles, note)
    panels = figure.subplots(lines, PANEL_COLUMNS, sharey=True, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=False):
        own = {(row.variant, row.fold): row for row in overall if row.key == key}
        _panel(axes, own, variants, folds)
        entry = describe(key[0])
        axes.set_title(heading(*key), fontsize=7.8)
        known = [(row.value, row.floor) for row in own.values() if np.isfinite(row.value)]
        if not known:
            axes.set_xticks([])
        elif entry.share or not np.nan_to_num(known).any():
            axes.set(
                xlim=(-0.04, 1.04), xticks=(0, 0.25, 0.5, 0.75, 1), xticklabels=("0", "", "0.5", "", "1")
            )
        elif entry.better == "lower":
            axes.set_xlim(left=min(axes.get_xlim()[0], -0.04 * axes.get_xlim()[1]))
        if entry.anchor:
            values = [row.value for row in overall if row.key == (entry.anchor[0], key[1])]
            _anchor(axes, values, list(own.values()), entry.anchor[1])
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Axes, own: dict[tuple[str, int], Result], variants: Sequence[str], folds: int) -> None:
    step = 0.8 / folds
    for i, variant in enumerate(variants):
        for fold in range(folds):
            level = i + (fold - (folds - 1) / 2) * step
            row = own.get((variant, fold))
            if row is None or not np.isfinite(row.value):
                text = textwrap.shorten(
                    f"n/a: {row.missing if row else 'not computed'}", 48, placeholder=" …"
                )
                at = axes.get_yaxis_transform()
                axes.text(0.02, level, text, color=QUIET, fontsize=6, va="center", transform=at)
                continue
            if np.isfinite(row.low):
                axes.plot(
                    [row.low, row.high],
                    [level, level],
                    color=colour(fold),
                    linewidth=1.1,
                    solid_capstyle="butt",
                )
            if np.isfinite(row.floor):
                axes.plot(row.floor, level, "|", color=FLOOR, markersize=4 + 8 * step, markeredgewidth=1.6)
            axes.plot(row.value, level, marker(fold), color=colour(fold), markersize=4)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    for level in np.arange(0.5, len(variants) - 1):
        axes.axhline(level, color="#e3e3e3", linewidth=0.5)


def _anchor(axes: Axes, values: Sequence[float], shown: Sequence[Result], text: str) -> None:
    """Mark the mean anchor; one far beyond the data is named at the edge, so that the data keep their scale."""
    finite = [value for value in values if np.isfinite(value)]
    data = np.array([[row.value, row.low, row.high, row.floor] for row in shown])
    data = data[np.isfinite(data)]
    if not finite or not len(data):
        return
    value = float(np.mean(finite))
    low, high = min(data.min(), 0), max(data.max(), 0)
    reach = FAR * (high - low)
    text = f"{text}: {value:.3g}"
    if low - reach <= value <= high + reach:
        axes.axvline(value, color=ALARM, linestyle=":", linewidth=1.2)
    else:
        text = f"{text} →" if value > high else f"← {text}"
    axes.set_xlabel(text, fontsize=6.5, color=ALARM, loc="right")


def by_z_bin(rows: Sequence[Result], variant: str, folds: int, title: str) -> Figure:
    """Metrics of one variant along z, a line a fold, with the floor of each."""
    binned = [
        row
        for row in rows
        if row.z_bin is not None and row.variant == variant and describe(row.metric).by_z_bin
    ]
    keys = sorted({row.key for row in binned}, key=lambda key: (order(key[0]), key[1] or ""))
    columns = min(3, max(1, len(keys)))
    lines = max(1, -(-len(keys) // columns))
    handles = [
        Line2D([], [], color=colour(fold), marker=marker(fold), markersize=4, label=f"samples, fold {fold}")
        for fold in range(folds)
    ]
    handles += [
        Line2D([], [], color=colour(fold), linestyle=":", linewidth=1.3, label=f"floor, fold {fold}")
        for fold in range(folds)
    ]
    figure = new_plot(
        10,
        2.25 * lines,
        title,
        handles,
        f"{BARS}; {SYMBOLS_LEGEND}",
    )
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=False):
        _along_z(axes, [row for row in binned if row.key == key], folds)
        axes.set_title(heading(*key))
        if describe(key[0]).share:
            axes.set_ylim(-0.04, 1.04)
        else:
            bottom, top = min(0, axes.get_ylim()[0]), axes.get_ylim()[1]
            axes.set_ylim(bottom, top + 0.06 * (top - bottom))
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    if not keys:
        panels[0, 0].text(0.5, 0.5, "n/a: no metric by z-bin", transform=panels[0, 0].transAxes, ha="center")
    return figure


def _along_z(axes: Axes, own: Sequence[Result], folds: int) -> None:
    bins = sorted({row.z_bin for row in own})
    for fold in range(folds):
        # Folds stand a little beside each other, so that equal values and intervals stay visible.
        x = np.array(bins) + (fold - (folds - 1) / 2) * 0.12
        found = {row.z_bin: row for row in own if row.fold == fold}
        floors = [found[b].floor if b in found else np.nan for b in bins]
        values = [found[b].value if b in found else np.nan for b in bins]
        axes.plot(x, floors, color=colour(fold), linestyle=":", linewidth=1.3)
        axes.plot(x, values, color=colour(fold), marker=marker(fold), markersize=3.5, linewidth=1.2)
        for place, b in zip(x, bins, strict=True):
            if b in found and np.isfinite(found[b].low):
                axes.plot([place, place], [found[b].low, found[b].high], color=colour(fold), linewidth=0.8)
    missing = [b for b in bins if all(not np.isfinite(row.value) for row in own if row.z_bin == b)]
    for b in missing:
        at = axes.get_xaxis_transform()
        axes.text(b, 0.03, "n/a", color=QUIET, fontsize=6, ha="center", transform=at)
    label = "z-bin (0 lowest)"
    reasons = list(dict.fromkeys(row.missing for row in own if row.z_bin in missing))
    if reasons:
        more = f" (and {len(reasons) - 1} like it)" if len(reasons) > 1 else ""
        label += "\n" + textwrap.fill(f"n/a: {reasons[0]}{more}", 52)
    axes.set_xlabel(label)
    axes.set_xlim(bins[0] - 0.5, bins[-1] + 0.5)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
