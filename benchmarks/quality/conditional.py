"""Agreement of image and mask with given masks and inpainted lesions: python benchmarks/quality/conditional.py

`mask_to_image`: an image is generated for each held-out mask. Reported are MMD-PL against the held-out pairs and the
contrast of the mask to its ring, relative to held-out lesions. `inpaint`: a lesion is generated in a held-out slice
without lesion, in a region where a held-out patient has one in the same z-bin, with one attempt and with up to eight.
Reported are also the share of samples with a lesion and the number of changed pixels outside the region. For
comparison: samples of the whole pair, real pairs, and generated images with exchanged masks, which MMD-PL must detect.
One row per sampler, as TSV.
"""

import sys
from pathlib import Path

import numpy as np
from judge import Judge, cell_parser, drawn_requests
from scipy import ndimage

from slimdiff.config import load_study
from slimdiff.evaluation.metrics.binary_masks import has_lesion
from slimdiff.files import write_table
from slimdiff.generation.conditional import (
    ConditioningInput,
    draw_until_lesion,
    fixed_mask,
    fixed_surroundings,
)
from slimdiff.generation.generator import Generator

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


def masks_of(judge: Judge, count: int) -> list[ConditioningInput]:
    """Held-out lesion masks."""
    store, rng = judge.store, np.random.default_rng(0)
    rows = judge.test[store.label[judge.test] == 1]
    rows = rng.choice(rows, min(count, len(rows)), replace=False)
    return [fixed_mask(np.asarray(store.masks[row]) > 0, int(store.z_bin[row]), f"row {row}") for row in rows]


def regions_of(judge: Judge, count: int) -> list[ConditioningInput]:
    """Held-out slices without lesion; the region is a dilated held-out lesion of the same z-bin."""
    store, rng = judge.store, np.random.default_rng(0)
    bins, label = store.z_bin[judge.test], store.label[judge.test]
    given = []
    for row in rng.permutation(judge.test[label == 0]):
        lesions = judge.test[(label == 1) & (bins == store.z_bin[row])]
        if not len(lesions) or len(given) == count:
            continue
        region = ndimage.binary_dilation(store.masks[rng.choice(lesions)] > 0, iterations=MARGIN_PX)
        image = np.asarray(store.images[row])
        given.append(fixed_surroundings(image, region, int(store.z_bin[row]), f"row {row}"))
    return given


def rows_of(
    judge: Judge,
    generator: Generator,
    what: str,
    given: list[ConditioningInput],
    settings: dict,
    attempts: int,
) -> list[dict]:
    """Rows of the samples for these inputs, and of the same images with exchanged masks."""
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
    """Sample, evaluate and print."""
    parser = cell_parser(__doc__)
    parser.add_argument("--count", type=int, default=60, help="number of masks and of slices")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    whole = load_study(options.config)
    study, judge = whole.variant(options.variant), Judge(whole, options.fold)
    checkpoint = whole.paths.model(options.variant, options.fold) / "model.safetensors"
    lesions = judge.test[judge.store.label[judge.test] == 1]
    real = np.random.default_rng(0).choice(lesions, min(options.count, len(lesions)), replace=False)
    rows = [
        {
            "what": "held-out pairs",
            "n": len(real),
            **judge.pair_numbers(judge.images(real), judge.store.masks[real]),
        }
    ]
    for settings in SETTINGS:
        config = study.generation.model_copy(update={**settings, "per_bin_and_class": 10, "counts": None})
        requests, images, drawn = drawn_requests(Generator(checkpoint, config), labels=(1,))
        numbers = judge.pair_numbers(images, drawn)
        share = float(has_lesion(drawn, judge.config.tau, judge.min_px).mean())
        rows.append({"what": "whole pairs", **settings, "n": len(requests), **numbers, "lesion_share": share})
        around = Generator(checkpoint, study.generation.model_copy(update=settings))
        rows += rows_of(judge, around, "mask_to_image", masks_of(judge, options.count), settings, 1)
        for attempts in ATTEMPTS:
            given = regions_of(judge, options.count)
            rows += rows_of(judge, around, "inpaint", given, settings, attempts)
    print(*COLUMNS, sep="\t")
    for row in rows:
        found = (row.get(column, "") for column in COLUMNS)
        print(*(f"{value:.4g}" if isinstance(value, float) else value for value in found), sep="\t")
    if options.out:
        write_table(options.out, rows, COLUMNS, sealed=False)


if __name__ == "__main__":
    sys.exit(main())
