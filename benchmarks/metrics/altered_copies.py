"""Share of altered training copies that are flagged: python benchmarks/metrics/altered_copies.py [--out copies.tsv]

Reads results/demo (created by `snakemake --cores all`). Alters 300 training slices of each fold, treats them as samples
of a model that memorised them, and prints the share flagged in each space of the memorisation axis.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from slimdiff.config import load_study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.features import FeatureCache, to_uint8
from slimdiff.evaluation.metrics.memorisation import bin_scales, memorisation
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.files import write_table

COPIES = 300
COLUMNS = ("fold", "altered", "space", "flagged", "own_slice")
PLAIN_ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda x: x,
    "shift 1 px": lambda x: np.roll(x, 1, axis=2),
    "shift 2 px": lambda x: np.roll(x, 2, axis=2),
    "mirrored": lambda x: x[:, :, ::-1],
    "rotation 2 degrees": lambda x: _rotated(x, 2),
    "rotation 5 degrees": lambda x: _rotated(x, 5),
    "blur 1 px": lambda x: np.stack([ndimage.gaussian_filter(image, 1) for image in x]),
    "gain 0.9": lambda x: (x + 1) * 0.9 - 1,
    "gamma 1.2": lambda x: 2 * ((x + 1) / 2) ** 1.2 - 1,
}


def _rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    return np.stack([ndimage.rotate(i, degrees, reshape=False, order=1, cval=-1) for i in images])


def altered(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All alterations of (N, H, W) slices in [-1, 1]; others: for each, another training slice of its z-bin."""
    made = {name: change(images) for name, change in PLAIN_ALTERATIONS.items()}
    for sd in (0.02, 0.05, 0.1):
        made[f"noise {sd:g}"] = images + rng.normal(0, sd, images.shape)
    made["mean of two training slices"] = (images + others) / 2
    return {name: np.clip(result, -1, 1).astype(np.float16) for name, result in made.items()}


def judged(study, fold: int) -> list[dict]:
    """Rows of one fold."""
    store, parts = SliceStore.open(study.paths.store), read_folds(study.paths.folds, fold)
    train, test = (store.rows_of(parts[split]) for split in ("train", "test"))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(train), min(COPIES, len(train)), replace=False))
    bins = store.z_bin[train][chosen]
    others = np.array([rng.choice(train[store.z_bin[train] == z_bin]) for z_bin in bins])
    images = altered(
        np.asarray(store.images[train[chosen]], np.float32), np.asarray(store.images[others], np.float32), rng
    )
    extractor = study.evaluation.extractors[0]
    cache = FeatureCache(study.paths.root / "metrics" / "features")
    spaces = {
        extractor: ("euclidean", lambda x: cache.extract(to_uint8(x), extractor, progress=False)),
        "pixels": ("ncc", np.asarray),
    }
    rows = []
    for space, (metric, represent) in spaces.items():
        reference = represent(np.asarray(store.images[train]))
        of_test, _ = nearest(
            represent(np.asarray(store.images[test])),
            reference,
            store.z_bin[test],
            store.z_bin[train],
            metric,
        )
        scales = bin_scales(of_test, store.z_bin[test], store.n_bins)
        for name, copies in images.items():
            distance, index = nearest(represent(copies), reference, bins, store.z_bin[train], metric)
            found = memorisation(
                distance,
                of_test,
                store.person[test],
                study.evaluation.seed,
                scales[bins],
                scales[store.z_bin[test]],
            )
            share, own = found.suspect_share, float((index == chosen).mean())
            rows.append({"fold": fold, "altered": name, "space": space, "flagged": share, "own_slice": own})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/demo.yaml", help="study (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the table to this TSV")
    options = parser.parse_args()
    study = load_study(options.config)
    rows = [row for fold in range(study.folds.k) for row in judged(study, fold)]
    print(*COLUMNS, sep="\t")
    for row in rows:
        print(
            row["fold"],
            row["altered"],
            row["space"],
            f"{row['flagged']:.3f}",
            f"{row['own_slice']:.3f}",
            sep="\t",
        )
    if options.out:
        write_table(options.out, rows, COLUMNS, sealed=False)


if __name__ == "__main__":
    main()
