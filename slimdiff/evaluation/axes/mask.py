"""The mask axis: lesion shapes of a cell, beside floors and intervals, and the same at other thresholds."""

import numpy as np

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.metrics import components, lesions, mmd, robust_mmd, wasserstein
from slimdiff.evaluation.metrics.lesions import Lesions, lesions_of, positions, tau_sweep
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.statistics.bootstrap import SAMPLES, Resampling, resampled_means

SUBSETS = 100
"""Seeded subsets that an MMD averages, as in torch-fidelity's KID."""
PERMUTATIONS = 500
"""Permutations behind the p of the robust MMD; the smallest reachable p is 1/501."""
SWEEP_COLUMNS = (
    "variant",
    "fold",
    "tau",
    "n_slices",
    "n_components",
    "mmd_mf",
    "mmd_mf_w1",
    "mmd_robust",
)
LESION_COLUMNS = ("set", "id", "z_bin", *components.FEATURES, "right_mm", "back_mm")


def _lesions(cell: FoldEvaluation, lesion_masks: np.ndarray, z_bin: np.ndarray) -> Lesions:
    return lesions_of(lesion_masks, cell.heights[z_bin], cell.config.tau, cell.min_px, cell.min_slice_px)


def mask_axis(cell: FoldEvaluation) -> None:
    """MMD-MF with its features' Wasserstein distances, the robust MMD, how decided masks are, and the tau sweep."""
    config, store, samples = cell.config, cell.store, cell.samples
    asked = np.flatnonzero(samples.label == 1)
    test, like = (_lesions(cell, cell.real(rows)[1], store.z_bin[rows]) for rows in (cell.test, cell.like))
    drawn = _lesions(cell, samples.masks[asked], samples.z_bin[asked])
    feature_rows(
        cell,
        "mmd_mf",
        lesions.FEATURES,
        test.shapes,
        drawn.shapes,
        like.shapes,
        cell.test[test.components.slices],
    )
    _robust(cell, test, drawn, like)
    undecided = lesions.undecided_shares(samples.masks)
    over_samples = Resampling.of(samples.id, config.bootstrap, config.seed, SAMPLES)
    resampled = resampled_means(undecided, over_samples.index, over_samples.counts)
    cell.add(
        "mask_undecided",
        float(undecided.mean()),
        interval=over_samples.percentile(resampled),
        floor=0.0,
        n=len(undecided),
        note="share of pixels in (-0.5, 0.5); interval over samples of this model",
    )
    swept = tau_sweep(
        test,
        samples.masks[asked],
        cell.heights[samples.z_bin[asked]],
        config.taus,
        config.seed,
        SUBSETS,
        cell.min_px,
        cell.min_slice_px,
    )
    where = {name: cell.names[name] for name in ("variant", "fold")}
    cell.tau_sweep += [{**where, **row} for row in swept]
    for name, rows, own, found in (
        ("held-out", cell.test, store.participant, test),
        ("training", cell.like, store.participant, like),
        ("synthetic", asked, samples.id, drawn),
    ):
        images = samples.images[rows] if name == "synthetic" else cell.real(rows)[0]
        bins = samples.z_bin if name == "synthetic" else store.z_bin
        _list(cell, name, own[rows], bins[rows], found.components, images)


def feature_rows(
    cell: FoldEvaluation,
    name: str,
    features: tuple[str, ...],
    test: np.ndarray,
    drawn: np.ndarray,
    like: np.ndarray,
    test_rows: np.ndarray,
) -> None:
    """Rows of a feature table's MMD, of the geometric mean of its Wasserstein distances, and of each of them.

    Args:
        name: of the MMD; the others begin with it.
        features: names of the D columns.
        test, drawn, like: (N, D) held-out, (M, D) synthetic, (L, D) training slices in the place of the samples.
        test_rows: (N,) store row of each held-out component.
    """
    config = cell.config
    resampling = cell.resampling(test_rows)
    answer = lesions.feature_distance(test, drawn, features, config.seed, SUBSETS)
    floor = lesions.feature_distance(test, like, features, config.seed, SUBSETS)
    counted = f"{len(test)} real and {len(drawn)} synthetic components"
    few = "" if min(len(test), len(drawn)) >= MIN_VECTORS else f"; {MIN_VECTORS} of each wanted"
    standardised = mmd.standardise(test, drawn)
    interval = resampling.percentile(
        mmd.resampled_mmd2(*standardised, resampling.index, resampling.counts, cell.device)
    )
    cell.add(
        name, answer.mmd.value, interval=interval, floor=floor.mmd.value, n=len(drawn), note=counted + few
    )
    each = wasserstein.resampled_wasserstein(test, drawn, resampling.index, resampling.counts)
    with np.errstate(divide="ignore"):
        together = np.exp(np.log(each).mean(axis=1))
    unit = "in real standard deviations" if len(test) and len(drawn) else counted + "; one of each wanted"
    value = answer.w1_geometric_mean
    cell.add(
        f"{name}_w1",
        value,
        interval=resampling.distance(value, together),
        floor=floor.w1_geometric_mean,
        n=len(drawn),
        note=unit,
    )
    for column, feature in enumerate(features):
        value = answer.w1[feature]
        cell.add(
            f"{name}_w1_{feature}",
            value,
            interval=resampling.distance(value, each[:, column]),
            floor=floor.w1[feature],
            n=len(drawn),
            note=unit,
        )


def _robust(cell: FoldEvaluation, test: Lesions, drawn: Lesions, like: Lesions) -> None:
    config = cell.config
    found = robust_mmd.robust_mmd(test.vectors, drawn.vectors, PERMUTATIONS, config.seed, cell.device)
    floor = robust_mmd.robust_mmd(test.vectors, like.vectors, PERMUTATIONS, config.seed, cell.device)
    resampling = cell.resampling(cell.test[test.slices])
    interval = resampling.percentile(
        robust_mmd.resampled_robust(
            test.vectors, drawn.vectors, resampling.index, resampling.counts, cell.device
        )
    )
    note = f"{len(test.vectors)} real and {len(drawn.vectors)} synthetic lesion slices"
    if min(len(test.vectors), len(drawn.vectors)) < MIN_VECTORS:
        note += f"; {MIN_VECTORS} of each wanted"
    n = len(drawn.vectors)
    cell.add("mmd_robust", found.value, interval=interval, floor=floor.value, n=n, note=note)
    note += (
        f"; slices are permuted as if independent, so p is too small; smallest reachable "
        f"{1 / (1 + PERMUTATIONS):.2g}: where the floor's p is there too, p says nothing; no interval: a p-value"
    )
    cell.add("mmd_robust_p", found.p, floor=floor.p, n=n, note=note)


def _list(
    cell: FoldEvaluation,
    name: str,
    ids: np.ndarray,
    z_bin: np.ndarray,
    found: components.Components,
    images: np.ndarray,
) -> None:
    places = positions(found.centroids, found.slices, images, cell.store.spacing_mm)
    for slice_, shape, (right, back) in zip(found.slices, found.features, places, strict=True):
        cell.lesions.append(
            {
                "set": name,
                "id": ids[slice_],
                "z_bin": int(z_bin[slice_]),
                **dict(zip(components.FEATURES, shape.tolist(), strict=True)),
                "right_mm": float(right),
                "back_mm": float(back),
            }
        )
