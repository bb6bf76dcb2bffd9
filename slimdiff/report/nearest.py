"""The sheet of closest synthetic and training slices, and beneath them what all samples say."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.report import nearest_panels as panels
from slimdiff.report.page import Page, pixel_in
from slimdiff.report.results import Neighbour, Result, TrainingSubject
from slimdiff.report.style import ALARM, COLOURS, INK, QUIET

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
