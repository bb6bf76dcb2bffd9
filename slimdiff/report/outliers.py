"""The sheet of the samples that deviate most from the real slices of their z-bin and from the other samples."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.report.slices import Page, pixel_in
from slimdiff.report.style import ALARM, QUIET

MARGIN = 0.1
GAP = 0.1
CAPTION = 0.46
COLUMNS = 8
NARROWEST_IN = 6.4
WORDS = {
    "brain_area": "area of the brain",
    "brain_outline": "outline of the brain",
    "brain_row": "place of the brain",
    "brain_column": "place of the brain",
    "brightness": "brightness",
    "fine_detail": "fine detail",
    "spots": "spots",
    "specks": "specks outside the brain",
    "distance": "far from every held-out slice",
}
"""Descriptor of `evaluation.metrics.outliers` to the words on the sheet."""


def outlier_sheet(
    store: SliceStore,
    samples: dict[int, Samples],
    scored: pd.DataFrame,
    count: int,
    dpi: int,
    tau: float = 0.0,
    title: str = "",
) -> Figure:
    """The samples with the highest scores, the highest first, with their deviation and what deviates most.

    Args:
        samples: fold to samples.
        scored: of `results.read_outliers`, one variant.
        count: samples shown.
        tau: threshold of the masks.
    """
    outliers, known = int(scored["outlier"].sum()), int(scored["score"].notna().sum())
    shown = scored.dropna(subset=["score"]).sort_values("score", ascending=False, kind="stable").head(count)
    pixel = pixel_in(dpi, store.size)
    tile_h, tile_w = store.size[0] * pixel, store.size[1] * pixel
    lines = max(1, -(-len(shown) // COLUMNS))
    top = 0.62
    width = max(2 * MARGIN + COLUMNS * (tile_w + GAP), NARROWEST_IN)
    page = Page(width, top + lines * (tile_h + CAPTION), dpi, store.size, store.spacing_mm)
    page.text(MARGIN, 0.08, title, 9, weight="bold")
    many = "no sample is an outlier" if not outliers else f"{outliers} of {known} samples are outliers (red)"
    without = len(scored) - known
    page.text(
        MARGIN,
        0.28,
        f"{many}; an outlier has a score above {scored['limit'].max():g}; the highest scores first"
        + (f"; {without} samples without a score: too few slices in their z-bin" if without else ""),
        7,
        QUIET,
    )
    places = {fold: {name: row for row, name in enumerate(own.id)} for fold, own in samples.items()}
    for place, one in enumerate(shown.itertuples()):
        x = MARGIN + place % COLUMNS * (tile_w + GAP)
        y = top + place // COLUMNS * (tile_h + CAPTION)
        drawn = samples[one.fold]
        row = places[one.fold][one.id]
        page.tile(x, y, drawn.images[row], np.asarray(drawn.masks[row], np.float32) > tau)
        under, colour = y + tile_h + 0.03, ALARM if one.outlier else QUIET
        page.text(x, under, f"{one.score:.1f}", 7, colour, weight="bold")
        page.text(x + tile_w, under, f"z-bin {one.z_bin}, fold {one.fold}", 6, QUIET, ha="right")
        page.text(x, under + 0.13, WORDS.get(one.why, ""), 6, colour)
    return page.figure
