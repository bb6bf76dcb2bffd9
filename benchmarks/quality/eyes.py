"""Can a person tell real slices from samples? 24 of each in random order, to be sorted by eye.

python benchmarks/quality/eyes.py --minutes 60                   # writes results/eyes/sheet.png: 48 numbered tiles
python benchmarks/quality/eyes.py --minutes 60 --real 1,4,7,...  # the tiles you take for real; prints the share right

The samples are those of a run of the race (against_published.py), the real slices are drawn from all held-out slices of
the same z-bins and classes. Chance is 50 %.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from against_published import COHORTS, EVERY, HERE

EACH, COLUMNS, ZOOM, GAP = 24, 8, 3, 12


def tiles(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Images (48, H, W) in [-1, 1] in random order, and whether each is real (48,)."""
    from race_cohorts import study_of

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    work = options.work.resolve()
    study = study_of(options.cohort, work, options.lgg)
    store = SliceStore.open(study.paths.store)
    test = store.rows_of(read_folds(study.paths.folds, 0)["test"])
    run = (
        work / "runs" / f"{options.cohort}-slimdiff-{options.minutes}-{options.seed}" / "drawn-and-facts.npz"
    )
    if not run.is_file():
        raise SystemExit(
            f"{run}: expected the samples of this run, found none; run against_published.py first"
        )
    with np.load(run) as saved:
        drawn = saved["drawn"][:, 0].astype(float)
    rng = np.random.default_rng(0)
    # Sample n has the z-bin and class of the n-th of every EVERY[cohort]-th held-out slice.
    chosen = rng.choice(len(drawn), EACH, replace=False)
    taken = set()
    for row in test[:: EVERY[options.cohort]][chosen]:
        alike = (store.z_bin[test] == store.z_bin[row]) & (store.label[test] == store.label[row])
        free = [other for other in test[alike] if other not in taken]
        taken.add(rng.choice(free))
    real = np.asarray(store.images[sorted(taken)], float)
    order = rng.permutation(2 * EACH)
    return np.concatenate([real, drawn[chosen]])[order], (np.arange(2 * EACH) < EACH)[order]


def sheet(images: np.ndarray, path: Path) -> None:
    """Write the numbered tiles, COLUMNS in a row."""
    from PIL import Image, ImageDraw

    height, width = (side * ZOOM + GAP for side in images.shape[1:])
    page = Image.new("L", (COLUMNS * width, -(-len(images) // COLUMNS) * height), 90)
    pen = ImageDraw.Draw(page)
    for number, image in enumerate(images):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        tile = Image.fromarray(np.rint((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8))
        page.paste(tile.resize((width - GAP, height - GAP), Image.Resampling.BICUBIC), (left, top + GAP))
        pen.text((left + 2, top), str(number + 1), fill=255)
    page.save(path)


def main() -> int:
    """Write the sheet, or judge an answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", choices=COHORTS, default="lgg")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", help="numbers of the tiles that you take for real")
    parser.add_argument("--work", type=Path, default=Path("results/race"), help="as in against_published.py")
    parser.add_argument("--lgg", type=Path, default=HERE.parents[1].parent / "shared/data/lgg/even24.tsv")
    parser.add_argument("--out", type=Path, default=Path("results/eyes"))
    options = parser.parse_args()
    images, real = tiles(options)
    if options.real is None:
        options.out.mkdir(parents=True, exist_ok=True)
        sheet(images, options.out / "sheet.png")
        print(options.out / "sheet.png")
        return 0
    numbers = [number.strip() for number in options.real.split(",")]
    if not all(number.isdigit() and 1 <= int(number) <= len(images) for number in numbers):
        parser.error(f"--real: expected numbers from 1 to {len(images)}, as 1,4,7, found {options.real}")
    taken = np.isin(np.arange(1, len(images) + 1), np.array(numbers, int))
    print(f"{100 * (taken == real).mean():.0f} % right; {taken.sum()} of {len(real)} taken for real")
    return 0


if __name__ == "__main__":
    sys.exit(main())
