"""Share of altered training copies that are flagged:
python benchmarks/metrics/altered_copies.py [--lgg ../shared/data/lgg/even24.tsv] [--work WORK] [--out copies.tsv]

Alters 300 training slices of each fold, treats them as samples of a model that memorised them, and prints the share
flagged in each space that the key `evaluation.copies` adds, and in pixels. Pasted lesions are those of training slices
in held-out slices. Two rows are no copies: held-out slices with blur and with noise. The column `expected` is the share
of new slices that the threshold lets through, `false_alarms` the share of the second half of the held-out subjects. The
cohorts are the phantom of config/demo.yaml and, with --lgg, 81 patients with glioma; their slices are cached in WORK.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from coverage_samples import DEMO, coverage_study
from power_cohort import stored
from scipy import ndimage

from slimdiff.config import Study, load_study
from slimdiff.data.folds import read_folds
from slimdiff.evaluation.axes.copies import found_in_spaces
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.metrics.memorisation import bin_scales, memorisation
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.files import write_table
from slimdiff.generation.samples import Samples

COPIES = 300
COLUMNS = ("cohort", "fold", "altered", "space", "flagged", "own_slice", "false_alarms", "expected", "n")
STAGES = ("participants", "preprocess", "kfold", "cache")
PASTED: dict[str, tuple[tuple[float, float], bool]] = {
    "lesion pasted": ((0, 0), False),
    "lesion pasted 3 px away": ((3, -2), False),
    "lesion pasted 0.25 px away": ((0.25, 0.25), False),
    "lesion pasted 0.5 px away": ((0.5, 0.5), False),
    "lesion pasted, mirrored": ((0, 0), True),
}
"""Name to the move (rows, columns) of the lesion, and whether it is mirrored."""
BORDER_PX = 0.7
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


def pasted(
    image: np.ndarray, mask: np.ndarray, host: np.ndarray, move: tuple[float, float], mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The host's slice with the lesion of another, and its mask in [-1, 1]; all arrays (H, W), mask in {0, 1}."""
    image, mask, host = (part.astype(np.float32) for part in (image, mask, host))
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    mask, image = ndimage.shift(mask, move, order=1), ndimage.shift(image, move, order=1, mode="nearest")
    share = np.maximum(mask, ndimage.gaussian_filter((mask > 0.5).astype(np.float32), BORDER_PX))
    return np.clip(share * image + (1 - share) * host, -1, 1), 2 * mask - 1


def judged(study: Study, cohort: str, fold: int) -> list[dict]:
    """Rows of one fold."""
    store = stored(study, ("phantom", *STAGES) if study.data.source == "phantom" else STAGES)
    parts = read_folds(study.paths.folds, fold)
    train, test = (store.rows_of(parts[split]) for split in ("train", "test"))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(train), min(COPIES, len(train)), replace=False))
    masks, bins = np.asarray(store.masks[train], np.float32), store.z_bin[train]
    others = [rng.choice(train[(bins == bins[row]) & (np.arange(len(train)) != row)]) for row in chosen]
    images = altered(
        np.asarray(store.images[train[chosen]], np.float32), np.asarray(store.images[others], np.float32), rng
    )
    # Name to images, masks in [-1, 1], z-bins, and the training slice that each is a copy of (-1: none).
    planted = {name: (copies, 2 * masks[chosen] - 1, bins[chosen], chosen) for name, copies in images.items()}
    ill = np.flatnonzero(masks.any(axis=(1, 2)))
    ill = rng.choice(ill, min(COPIES, len(ill)), replace=False)
    hosts = test[rng.choice(len(test), len(ill))]
    for name, how in PASTED.items():
        made = [
            pasted(store.images[train[row]], masks[row], store.images[host], *how)
            for row, host in zip(ill, hosts, strict=True)
        ]
        planted[name] = (*map(np.stack, zip(*made, strict=True)), store.z_bin[hosts], ill)
    real, outlined = (
        np.asarray(store.images[test], np.float32),
        2 * np.asarray(store.masks[test], np.float32) - 1,
    )
    blurred = np.stack([ndimage.gaussian_filter(image, 1) for image in real])
    noisy = np.clip(real + rng.normal(0, 0.05, real.shape), -1, 1)
    for name, held_out in (("no copy, blur 1 px", blurred), ("no copy, noise 0.05", noisy)):
        planted[name] = (held_out, outlined, store.z_bin[test], np.full(len(test), -1))
    cache = FeatureCache(study.paths.root / "metrics" / "features")
    rows = []
    for name, (copies, of_copies, z_bin, source) in planted.items():
        label = np.zeros(len(copies), int)
        samples = Samples(
            copies.astype(np.float16), of_copies.astype(np.float16), z_bin, label, label.astype(str)
        )
        evaluation = FoldEvaluation(store, test, train, samples, study.evaluation, cache, {})
        found = {space: (*both, 1.0, 1.0) for space, both in found_in_spaces(evaluation).items()}
        found["pixels"] = _in_pixels(store, test, train, samples)
        for space, ((distance, index), (of_test, _), *scales) in found.items():
            answer = memorisation(distance, of_test, store.person[test], study.evaluation.seed, *scales)
            rows.append(
                {
                    "cohort": cohort,
                    "fold": fold,
                    "altered": name,
                    "space": space,
                    "flagged": answer.suspect_share,
                    "own_slice": float((index == source).mean()) if source[0] >= 0 else float("nan"),
                    "false_alarms": answer.check_share,
                    "expected": answer.expected_share,
                    "n": int(np.isfinite(distance).sum()),
                }
            )
    return rows


def _in_pixels(store, test: np.ndarray, train: np.ndarray, samples: Samples) -> tuple:
    """As of the other spaces: what was found for samples and held-out slices, and the scales of both."""
    known, bins = np.asarray(store.images[train]), store.z_bin[train]
    of_samples = nearest(samples.images, known, samples.z_bin, bins, "ncc")
    of_test = nearest(np.asarray(store.images[test]), known, store.z_bin[test], bins, "ncc")
    scales = bin_scales(of_test[0], store.z_bin[test], store.n_bins)
    return of_samples, of_test, scales[samples.z_bin], scales[store.z_bin[test]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lgg", type=Path, help="table of the patients with glioma; without it: the phantom only"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("results"), help="folder of slices (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="also write the table to this TSV")
    options = parser.parse_args()
    studies = {"phantom": load_study(DEMO).model_copy(update={"results_dir": str(options.work)})}
    if options.lgg:
        studies["lgg"] = coverage_study(options.lgg, options.work)
    print(*COLUMNS, sep="\t")
    rows = []
    for cohort, study in studies.items():
        for fold in range(2):
            for row in judged(study, cohort, fold):
                rows.append(row)
                numbers = (f"{row[name]:.3f}" for name in COLUMNS[4:-1])
                print(*(row[name] for name in COLUMNS[:4]), *numbers, row["n"], sep="\t", flush=True)
    if options.out:
        write_table(options.out, rows, COLUMNS, sealed=False)


if __name__ == "__main__":
    main()
