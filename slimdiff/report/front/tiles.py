"""Slices as pictures of a page: real beside synthetic on the front page, and sheets of many tiles."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from slimdiff.data.store import SliceStore
from slimdiff.generation.samples import Samples
from slimdiff.report import html_page
from slimdiff.report.quality import Plane, outlined
from slimdiff.report.slices import select_rows, spread_bins

COLUMNS = 12
LESION_COLUMNS = 8
"""Tiles of the lesion class; the others are of the control class."""
QUALITY = 80
SHEET_COLUMNS = 20


def plane_of(image: np.ndarray, mask: np.ndarray) -> Plane:
    """A slice in [-1, 1] on the fixed window, with its mask (bool)."""
    grey = np.clip((np.asarray(image, np.float32) + 1) * 127.5, 0, 255).round().astype(np.uint8)
    return Plane(grey, np.asarray(mask, bool))


def jpeg_uri(picture: np.ndarray, quality: int = QUALITY) -> str:
    """RGB uint8 (H, W, 3) as a data address."""
    stream = io.BytesIO()
    # Without colour subsampling, which would blur the outline.
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


@dataclass(frozen=True)
class ShownPair:
    """A held-out slice and a sample of one z-bin and class."""

    z_bin: int
    label: int
    real: int
    """Row in the store."""
    sample: int
    """Row of the samples."""


def chosen_pairs(store: SliceStore, held_out: Sequence[str], samples: Samples) -> list[ShownPair]:
    """COLUMNS pairs, selected by seed: lesion class first, from the lowest to the highest z-bin."""
    pool = store.rows_of(list(held_out))
    result = []
    for label, count in ((1, LESION_COLUMNS), (0, COLUMNS - LESION_COLUMNS)):
        real = {
            z_bin: pool[(store.z_bin[pool] == z_bin) & (store.label[pool] == label)]
            for z_bin in range(store.n_bins)
        }
        drawn = {
            z_bin: np.flatnonzero((samples.z_bin == z_bin) & (samples.label == label))
            for z_bin in range(store.n_bins)
        }
        bins = [z_bin for z_bin in real if len(real[z_bin]) and len(drawn[z_bin])]
        if not bins:
            continue
        places = [bins[int(place)] for place in spread_bins(len(bins), count)]
        # With fewer z-bins than columns some have several pairs.
        places = sorted((places * count)[:count])
        for z_bin in dict.fromkeys(places):
            several = places.count(z_bin)
            rows = select_rows(real[z_bin], store.participant[real[z_bin]], several, (z_bin, label, 0))
            own = select_rows(drawn[z_bin], samples.id[drawn[z_bin]], several, (z_bin, label, 1))
            result += [ShownPair(z_bin, label, int(a), int(b)) for a, b in zip(rows, own, strict=False)]
    return result


def pairs_table(store: SliceStore, pairs: Sequence[ShownPair], samples: Samples, tau: float) -> str:
    """HTML: held-out slices above samples, masks outlined."""
    rows = {"real": "", "synthetic": ""}
    heads = ""
    for pair in pairs:
        kind = "lesion" if pair.label else "no lesion"
        heads += f"<th>{pair.z_bin}<br>{kind}</th>"
        real = plane_of(store.images[pair.real], store.masks[pair.real] > 0)
        mask = np.asarray(samples.masks[pair.sample], np.float32) > tau
        fake = plane_of(samples.images[pair.sample], mask)
        for name, plane, words in (
            ("real", real, store.participant[pair.real]),
            ("synthetic", fake, samples.id[pair.sample]),
        ):
            label = html_page.text(f"{name}, z-bin {pair.z_bin}, {kind}: {words}")
            rows[name] += (
                f'<td><img alt="{label}" title="{label}" src="{jpeg_uri(outlined(plane, scale_of(plane)))}"></td>'
            )
    return (
        f'<table class="tiles"><tr><th>z-bin</th>{heads}</tr>'
        f"<tr><th>real,<br>held out</th>{rows['real']}</tr><tr><th>synthetic</th>{rows['synthetic']}</tr></table>"
    )


def scale_of(plane: Plane) -> int:
    """Screen pixels of a slice's pixel: slices that are large already are not enlarged."""
    return 2 if plane.image.shape[1] < 128 else 1


def sheet(planes: Sequence[Plane], edge: int) -> np.ndarray:
    """One picture of many tiles, SHEET_COLUMNS in a row, each `edge` px wide.

    Returns uint8 RGB (rows * height, SHEET_COLUMNS * edge, 3); the height of a tile is `tile_height`.
    """
    height = tile_height(planes[0].image.shape, edge)
    rows = -(-len(planes) // SHEET_COLUMNS)
    result = np.zeros((rows * height, SHEET_COLUMNS * edge, 3), np.uint8)
    for number, plane in enumerate(planes):
        tile = Image.fromarray(outlined(plane, scale_of(plane))).resize(
            (edge, height), Image.Resampling.BILINEAR
        )
        top, left = number // SHEET_COLUMNS * height, number % SHEET_COLUMNS * edge
        result[top : top + height, left : left + edge] = np.asarray(tile)
    return result


def tile_height(size: tuple[int, ...], edge: int) -> int:
    """Height of a tile that is `edge` px wide, for slices of (H, W) px."""
    return max(1, round(edge * size[0] / size[1]))
