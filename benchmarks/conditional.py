"""Whether own masks and inpainted lesions fit their images: python benchmarks/conditional.py

`mask_to_image`: held-out masks, the image drawn around each; MMD-PL against the held-out pairs, and the contrast of a
mask to its ring (1: as held-out lesions). `inpaint`: held-out slices without lesion, a lesion drawn into a region where
a held-out patient of the same z-bin has one, in one attempt and in up to eight; the same numbers, how often there is a
lesion, and how many pixels outside the region changed. Beside them: samples of the whole pair, real pairs, and (what
MMD-PL has to notice) the drawn images under one another's masks. A row a sampler, as TSV.
"""

import numpy as np
from judging import Judge
from scipy import ndimage

from slimdiff.evaluation.control import has_lesion
from slimdiff.generation.conditional import Given, draw_until_lesion, given_mask, given_surroundings
from slimdiff.generation.generate import Generator

SETTINGS = (
    {"sampler": "dpmpp_2m", "evaluations": 20},
    {"sampler": "dpmpp_2m_sde", "evaluations": 20},
    {"sampler": "dpmpp_2m_sde", "evaluations": 40},
)
ATTEMPTS = (1, 8)
COLUMNS = (
    "what",
    "sampler",
    "evaluations",
    "attempts",
    "n",
    "mmd_pl",
    "contrast",
    "lesion_share",
    "changed_px_outside",
)
MARGIN_PX = 2


def masks_of(judge: Judge, count: int) -> list[Given]:
    """Held-out lesion masks."""
    store, rng = judge.store, np.random.default_rng(0)
    rows = judge.test[store.label[judge.test] == 1]
    rows = rng.choice(rows, min(count, len(rows)), replace=False)
    return [given_mask(np.asarray(store.masks[row]) > 0, int(store.z_bin[row]), f"row {row}") for row in rows]


def regions_of(judge: Judge, count: int) -> list[Given]:
    """Held-out slices without lesion, with a held-out lesion of their z-bin, dilated, as the region."""
    store, rng = judge.store, np.random.default_rng(0)
    bins, label = store.z_bin[judge.test], store.label[judge.test]
    given = []
    for row in rng.permutation(judge.test[label == 0]):
        lesions = judge.test[(label == 1) & (bins == store.z_bin[row])]
        if not len(lesions) or len(given) == count:
            continue
        region = ndimage.binary_dilation(store.masks[rng.choice(lesions)] > 0, iterations=MARGIN_PX)
        image = np.asarray(store.images[row])
        given.append(given_surroundings(image, region, int(store.z_bin[row]), f"row {row}"))
    return given


def rows_of(
    judge: Judge, generator: Generator, what: str, given: list[Given], settings: dict, attempts: int
) -> list[dict]:
    """The numbers of what is drawn around everything given, and of the images under one another's masks."""
    requests, (values, where), images, drawn = draw_until_lesion(generator, given, 1, attempts, what)
    lesion = has_lesion(drawn, judge.config.tau, judge.min_px)
    rows = [
        {
            "what": what,
            **settings,
            "attempts": attempts,
            "n": len(requests),
            **judge.pair_numbers(images[lesion], drawn[lesion]),
            "lesion_share": float(lesion.mean()),
            "changed_px_outside": int((images != values[:, 0])[where[:, 0]].sum()),
        }
    ]
    if what == "mask_to_image":
        swapped = judge.pair_numbers(images, np.roll(drawn, 1, axis=0))
        rows.append({"what": "mask_to_image, masks swapped", **settings, "n": len(requests), **swapped})
    return rows


def main() -> None:
    """Draw, judge and print."""
    parser = cell_parser(__doc__)
