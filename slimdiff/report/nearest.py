"""The sheet of closest synthetic and training slices, and how the distances lie to the threshold."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.report.page import Page, pixel_in
from slimdiff.report.results import Neighbour
from slimdiff.report.style import ALARM, COLOURS, INK, QUIET, dash

MARGIN = 0.1
GAP = 0.04
LABELS = 0.95
HISTOGRAM_IN = 1.35
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
) -> Figure:
    """For each space: the closest pairs, synthetic above training, and the distances of all samples.

    samples: fold to samples; count: pairs a space; tau: mask threshold of synthetic masks.
    """
    spaces = list(dict.fromkeys(pair.space for pair in neighbours))
    pixel = pixel_in(dpi, store.size)
    tile_h, tile_w = store.size[0] * pixel, store.size[1] * pixel
    top, head, foot = 0.62, 0.2, 0.74
    block = head + 2 * tile_h + GAP + foot + HISTOGRAM_IN + 0.6
    width = max(LABELS + count * (tile_w + GAP) + MARGIN, 6.4)
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
        _histogram(page, own, y + 2 * tile_h + GAP + foot, SPACES.get(space, f"distance in {space} features"))
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


def _histogram(page: Page, pairs: Sequence[Neighbour], y: float, label: str) -> None:
    height = HISTOGRAM_IN / page.height
    box = (
        LABELS / page.width,
        1 - y / page.height - height,
        (page.width - LABELS - 0.3) / page.width,
        height,
    )
    axes = page.figure.add_axes(box)
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
    axes.set(xlabel=label + " to the closest training slice", ylabel="samples", xlim=(0, None))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1),
        ncols=5,
        handlelength=2.4,
        borderaxespad=0,
    )
