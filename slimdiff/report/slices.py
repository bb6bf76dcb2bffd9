"""Sheets of slices: tiles with outlined masks, placed in inches, every image pixel a whole number of dots."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from skimage.measure import find_contours

from slimdiff.data.participants import Participant
from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.redaction import shown_text
from slimdiff.report.style import COLOURS, FOOTER_IN, INK, OUTLINE, QUIET

TILE_IN = 1.05
LINE_PT = 0.8


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines around a mask, halfway between its outermost pixels and their neighbours.

    mask: bool (H, W). Returns arrays (n, 2) of x, y in px, where pixel (row, column) has its centre at
    (column, row).
    """
    padded = np.pad(np.asarray(mask, bool), 1).astype(float)
    return [contour[:, ::-1] - 1 for contour in find_contours(padded, 0.5)]


class Page:
    """An empty sheet; x goes right and y goes down, both in inches."""

    def __init__(self, width: float, height: float, dpi: int, size: tuple[int, int], spacing_mm: float):
        self.dpi, self.size, self.spacing_mm = dpi, size, spacing_mm
        # A whole number of dots for each pixel, so that all pixels of a slice are equally wide.
        self.pixel = pixel_in(dpi, size)
        self.width, self.height = self._snap(width), self._snap(height + FOOTER_IN)
        self.figure = Figure(figsize=(self.width, self.height), dpi=dpi)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0), autoscale_on=False)
        self.axes.axis("off")

    def _snap(self, inches: float) -> float:
        return round(inches * self.dpi) / self.dpi

    def text(self, x: float, y: float, text: str, size: float = 7, colour: str = INK, **options):
        """Write at (x, y), by default from there to the right and below it."""
        # Free text, such as the name of a group: $ is a sign, not the begin of a formula.
        options = {"ha": "left", "va": "top", "parse_math": False, **options}
        return self.axes.text(x, y, shown_text(text), fontsize=size, color=colour, **options)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str = QUIET, width: float = 0.6):
        self.axes.plot([x0, x1], [y0, y1], color=colour, linewidth=width, solid_capstyle="butt")

    def tile(self, x: float, y: float, image: np.ndarray, mask: np.ndarray | None = None) -> None:
        """A slice (H, W) in [-1, 1] on the fixed window [-1, 1], its mask (bool) outlined."""
        x, y = self._snap(x), self._snap(y)
        height, width = (extent * self.pixel for extent in image.shape)
        self.axes.imshow(
            np.asarray(image, np.float32),
            cmap="gray",
            vmin=-1,
            vmax=1,
            interpolation="nearest",
            extent=(x, x + width, y + height, y),
            aspect="auto",
        )
        lines = outline(mask) if mask is not None else []
        placed = [(line + 0.5) * self.pixel + (x, y) for line in lines]
        self.axes.add_collection(LineCollection(placed, colors=OUTLINE, linewidths=LINE_PT), autolim=False)
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))

    def blank(self, x: float, y: float, reason: str) -> None:
        """The reason of a missing tile, in its place."""
        height, width = (extent * self.pixel for extent in self.size)
        self.axes.fill(
            [x, x + width, x + width, x], [y, y, y + height, y + height], color="#f2f2f2", linewidth=0
        )
        self.text(x + width / 2, y + height / 2, reason, 6, QUIET, ha="center", va="center")

    def orientation(self, x: float, y: float) -> None:
        """Sides and a 50 mm bar on the tile at (x, y): axial, anterior up, left on the left."""
        height, width = (extent * self.pixel for extent in self.size)
        inset = 0.04
        self.text(x + inset, y + inset, "L", 6, "white")
        self.text(x + width - inset, y + inset, "R", 6, "white", ha="right")
        bar = 50 / self.spacing_mm * self.pixel
        level = y + height - 0.05
        self.line(x + inset, level, x + inset + bar, level, "white", 1.4)
        self.text(x + inset + bar + 0.03, level + 0.01, "5 cm", 5.5, "white", va="center")


