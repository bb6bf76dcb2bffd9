"""The sheet of the closest synthetic and training slices, with panels of all samples below."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.report.curves import fold_points, with_places
from slimdiff.report.results import reason_of_missing
from slimdiff.report.slices import Page, pixel_in
from slimdiff.report.style import ALARM, COLOURS, FLOOR, INK, QUIET, dash, marker

SHOWN_SUBJECTS = 12
LINE_IN = 0.15


def histogram(axes: Axes, matches: pd.DataFrame, label: str, band: float) -> None:
    """Distances of all samples relative to the threshold of their z-bin, a line for each fold; band: see `band_in`."""
    known = matches["threshold"].notna().all()
    matches = matches.assign(distance=matches["distance"] / matches["threshold"]) if known else matches
    edges = np.histogram_bin_edges(matches["distance"], bins=min(36, max(12, len(matches) // 15)))
    # An empty bin at both ends, so that the steps start and end at 0.
    edges = np.concatenate([[2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]])
    handles = []
    for fold, own in matches.groupby("fold"):
        line = dash(fold)
        steps = {"element": "step", "fill": False, "color": COLOURS[0], "linestyle": line, "linewidth": 1.2}
        sns.histplot(own, x="distance", bins=edges, ax=axes, **steps)
        words = f"fold {fold}: {own['flagged'].sum()} of {len(own)} flagged"
        if not known:
            words += ", threshold n/a"
        handles.append(Line2D([], [], color=COLOURS[0], linestyle=line, label=words))
    if known:
        axes.axvline(1, color=ALARM, linewidth=1.1)
        handles.append(Line2D([], [], color=ALARM, label="threshold"))
    axes.set(xlabel="distance / threshold of the z-bin" if known else label, ylabel="samples", xlim=(0, None))
    _head(axes, "Samples by distance", band, handles, 2)


def subject_bars(axes: Axes, subjects: pd.DataFrame, band: float) -> None:
    """How often each training subject is the closest, summed over folds, with the number expected by chance."""
    handles = [
        Line2D([], [], color=COLOURS[0], alpha=0.55, linewidth=4, label="samples"),
        Line2D([], [], color=ALARM, linewidth=4, label="flagged samples"),
        Line2D([], [], color=FLOOR, linewidth=1.4, label="expected by chance"),
    ]
    _head(axes, "Closest training subjects", band, handles, 3)
    if subjects.empty:
        _nothing(axes, "n/a: no training subject")
        return
    sums = subjects.groupby("participant")[["n_suspects", "n_nearest", "expected"]].sum()
    sums = sums.sort_values(["n_suspects", "n_nearest"], ascending=False, kind="stable").reset_index()
    shown = sums.head(SHOWN_SUBJECTS)
    bars = {"y": "participant", "order": shown["participant"], "width": 0.7, "saturation": 1, "ax": axes}
    sns.barplot(shown, x="n_nearest", color=COLOURS[0], alpha=0.55, linewidth=0, **bars)
    sns.barplot(shown, x="n_suspects", color=ALARM, linewidth=0, **bars)
    level = np.arange(len(shown))
    axes.vlines(shown["expected"], level - 0.42, level + 0.42, colors=FLOOR, linewidth=1.4)
    axes.tick_params(axis="y", length=0, labelsize=5.5 if len(shown) > 8 else 6.5)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    rest = f" ({len(sums) - len(shown)} more not shown)" if len(sums) > len(shown) else ""
    axes.set(xlabel=f"samples closest to the subject{rest}", ylabel="")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def ratio_by_bin(axes: Axes, rows: pd.DataFrame, band: float) -> None:
    """R of every z-bin, a line for each fold, with intervals; at 1 samples are as far away as unseen subjects.

    rows: of `read_metrics`, one variant and space.
    """
    rows = rows[rows["z_bin"].notna()]
    if not rows["value"].notna().any():
        _head(axes, "R by z-bin", band, [], 1)
        reason = next((reason_of_missing(row) for row in rows.itertuples()), "no ratio by z-bin")
        _nothing(axes, f"n/a: {reason}")
        return
    folds = rows["fold"].max() + 1
    bins = range(int(rows["z_bin"].min()), int(rows["z_bin"].max()) + 1)
    rows = with_places(rows, "z_bin", {z_bin: z_bin for z_bin in bins}, folds, 0.16)
    plot_options = {"palette": [COLOURS[0]] * folds, "linestyles": [dash(k) for k in range(folds)]}
    plot_options |= {"linewidth": 1, "markersize": 3, "markeredgewidth": 0, "native_scale": True}
    fold_points(axes, rows, "z_bin", "value", folds, 0.16, **plot_options)
    handles = [
        Line2D([], [], color=COLOURS[0], linestyle=dash(k), marker=marker(k), markersize=3, label=f"fold {k}")
        for k in range(folds)
    ]
    axes.vlines(rows["place"], rows["ci_low"], rows["ci_high"], color=COLOURS[0], linewidth=0.8)
    axes.axhline(1, color=FLOOR, linestyle=":", linewidth=1.2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.9), max(high, 1.1))
    axes.set_xlabel("z-bin (0 lowest)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    _head(axes, "R by z-bin", band, handles, 3)


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
NARROWEST_IN = 9.0  # for three panels
SPACES = {
    "pixels": "1 − correlation of pixels",
    "joint": "smallest distance in three spaces",
    "learnt": "distance ratio in learnt features",
    "means": "unexplained share, as ratio, of a mixture",
    "lesions": "distance ratio of lesions",
}
NAMES = {
    "pixels": "pixels (normalised cross-correlation)",
    "joint": "joint: learnt, means and lesions together",
    "learnt": "learnt: altered copies and mirror images",
    "means": "means of two training slices (the one with the larger share is shown)",
    "lesions": "lesions alone",
}


def closest(neighbours: pd.DataFrame, space: str, count: int) -> pd.DataFrame:
    """The `count` smallest distances of one space, over all folds."""
    own = neighbours[neighbours["space"] == space]
    return own.sort_values(["distance", "fold", "sample"]).head(count)


def nearest_sheet(
    store: SliceStore,
    samples: dict[int, Samples],
    neighbours: pd.DataFrame,
    subjects: pd.DataFrame,
    metrics: pd.DataFrame,
    count: int,
    dpi: int,
    tau: float = 0.0,
    title: str = "",
) -> Figure:
    """For each space: the closest samples and training slices, synthetic above training; below them the distances of
    all samples, the closest training subjects, and R by z-bin.

    Args:
        samples: fold to samples.
        neighbours, subjects, metrics: of one variant, from `results`.
        count: closest samples shown for each space.
        tau: threshold of synthetic masks.
    """
    spaces = neighbours["space"].unique()
    pixel = pixel_in(dpi, store.size)
    tile_h, tile_w = store.size[0] * pixel, store.size[1] * pixel
    top, head, foot = 0.62, 0.2, 0.68
    band = band_in(neighbours["fold"].nunique())
    block = head + 2 * tile_h + GAP + foot + band + PANEL_IN + 0.66
    width = max(LABELS + count * (tile_w + GAP) + MARGIN, NARROWEST_IN)
    page = Page(width, top + block * max(1, len(spaces)), dpi, store.size, store.spacing_mm)
    page.text(MARGIN, 0.08, title, 9, weight="bold")
    page.text(
        MARGIN,
        0.28,
        "each sample is compared with the training slices of its z-bin; flagged: closer than all but 1 % of "
        "held-out slices",
        7,
        QUIET,
    )
    if not len(spaces):
        page.text(MARGIN, top, "n/a: no sample has a training slice in its z-bin", 8)
    for number, space in enumerate(spaces):
        y = top + number * block
        page.text(MARGIN, y, f"Closest in {_name(space)}", 8, weight="bold")
        y += head
        _closest_row(page, store, samples, closest(neighbours, space, count), y, (tile_w, tile_h), tau)
        own = neighbours[neighbours["space"] == space]
        of_space = subjects[subjects["space"] == space]
        ratios = metrics[(metrics["metric"] == "memorisation_ratio") & (metrics["extractor"] == space)]
        _panels(page, y + 2 * tile_h + GAP + foot, band, space, own, of_space, ratios)
    return page.figure


def _name(space: str) -> str:
    return NAMES.get(space, f"{space} features (Euclidean)")


def _closest_row(
    page: Page, store, samples, matches: pd.DataFrame, y: float, tile: tuple[float, float], tau: float
):
    tile_w, tile_h = tile
    lower = y + tile_h + GAP
    page.text(MARGIN, y + tile_h / 2, "synthetic", 7.5, COLOURS[0], weight="bold", va="center")
    page.text(MARGIN, lower + tile_h / 2, "training, real", 7.5, INK, weight="bold", va="center")
    for place, match in enumerate(matches.itertuples()):
        x = LABELS + place * (tile_w + GAP)
        drawn = samples[match.fold]
        page.tile(x, y, drawn.images[match.sample], np.asarray(drawn.masks[match.sample], np.float32) > tau)
        page.tile(x, lower, store.images[match.train_row], store.masks[match.train_row] > 0)
        under = lower + tile_h + 0.03
        page.text(x, under, f"{match.distance:.3g}", 7, weight="bold")
        page.text(x + tile_w, under, match.train_participant, 6.5, ha="right")
        verdict = ("flagged", ALARM) if match.flagged else ("not flagged", QUIET)
        page.text(x, under + 0.13, f"z-bin {match.z_bin}, fold {match.fold}", 6, QUIET)
        page.text(x, under + 0.25, verdict[0], 6.5, verdict[1], weight="bold" if match.flagged else "normal")


def _panels(page: Page, y: float, band: float, space: str, neighbours, subjects, ratios) -> None:
    """The three panels of one space, side by side."""
    left, gap, right = 0.55, 0.75, 0.15
    free = page.width - left - right - 2 * gap
    label = SPACES.get(space, f"distance in {space} features") + " to the closest training slice"
    y += band
    x = left
    for share, draw in (
        (0.37, lambda axes: histogram(axes, neighbours, label, band)),
        (0.35, lambda axes: subject_bars(axes, subjects, band)),
        (0.28, lambda axes: ratio_by_bin(axes, ratios, band)),
    ):
        box = (x, page.height - y - PANEL_IN, share * free, PANEL_IN)
        of = (page.width, page.height, page.width, page.height)
        draw(page.figure.add_axes([inches / total for inches, total in zip(box, of, strict=True)]))
        x += share * free + gap
