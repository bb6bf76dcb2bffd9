"""The sheet of closest synthetic and training slices, and beneath them what all samples say."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.report import nearest as panels
from slimdiff.report.results import Neighbour, Result, TrainingSubject
from slimdiff.report.slices import Page, pixel_in
from slimdiff.report.style import ALARM, COLOURS, FLOOR, INK, QUIET, dash, marker

SHOWN_SUBJECTS = 12
LINE_IN = 0.15


def histogram(axes: Axes, pairs: Sequence[Neighbour], label: str, band: float) -> None:
    """Distances of all samples, a line a fold, with the threshold of each; band: see `band_in`."""
    distances = np.array([pair.distance for pair in pairs])
    edges = np.histogram_bin_edges(distances, bins=min(36, max(12, len(distances) // 15)))
    handles = []
    for fold in sorted({pair.fold for pair in pairs}):
        own = [pair for pair in pairs if pair.fold == fold]
        flagged = sum(pair.flagged for pair in own)
        line = dash(fold)
        axes.hist(
            [pair.distance for pair in own],
            edges,
            histtype="step",
            color=COLOURS[0],
            linestyle=line,
            linewidth=1.2,
        )
        text = f"fold {fold}: {flagged} of {len(own)} flagged"
        if np.isfinite(own[0].threshold):
            axes.axvline(own[0].threshold, color=ALARM, linestyle=line, linewidth=1.1)
        else:
            text += ", threshold n/a"
        handles.append(Line2D([], [], color=COLOURS[0], linestyle=line, label=text))
    handles.append(Line2D([], [], color=ALARM, label="threshold of the same fold"))
    axes.set(xlabel=label, ylabel="samples", xlim=(0, None))
    _head(axes, "Samples by distance", band, handles, 2)


def near_subjects(axes: Axes, rows: Sequence[TrainingSubject], band: float) -> None:
    """How often each training subject is the closest, summed over folds, beside the expectation of chance."""
    handles = [
        Line2D([], [], color=COLOURS[0], alpha=0.55, linewidth=4, label="samples"),
        Line2D([], [], color=ALARM, linewidth=4, label="flagged ones"),
        Line2D([], [], color=FLOOR, linewidth=1.4, label="expected by chance"),
    ]
    _head(axes, "Closest training subjects", band, handles, 3)
    if not rows:
        _nothing(axes, "n/a: no training subject")
        return
    names = list(dict.fromkeys(row.participant for row in rows))
    sums = {
        name: np.sum(
            [(row.n_nearest, row.n_suspects, row.expected) for row in rows if row.participant == name], axis=0
        )
        for name in names
    }
    ordered = sorted(names, key=lambda name: (-sums[name][1], -sums[name][0], name))
    for level, name in enumerate(ordered[:SHOWN_SUBJECTS]):
        nearest, suspects, expected = sums[name]
        axes.barh(level, nearest, height=0.7, color=COLOURS[0], alpha=0.55)
        axes.barh(level, suspects, height=0.7, color=ALARM)
        axes.plot([expected, expected], [level - 0.42, level + 0.42], color=FLOOR, linewidth=1.4)
    shown = min(len(ordered), SHOWN_SUBJECTS)
    axes.set_yticks(range(shown), ordered[:shown], fontsize=5.5 if shown > 8 else 6.5)
    axes.set_ylim(shown - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    rest = f" ({len(ordered) - shown} more not shown)" if len(ordered) > shown else ""
    axes.set_xlabel(f"samples it is the closest to{rest}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def ratio_by_bin(axes: Axes, rows: Sequence[Result], band: float) -> None:
    """R of every z-bin, a line a fold, with intervals; 1 is as far away as unseen subjects."""
    rows = [row for row in rows if row.z_bin is not None]
    if not any(np.isfinite(row.value) for row in rows):
        _head(axes, "R by height", band, [], 1)
        _nothing(axes, f"n/a: {rows[0].missing}" if rows else "n/a: no ratio by z-bin")
        return
    folds = sorted({row.fold for row in rows})
    for place, fold in enumerate(folds):
        own = sorted((row for row in rows if row.fold == fold), key=lambda row: row.z_bin)
        # Folds stand a little beside each other, so that their intervals stay visible.
        x = np.array([row.z_bin for row in own]) + (place - (len(folds) - 1) / 2) * 0.16
        style = {"color": COLOURS[0], "linestyle": dash(fold), "marker": marker(fold), "markersize": 3}
        axes.plot(x, [row.value for row in own], linewidth=1, label=f"fold {fold}", **style)
        axes.vlines(x, [row.low for row in own], [row.high for row in own], color=COLOURS[0], linewidth=0.8)
    axes.axhline(1, color=FLOOR, linestyle=":", linewidth=1.2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.9), max(high, 1.1))
    axes.set_xlabel("z-bin (0 lowest)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    _head(axes, "R by height", band, axes.get_legend_handles_labels()[0], 3)


def band_in(folds: int) -> float:
    """Height of the legends between title and panel, in inches."""
    return LINE_IN * max(1, -(-(folds + 1) // 2))


def _head(axes: Axes, title: str, band: float, handles: Sequence[Artist], columns: int) -> None:
    axes.set_title(title, pad=72 * band + 3)
    if handles:
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(-0.01, 1 + band / (axes.get_position().height * axes.figure.get_figheight())),
            ncols=columns,
            fontsize=6.5,
            handlelength=2,
            columnspacing=1,
            labelspacing=0.25,
            borderaxespad=0,
        )


def _nothing(axes: Axes, reason: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=QUIET, fontsize=7)


MARGIN = 0.1
GAP = 0.04
LABELS = 0.95
PANEL_IN = 1.5
NARROWEST_IN = 9.0  # three panels want it
SPACES = {"pixels": "1 − correlation of pixels"}


def closest(neighbours: Sequence[Neighbour], space: str, count: int) -> list[Neighbour]:
    """The `count` smallest distances of one space, over all folds."""
    own = [pair for pair in neighbours if pair.space == space]
    return sorted(own, key=lambda pair: (pair.distance, pair.fold, pair.sample))[:count]


def nearest_pairs(
    store: SliceStore,
    samples: dict[int, Samples],
    neighbours: Sequence[Neighbour],
    count: int,
    dpi: int,
    tau: float = 0.0,
    title: str = "",
    subjects: Sequence[TrainingSubject] = (),
    metrics: Sequence[Result] = (),
) -> Figure:
    """For each space: the closest pairs, synthetic above training, and beneath them the distances of all samples, the
    training subjects that are closest, and R by z-bin.

    samples: fold to samples; count: pairs a space; tau: mask threshold of synthetic masks; subjects, metrics: of the
    neighbours' variant.
    """
    spaces = list(dict.fromkeys(pair.space for pair in neighbours))
    pixel = pixel_in(dpi, store.size)
    tile_h, tile_w = store.size[0] * pixel, store.size[1] * pixel
    top, head, foot = 0.62, 0.2, 0.68
    band = panels.band_in(len({pair.fold for pair in neighbours}))
    block = head + 2 * tile_h + GAP + foot + band + PANEL_IN + 0.66
    width = max(LABELS + count * (tile_w + GAP) + MARGIN, NARROWEST_IN)
    page = Page(width, top + block * max(1, len(spaces)), dpi, store.size, store.spacing_mm)
    page.text(MARGIN, 0.08, title, 9, weight="bold")
    page.text(
        MARGIN,
        0.28,
        "every sample is compared with the training slices of its z-bin; flagged: closer than the 1 % quantile of "
        "held-out slices",
        7,
        QUIET,
    )
    if not spaces:
        page.text(MARGIN, top, "n/a: no sample has a training slice in its z-bin", 8)
    for number, space in enumerate(spaces):
        y = top + number * block
        page.text(MARGIN, y, f"Closest in {_name(space)}", 8, weight="bold")
        y += head
        _pairs(page, store, samples, closest(neighbours, space, count), y, (tile_w, tile_h), tau)
        own = [pair for pair in neighbours if pair.space == space]
        of_space = [row for row in subjects if row.space == space]
        ratios = [row for row in metrics if row.key == ("memorisation_ratio", space)]
        _panels(page, y + 2 * tile_h + GAP + foot, band, space, own, of_space, ratios)
    return page.figure


def _name(space: str) -> str:
    return "pixels (normalised cross-correlation)" if space == "pixels" else f"{space} features (Euclidean)"


def _pairs(
    page: Page, store, samples, pairs: Sequence[Neighbour], y: float, tile: tuple[float, float], tau: float
):
    tile_w, tile_h = tile
    lower = y + tile_h + GAP
    page.text(MARGIN, y + tile_h / 2, "synthetic", 7.5, COLOURS[0], weight="bold", va="center")
    page.text(MARGIN, lower + tile_h / 2, "training, real", 7.5, INK, weight="bold", va="center")
    for place, pair in enumerate(pairs):
        x = LABELS + place * (tile_w + GAP)
        drawn = samples[pair.fold]
        page.tile(x, y, drawn.images[pair.sample], np.asarray(drawn.masks[pair.sample], np.float32) > tau)
        page.tile(x, lower, store.images[pair.train_row], store.masks[pair.train_row] > 0)
        under = lower + tile_h + 0.03
        page.text(x, under, f"{pair.distance:.3g}", 7, weight="bold")
        page.text(x + tile_w, under, pair.participant, 6.5, ha="right")
        verdict = ("flagged", ALARM) if pair.flagged else ("not flagged", QUIET)
        page.text(x, under + 0.13, f"z-bin {pair.z_bin}, fold {pair.fold}", 6, QUIET)
        page.text(x, under + 0.25, verdict[0], 6.5, verdict[1], weight="bold" if pair.flagged else "normal")


def _panels(page: Page, y: float, band: float, space: str, neighbours, subjects, ratios) -> None:
    """The three panels of one space, side by side."""
    left, gap, right = 0.55, 0.75, 0.15
    free = page.width - left - right - 2 * gap
    label = SPACES.get(space, f"distance in {space} features") + " to the closest training slice"
    y += band
    x = left
    for share, draw in (
        (0.37, lambda axes: panels.histogram(axes, neighbours, label, band)),
        (0.35, lambda axes: panels.near_subjects(axes, subjects, band)),
        (0.28, lambda axes: panels.ratio_by_bin(axes, ratios, band)),
    ):
        box = (x, page.height - y - PANEL_IN, share * free, PANEL_IN)
        of = (page.width, page.height, page.width, page.height)
        draw(page.figure.add_axes([inches / total for inches, total in zip(box, of, strict=True)]))
        x += share * free + gap