def pixel_in(dpi: int, size: tuple[int, int]) -> float:
    """Edge of one slice pixel on the sheet, in inches: tiles are about TILE_IN wide."""
    return max(1, round(TILE_IN * dpi / size[1])) / dpi


MARGIN = 0.1
GAP = 0.04
MOST_BINS = 10
COHORT_COLUMNS = 10
CAPTION = 0.22
GROUP_LETTERS = 24


def shown_slice(store: SliceStore, participant: str) -> int | None:
    """Store row of the slice with the largest lesion; without a lesion the middle one; None without slices."""
    rows = store.rows_of([participant])
    if not len(rows):
        return None
    lesion = np.asarray(store.masks[rows]).reshape(len(rows), -1).sum(axis=1)
    if lesion.any():
        return int(rows[lesion.argmax()])
    return int(rows[np.argsort(store.z[rows], kind="stable")[len(rows) // 2]])


def cohort(store: SliceStore, participants: Sequence[Participant], dpi: int) -> Figure:
    """One tile for each participant with the mask outlined; excluded subjects are listed with their reason."""
    included = [person for person in participants if person.included]
    excluded = [person for person in participants if not person.included]
    pixel = pixel_in(dpi, store.size)
    tile_h, tile_w = store.size[0] * pixel, store.size[1] * pixel
    columns = min(COHORT_COLUMNS, len(included))
    lines = -(-len(included) // columns)
    listed = _exclusions(excluded, columns * tile_w)
    top = 0.62
    height = top + lines * (tile_h + CAPTION + GAP) + 0.13 * len(listed)
    width = max(2 * MARGIN + columns * (tile_w + GAP), 5.2)
    page = Page(width, height, dpi, store.size, store.spacing_mm)
    patients = sum(person.is_patient for person in included)
    page.text(
        MARGIN,
        0.08,
        f"{len(included)} participants: {patients} with a lesion mask, {len(included) - patients} without",
        9,
        weight="bold",
    )
    page.text(
        MARGIN,
        0.28,
        "the axial slice with the largest lesion, outlined; without a lesion the middle slice. "
        f"Grid {store.spacing_mm:g} mm.",
        7,
        QUIET,
    )
    for position, person in enumerate(included):
        x = MARGIN + position % columns * (tile_w + GAP)
        y = top + position // columns * (tile_h + CAPTION + GAP)
        row = shown_slice(store, person.participant_id)
        if row is None:
            page.blank(x, y, "no slice\nin the store")
        else:
            page.tile(x, y, store.images[row], store.masks[row] > 0)
        missing = person.is_patient and row is not None and not store.masks[row].any()
        page.text(x, y + tile_h + 0.02, person.participant_id, 6.5)
        page.text(
            x + tile_w,
            y + tile_h + 0.02,
            "no lesion slice kept" if missing else _cut(person.group),
            6.5,
            COLOURS[0] if person.is_patient else QUIET,
            ha="right",
        )
    page.orientation(MARGIN, top)
    for number, line in enumerate(listed):
        page.text(MARGIN, top + lines * (tile_h + CAPTION + GAP) + 0.13 * number, line, 7)
    return page.figure


def _cut(name: str) -> str:
    return name if len(name) <= GROUP_LETTERS else f"{name[: GROUP_LETTERS - 1]}…"


def _exclusions(excluded: Sequence[Participant], width: float) -> list[str]:
    if not excluded:
        return ["No subject is excluded."]
    text = f"Excluded ({len(excluded)}): " + "; ".join(f"{p.participant_id}, {p.excluded}" for p in excluded)
    # Before a line break can divide a path.
    return textwrap.wrap(shown_text(text), max(60, int(width * 16)))


@dataclass(frozen=True)
class Group:
    """One row of tiles: which slices belong to it."""

    name: str
    colour: str
    label: int
    synthetic: bool


GROUPS = (
    Group("real, held out", INK, 1, False),
    Group("synthetic", COLOURS[0], 1, True),
    Group("real, held out", INK, 0, False),
    Group("synthetic", COLOURS[0], 0, True),
)


def spread_bins(n_bins: int, most: int = MOST_BINS) -> np.ndarray:
    """At most `most` z-bins, evenly spread, the lowest and the highest among them."""
    return np.unique(np.linspace(0, n_bins - 1, min(n_bins, most)).round().astype(int))


def select_rows(rows: np.ndarray, owners: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
    """`count` rows by seed, of different owners while there are any, so that no tile is hand-picked.

    rows: (N,); owners: (N,) subject of each row.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    turn: dict = {}
    rank = np.empty(len(rows), int)
    for place in order:
        rank[place] = turn.setdefault(owners[place], 0)
        turn[owners[place]] += 1
    return rows[order[np.argsort(rank[order], kind="stable")]][:count]


def real_and_synthetic(
    store: SliceStore,
    held_out: Sequence[str],
    samples: Samples,
    per_bin: int,
    dpi: int,
    tau: float = 0.0,
    title: str = "",
) -> Figure:
    """Held-out slices above synthetic ones of the same z-bin, first of the lesion class, then of the control class.

    held_out: participants of the test part; per_bin: tiles of each row in a z-bin; tau: mask threshold.
    """
    pixel = pixel_in(dpi, store.size)
    tile_h, tile_w = store.size[0] * pixel, store.size[1] * pixel
    bins = spread_bins(store.n_bins)
    block = per_bin * (tile_w + GAP) + 2 * GAP
    left, top, between = 1.08, 0.78, 0.16
    page = Page(
        left + len(bins) * block + MARGIN,
        top + 4 * (tile_h + GAP) + between,
        dpi,
        store.size,
        store.spacing_mm,
    )
    page.text(MARGIN, 0.08, title, 9, weight="bold")
    page.text(
        MARGIN,
        0.28,
        "selected by seed, not by hand; one intensity window for all; mask outlined; a synthetic tile without outline "
        "has an empty mask",
        7,
        QUIET,
    )
    for column, z_bin in enumerate(bins):
        x = left + column * block
        end = " (lowest)" if z_bin == 0 else " (highest)" if z_bin == store.n_bins - 1 else ""
        page.text(x, top - 0.2, f"z-bin {z_bin}{end}", 7)
        page.line(x, top - 0.05, x + per_bin * (tile_w + GAP) - GAP, top - 0.05)
    pool = store.rows_of(list(held_out))
    tops = [top + number * (tile_h + GAP) + (number >= 2) * between for number in range(4)]
    for group, y in zip(GROUPS, tops, strict=True):
        page.text(MARGIN, y + tile_h / 2 - 0.02, group.name, 7.5, group.colour, weight="bold", va="bottom")
        condition = "class: lesion" if group.label else "class: no lesion"
        page.text(MARGIN, y + tile_h / 2 + 0.02, condition, 6.5, QUIET)
        for column, z_bin in enumerate(bins):
            if group.synthetic:
                rows = np.flatnonzero((samples.z_bin == z_bin) & (samples.label == group.label))
                owners, images, masks, threshold = samples.id[rows], samples.images, samples.masks, tau
            else:
                rows = pool[(store.z_bin[pool] == z_bin) & (store.label[pool] == group.label)]
                owners, images, masks, threshold = store.participant[rows], store.images, store.masks, 0.5
            chosen = select_rows(rows, owners, per_bin, (int(z_bin), group.label, group.synthetic))
            for place in range(per_bin):
                x = left + column * block + place * (tile_w + GAP)
                if place >= len(chosen):
                    page.blank(x, y, "no further\nslice" if len(chosen) else "no such\nslice")
                    continue
                row = chosen[place]
                page.tile(x, y, images[row], np.asarray(masks[row], np.float32) > threshold)
                if not group.synthetic:
                    page.text(
                        x + 0.03, y + tile_h - 0.03, store.participant[row], 4.8, "#c8c8c8", va="bottom"
                    )
    page.orientation(left, tops[1])
    return page.figure
