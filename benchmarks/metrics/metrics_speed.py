"""Cost of the metrics at the size of a study: python benchmarks/metrics/metrics_speed.py [--out metrics.tsv]

Uses 10,000 samples, 2,000 held-out slices of 40 subjects and 4,000 training slices at 160 x 160, generated from a seed.
Times all computations of the stage `metrics` over all z-bins with intervals and floors, except the networks (features
and LPIPS).

One row per part: seconds, seconds of a plain implementation if it does the same work, relative difference of the two
results, and additional peak memory. The plain implementation handles one mask, subset, query or labelling at a time;
slow parts use only --plain slices and are scaled linearly. Seconds are wall-clock time. `cpu` is processor time, which
other programs affect less but waiting threads increase; set OMP_NUM_THREADS=1 for the work alone. `all` is the sum of
the parts; its ratio covers the parts with a plain implementation, its memory excludes slices and features.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import metrics_plain as plain
import numpy as np
import torch
from metrics_clock import COLUMNS, Clock, timed
from metrics_inputs import N_BINS, Set, made

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.metrics import binary_masks, lesion_contrast, lesions, mmd, robust_mmd, wasserstein
from slimdiff.evaluation.metrics.components import components_of
from slimdiff.evaluation.metrics.fid import fid, resampled_fid
from slimdiff.evaluation.metrics.kid import in_fixed_order, kid
from slimdiff.evaluation.metrics.lesions import area_gap, lesions_of, tau_sweep
from slimdiff.evaluation.metrics.memorisation import memorisation
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.evaluation.metrics.outline import in_real_range, outlines
from slimdiff.evaluation.metrics.precision_recall import precision_recall
from slimdiff.evaluation.metrics.profiles import (
    brain_histograms,
    histogram_distance,
    radial_spectra,
    spectrum_distance,
)
from slimdiff.evaluation.statistics.bootstrap import Resampling, resampled_means

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from turns import device_name, today, write_table

SEED, MIN_PX, RING_PX = 0, 5, 5
TAUS = EvaluationConfig().taus


def image_parts(clock: Clock, real: Set, drawn: Set, train: Set, options: argparse.Namespace) -> None:
    """Time feature distances, spectra, brain histograms and outlines."""
    x, y, like = real.features, drawn.features, train.features
    ordered = [in_fixed_order(features) for features in (x, y, like)]
    many = Resampling.of(real.subjects, options.bootstrap, SEED)
    slow = Resampling.of(real.subjects, options.bootstrap_slow, SEED)

    def kids(*pairs: tuple[np.ndarray, np.ndarray]) -> list[float]:
        return [kid(a, b, SEED).value for a, b in pairs]

    clock.part(
        "KID and its floor",
        lambda: kids((x, y), (x, like)),
        lambda: timed(lambda: [plain.subset_mmd2(ordered[0], other, SEED) for other in ordered[1:]]),
        lambda a, b: (a, b),
        "plain: numpy kernels of every subset",
    )
    clock.part("KID, interval", lambda: many.percentile(mmd.resampled_mmd2(x, y, many.index, many.counts)))
    clock.part("FID and its floor", lambda: [fid(x, y), fid(x, like)])
    clock.part("FID, interval", lambda: slow.percentile(resampled_fid(x, y, slow.index, slow.counts)))
    clock.part(
        "precision and recall, with intervals and floors",
        lambda: [
            precision_recall(x, y, subjects=slow.index, counts=slow.counts),
            precision_recall(x, like),
        ],
    )
    clock.part(
        "KID, FID, precision and recall of every z-bin, with intervals and floors",
        lambda: [_of_bin(z_bin, real, drawn, train, options) for z_bin in range(N_BINS)],
    )
    for name, profile, distance in (
        ("spectra", radial_spectra, spectrum_distance),
        ("brain histograms", brain_histograms, histogram_distance),
    ):
        clock.part(
            f"{name}, with intervals and floors",
            lambda profile=profile, distance=distance: _profiles(real, drawn, train, many, profile, distance),
        )
    clock.part("brain outlines", lambda: _outlines(real, drawn, train))


def _of_bin(z_bin: int, real: Set, drawn: Set, train: Set, options: argparse.Namespace) -> None:
    x, y, like = (part.features[part.z_bin == z_bin] for part in (real, drawn, train))
    subjects = real.subjects[real.z_bin == z_bin]
    many, slow = (Resampling.of(subjects, n, SEED) for n in (options.bootstrap, options.bootstrap_slow))
    for other in (y, like):
        kid(x, other, SEED), fid(x, other)
    mmd.resampled_mmd2(x, y, many.index, many.counts)
    resampled_fid(x, y, slow.index, slow.counts)
    precision_recall(x, y, subjects=slow.index, counts=slow.counts)
    precision_recall(x, like)


def _profiles(real: Set, drawn: Set, train: Set, draws: Resampling, profile: Callable, distance: Callable):
    x, y, like = (profile(part.images) for part in (real, drawn, train))
    middle = y.mean(axis=0)
    resampled = distance(resampled_means(x, draws.index, draws.counts), middle)
    value = float(distance(x.mean(axis=0), middle))
    return draws.distance(value, resampled), distance(x.mean(axis=0), like.mean(axis=0))


def _outlines(real: Set, drawn: Set, train: Set) -> float:
    x, y, like = (outlines(part.images) for part in (real, drawn, train))
    known, z_bin = np.concatenate([x, like]), np.concatenate([real.z_bin, train.z_bin])
    inside = [in_real_range(*own, known, z_bin) for own in ((y, drawn.z_bin), (like, train.z_bin))]
    return float(inside[0].mean())


def lesion_parts(clock: Clock, real: Set, drawn: Set, train: Set, options: argparse.Namespace) -> None:
    """Time shapes, contrasts, robust MMD, tau sweep and class fidelity."""
    asked = np.flatnonzero(drawn.label == 1)
    subset = asked[: options.plain]
    sets = {"real": real.masks, "train": train.masks, "drawn": drawn.masks[asked]}
    scale = sum(map(len, sets.values())) / len(subset)
    found = clock.part(
        "components and their shapes",
        lambda: {key: components_of(binary_masks.binarise(values), MIN_PX) for key, values in sets.items()},
        lambda: timed(lambda: plain.shapes(drawn.masks[subset], 0.0, MIN_PX), scale),
        lambda a, b: (a["drawn"].features[: len(b)], b),
        f"plain: regionprops of {len(subset)} slices, scaled",
    )
    share = len(asked) / sum(map(len, sets.values()))
    of_drawn = share * np.array([clock.rows[-1]["plain_s"], clock.rows[-1]["plain_cpu_s"]])
    shapes = {key: components.features for key, components in found.items()}
    _table_parts(clock, "MMD-MF", lesions.mmd_mf, shapes, real.subjects[found["real"].slices], options)

    held_out = lesions_of(real.masks, real.z_bin, min_px=MIN_PX)

    def plain_sweep() -> tuple:
        value, seconds = timed(lambda: plain.table_mmd2(shapes["real"], shapes["drawn"], SEED))
        return value, (seconds + of_drawn) * len(TAUS)

    clock.part(
        "tau sweep of the mask metrics",
        lambda: tau_sweep(held_out, drawn.masks[asked], drawn.z_bin[asked], TAUS, SEED),
        plain_sweep,
        lambda a, b: (a[TAUS.index(0.0)]["mmd_mf"], b),
        f"plain: MMD-MF of one tau, times {len(TAUS)}; shapes of samples as above",
    )
    images = {"real": real.images, "train": train.images, "drawn": drawn.images[asked]}
    tables = clock.part(
        "contrasts of components",
        lambda: {key: lesion_contrast.pair_features(images[key], sets[key], min_px=MIN_PX) for key in sets},
        lambda: timed(
            lambda: plain.contrasts(drawn.images[subset], drawn.masks[subset], 0.0, MIN_PX, RING_PX), scale
        ),
        lambda a, b: (a["drawn"][0][: len(b)], b),
        f"plain: scipy.ndimage on {len(subset)} slices, scaled",
    )
    contrasts = {key: table for key, (table, _) in tables.items()}
    _table_parts(
        clock, "MMD-PL", lesion_contrast.mmd_pl, contrasts, real.subjects[tables["real"][1]], options
    )
    _robust_parts(
        clock, found, {"real": real.z_bin, "train": train.z_bin, "drawn": drawn.z_bin[asked]}, real, options
    )
    clock.part(
        "class fidelity and lesion area by height",
        lambda: (
            lesions.class_fidelity(drawn.masks, drawn.label),
            area_gap(
                *_with_lesion(binary_masks.lesion_area(real.masks, min_px=MIN_PX), real.z_bin),
                *_with_lesion(binary_masks.lesion_area(sets["drawn"], min_px=MIN_PX), drawn.z_bin[asked]),
            ),
        ),
    )


def _with_lesion(areas: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return areas[areas > 0], bins[areas > 0]


def _table_parts(
    clock: Clock,
    name: str,
    distance: Callable,
    tables: dict[str, np.ndarray],
    subjects: np.ndarray,
    options: argparse.Namespace,
) -> None:
    real, drawn, train = (tables[key] for key in ("real", "drawn", "train"))
    draws = Resampling.of(subjects, options.bootstrap, SEED)
    clock.part(
        f"{name} and Wasserstein-1, and their floors",
        lambda: [distance(real, other) for other in (drawn, train)],
        lambda: timed(lambda: [plain.table_mmd2(real, other) for other in (drawn, train)]),
        lambda a, b: ([one.mmd for one in a], b),
        "plain: one numpy kernel, without Wasserstein-1",
    )
    clock.part(
        f"{name} and Wasserstein-1, intervals",
        lambda: (
            mmd.resampled_mmd2(*mmd.standardise(real, drawn), draws.index, draws.counts),
            wasserstein.resampled_wasserstein(real, drawn, draws.index, draws.counts),
        ),
        note=f"{len(real)} real and {len(drawn)} synthetic components",
    )


def _robust_parts(clock: Clock, found: dict, z_bin: dict, real: Set, options: argparse.Namespace) -> None:
    vectors = {key: robust_mmd.slice_vectors(found[key], 2.7 * z_bin[key]) for key in found}
    x, y, like = (vectors[key][0] for key in ("real", "drawn", "train"))
    draws = Resampling.of(real.subjects[vectors["real"][1]], options.bootstrap, SEED)
    few = max(1, options.permutations // 50)

    def plain_p() -> tuple:
        (kernel, value), seconds = timed(lambda: plain.rbf_mmd2(*robust_mmd.whitened(x, y)))
        _, more = timed(lambda: plain.permutation_p(kernel, len(x), few, SEED), options.permutations / few)
        return value, seconds + more

    clock.part(
        "robust MMD with p",
        lambda: robust_mmd.robust_mmd(x, y, options.permutations, SEED),
        plain_p,
        lambda a, b: (a.value, b),
        f"{len(x)} real and {len(y)} synthetic slices; plain: {few} of {options.permutations} labellings, scaled",
    )
    clock.part(
        "robust MMD, floor and interval",
        lambda: (
            robust_mmd.robust_mmd(x, like, options.permutations, SEED),
            robust_mmd.resampled_robust(x, y, draws.index, draws.counts),
        ),
    )


def memorisation_parts(clock: Clock, real: Set, drawn: Set, train: Set, options: argparse.Namespace) -> None:
    """Time the search for the nearest training slices of samples and held-out slices."""
    subset = slice(0, options.plain)
    scale = (len(drawn.images) + len(real.images)) / len(drawn.images[subset])
    for space, metric in (("features", "euclidean"), ("images", "ncc")):
        own, test, reference = (getattr(part, space) for part in (drawn, real, train))

        def ours(own=own, test=test, reference=reference, metric=metric):
            distance, _ = nearest(own, reference, drawn.z_bin, train.z_bin, metric)
            of_test, _ = nearest(test, reference, real.z_bin, train.z_bin, metric)
            memorisation(distance, of_test, real.subjects, SEED)
            return distance

        clock.part(
            f"nearest training slices in {'pixels' if metric == 'ncc' else space}",
            ours,
            lambda own=own, reference=reference, metric=metric: timed(
                lambda: plain.nearest(
                    own[subset], reference, drawn.z_bin[subset], train.z_bin, metric == "ncc"
                ),
                scale,
            ),
            lambda a, b: (a[: len(b)], b),
            f"plain: {len(own[subset])} queries one by one, scaled",
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--synthetic", type=int, default=10_000, help="samples")
    parser.add_argument("--real", type=int, default=2000, help="held-out slices, 50 per subject")
    parser.add_argument("--train", type=int, help="training slices; default: twice the held-out slices")
    parser.add_argument("--side", type=int, default=160, help="side of a slice, in px")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples per interval")
    parser.add_argument(
        "--bootstrap-slow", type=int, default=100, help="resamples per interval of FID, precision and recall"
    )
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--plain", type=int, default=200, help="slices for the plain implementation")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    start = time.perf_counter()
    drawn = made(options.synthetic, options.side, 1, continuous=True, shift=0.1)
    real = made(options.real, options.side, 2, continuous=False)
    train = made(options.train or 2 * options.real, options.side, 3, continuous=False)
    print(f"sets generated in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    clock = Clock(sum(part.megabytes for part in (drawn, real, train)))
    image_parts(clock, real, drawn, train, options)
    lesion_parts(clock, real, drawn, train, options)
    memorisation_parts(clock, real, drawn, train, options)
    clock.total()
    load = os.getloadavg()[0]
    print(
        f"{device_name(torch, 'cpu')}, {torch.get_num_threads()} threads, load {load:.1f}, {today()}",
        file=sys.stderr,
    )
    write_table(clock.rows, COLUMNS, options.out)


if __name__ == "__main__":
    sys.exit(main())
