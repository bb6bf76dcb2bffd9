"""The synthetic pairs as grey PNG files, and a contact sheet of some of them.

    {sample}_image.png   uint8 (H, W): -1 becomes 0, 1 becomes 255
    {sample}_mask.png    uint8 (H, W): 255 for lesion, else 0
    sheet.png            z-bins from the highest down; samples of class control (left) and lesion (right)

Rows run from anterior to posterior, columns from left to right.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from slimdiff.data.participants import DataError
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.export.cases import NOTHING_LEFT, Case, ModelSamples
from slimdiff.export.dataset_card import write_card
from slimdiff.export.folder import INDEX, folder_of, replacing_folder
from slimdiff.png import write_png

SHOWN_PER_CLASS = 5
DPI = 130
HEADINGS = ("class: control", "class: lesion")


def write(model: ModelSamples) -> Path:
    """Write one variant and fold's samples; returns their folder.

    Raises FileExistsError, FileNotFoundError or DataError with the file.
    """
    folder = folder_of(model.study, "png", model.variant, model.fold)
    shown: dict[tuple[int, int], list[Case]] = defaultdict(list)
    count = 0
    with replacing_folder(folder) as draft:
        for case in model.synthetic():
            name = case.sample["id"]
            write_png(draft / f"{name}_image.png", to_uint8(case.image[None])[0])
            write_png(draft / f"{name}_mask.png", case.mask.astype(np.uint8) * 255)
            # The first ones are a random choice, since each sample has its own noise.
            if len(shown[case.z_bin, case.label]) < SHOWN_PER_CLASS:
                shown[case.z_bin, case.label].append(case)
            count += 1
        if not count:
            raise DataError(f"{folder}: {NOTHING_LEFT}")
        write_card(draft, model, "png")
        _contact_sheet(draft / INDEX["png"], model, shown, count)
    return folder


def _contact_sheet(
    path: Path, model: ModelSamples, shown: dict[tuple[int, int], list[Case]], count: int
) -> None:
    from slimdiff.report.slices import GAP, MARGIN, Page, pixel_in, spread_bins
    from slimdiff.report.style import QUIET, figure_style, save

    size, store = model.store.size, model.store
    pixel = pixel_in(DPI, size)
    tile_h, tile_w = size[0] * pixel, size[1] * pixel
    bins = spread_bins(store.n_bins)[::-1]
    left, top, between = 0.95, 0.74, 0.22
    block = SHOWN_PER_CLASS * (tile_w + GAP) - GAP
    with figure_style():
        page = Page(
            left + 2 * block + between + MARGIN,
            top + len(bins) * (tile_h + GAP),
            DPI,
            size,
            store.spacing_mm,
        )
        title = f"Synthetic slices: {model.variant}, fold {model.fold}"
        page.text(MARGIN, 0.08, title, 9, weight="bold")
        note = (
            f"the first {SHOWN_PER_CLASS} of each z-bin and class, of {count} in total; the mask is outlined; no "
            "outline: empty mask"
        )
        page.text(MARGIN, 0.28, note, 7, QUIET)
        for label, heading in enumerate(HEADINGS):
            x = left + label * (block + between)
            page.text(x, top - 0.22, heading, 7.5, weight="bold")
            page.line(x, top - 0.06, x + block, top - 0.06)
        for line, z_bin in enumerate(bins):
            y = top + line * (tile_h + GAP)
            page.text(MARGIN, y + tile_h / 2 - 0.02, f"z-bin {z_bin}", 7.5, weight="bold", va="bottom")
            end = "lowest" if z_bin == 0 else "highest" if z_bin == store.n_bins - 1 else ""
            page.text(MARGIN, y + tile_h / 2 + 0.02, end, 6.5, QUIET)
            for label in range(len(HEADINGS)):
                found = shown.get((int(z_bin), label), [])
                for place in range(SHOWN_PER_CLASS):
                    x = left + label * (block + between) + place * (tile_w + GAP)
                    if place < len(found):
                        page.tile(x, y, found[place].image, found[place].mask)
                    else:
                        page.blank(x, y, "no further\nsample" if found else "no such\nsample")
        page.orientation(left, top)
        save(page.figure, path, model.study.report.notice, DPI, model.study.study)
