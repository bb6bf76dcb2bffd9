"""Sheets of slices: tiles with outlined masks, placed in inches, every image pixel a whole number of dots."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from skimage.measure import find_contours

from slimdiff.report.style import FOOTER_IN, INK, OUTLINE, QUIET

TILE_IN = 1.05
LINE_PT = 0.8


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines around a mask, half way between its outermost pixels and their neighbours.

    mask: bool (H, W). Returns arrays (n, 2) of x, y in px, where pixel (row, column) has its centre at
    (column, row).
    """
    padded = np.pad(np.asarray(mask, bool), 1).astype(float)
    return [contour[:, ::-1] - 1 for contour in find_contours(padded, 0.5)]


class Page:
    """An empty sheet; x goes right and y goes down, both in inches."""

    def __init__(self, width: float, height: float, dpi: int, size: tuple[int, int], spacing_mm: float):
        self.dpi, self.size, self.spacing_mm = dpi, size, spacing_mm
        # Whole dots a pixel, so that no pixel of the slice is drawn wider than another.
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
        options = {"ha": "left", "va": "top", **options}
        return self.axes.text(x, y, text, fontsize=size, color=colour, **options)

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
        """In the place of a tile: why there is none."""
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
