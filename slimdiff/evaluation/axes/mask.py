"""The mask axis: lesion shapes with floors and intervals, and the same metrics at other thresholds."""

from collections.abc import Sequence

import numpy as np

from slimdiff.evaluation.axes.floor import mean_floor
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation, joined
from slimdiff.evaluation.metrics import components, lesions, mmd, robust_mmd, wasserstein
from slimdiff.evaluation.metrics.lesions import Lesions, lesions_of, positions, tau_sweep
from slimdiff.evaluation.metrics.mmd import MIN_VECTORS
from slimdiff.evaluation.statistics.bootstrap import sample_mean_interval
from slimdiff.stored_rows import ChosenRows, Rows

PERMUTATIONS = 500
"""Number of permutations for the p-value of the robust MMD; the smallest possible p is 1/501."""
SLOW_BOOTSTRAP = 100
"""Maximum number of resamples for MMD-MF and MMD-PL, which scale all lesions again in each."""
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


def _lesions(evaluation: FoldEvaluation, lesion_masks: Rows, z_bin: np.ndarray) -> Lesions:
    return lesions_of(
        lesion_masks,
        evaluation.z_centres[z_bin],
        evaluation.config.tau,
        evaluation.min_px,
        evaluation.min_slice_px,
    )


def mask_axis(evaluation: FoldEvaluation) -> None:
    """MMD-MF, the Wasserstein distances of its features, the robust MMD, undecided pixels, and the tau sweep."""
    config, store, samples = evaluation.config, evaluation.store, evaluation.samples
    chosen = evaluation.lesion_selection
    floor_rows = evaluation.train[chosen.floor]
    test, training, listed = (
        _lesions(evaluation, evaluation.real(rows)[1], store.z_bin[rows])
        for rows in (evaluation.lesion_rows, evaluation.train, floor_rows)
    )
    drawn_masks = ChosenRows(samples.masks, chosen.samples)
    drawn = _lesions(evaluation, drawn_masks, samples.z_bin[chosen.samples])
    of_one = feature_rows(
        evaluation,
        "mmd_mf",
        lesions.FEATURES,
        test.shapes,
        drawn.shapes,
        [training.shapes[own] for own in evaluation.in_floor(training.components.slices)],
        evaluation.lesion_rows[test.components.slices],
    )
    choices = [training.vectors[own] for own in evaluation.in_floor(training.slices)]
    of_one |= _robust(evaluation, test, drawn, choices)
    undecided = lesions.undecided_shares(samples.masks)
    evaluation.add(
        "mask_undecided",
        float(undecided.mean()),
        interval=sample_mean_interval(undecided, samples.id, config.bootstrap, config.seed),
        floor=0.0,
        n=len(undecided),
        reason="share of pixels in (-0.5, 0.5); interval over samples of this model",
    )
    swept = tau_sweep(
        test,
        drawn_masks,
        evaluation.z_centres[samples.z_bin[chosen.samples]],
        config.taus,
        evaluation.min_px,
        evaluation.min_slice_px,
    )
    where = {name: evaluation.names[name] for name in ("variant", "fold")}
    # Where a metric means nothing, it does so at every threshold.
    undefined = dict.fromkeys(of_one & set(SWEEP_COLUMNS), np.nan)
    evaluation.tau_sweep += [{**where, **row, **undefined} for row in swept]
    for name, rows, own, found in (
        ("held-out", evaluation.lesion_rows, store.participant, test),
        ("training", floor_rows, store.participant, listed),
        ("synthetic", chosen.samples, samples.id, drawn),
    ):
        images = ChosenRows(samples.images if name == "synthetic" else store.images, rows)
        bins = samples.z_bin if name == "synthetic" else store.z_bin
        _list(evaluation, name, own[rows], bins[rows], found.components, images)


def feature_rows(
    evaluation: FoldEvaluation,
    name: str,
    features: tuple[str, ...],
    test: np.ndarray,
    drawn: np.ndarray,
    training: Sequence[np.ndarray],
    test_rows: np.ndarray,
) -> set[str]:
    """Add the MMD of a feature table, the Wasserstein distance of each feature, and their geometric mean.

    Returns the names of the MMDs that rest on one held-out subject.

    Args:
        name: metric name of the MMD; the names of the other rows start with it.
        features: names of the D columns.
        test, drawn: (N, D) and (M, D) components of held-out slices and of samples.
        training: (L, D) components of every choice of training slices, which replace the samples for the floor.
        test_rows: (N,) store row of each held-out component.
    """
    resampling = evaluation.resampling(test_rows)
    answer = lesions.feature_distance(test, drawn, features)
    floors = [lesions.feature_distance(test, table, features) for table in training]
    counted = f"{len(test)} real and {len(drawn)} synthetic components"
    used = evaluation.lesion_selection.note
    few = (
        "" if min(len(test), len(drawn)) >= MIN_VECTORS else f"; at least {MIN_VECTORS} of each are required"
    )
    persons, of_one = evaluation.store.person[test_rows], set()
    for ending, scores, scale, value, of_floors in (
        ("", mmd.standardise, mmd.mean_and_sd, answer.mmd, [one.mmd for one in floors]),
        (
            "_clipped",
            mmd.clipped_scores,
            mmd.median_and_mad,
            answer.mmd_clipped,
            [one.mmd_clipped for one in floors],
        ),
    ):
        if one := mmd.rests_on_one(test, persons, scale, features):
            evaluation.add(name + ending, np.nan, n=len(drawn), reason=joined(one, used), interval_reason=one)
            of_one.add(name + ending)
            continue
        counts = resampling.counts[:SLOW_BOOTSTRAP]
        resampled = mmd.rescaled_mmd2(scores, test, drawn, resampling.index, counts)
        floor, spread = mean_floor(of_floors)
        evaluation.add(
            name + ending,
            value,
            interval=resampling.centred(value, resampled),
            floor=floor,
            n=len(drawn),
            reason=joined(counted + few, used, spread),
        )
    each = wasserstein.resampled_wasserstein(test, drawn, resampling.index, resampling.counts)
    with np.errstate(divide="ignore"):
        together = np.exp(np.log(each).mean(axis=1))
    unit = (
        "in real standard deviations"
        if len(test) and len(drawn)
        else counted + "; at least one of each is required"
    )
    value = answer.w1_geometric_mean
    evaluation.add(
        f"{name}_w1",
        value,
        interval=resampling.distance(value, together),
        floor=mean_floor([one.w1_geometric_mean for one in floors])[0],
        n=len(drawn),
        reason=joined(unit, used),
    )
    for column, feature in enumerate(features):
        value = answer.w1[feature]
        evaluation.add(
            f"{name}_w1_{feature}",
            value,
            interval=resampling.distance(value, each[:, column]),
            floor=mean_floor([one.w1[feature] for one in floors])[0],
            n=len(drawn),
            reason=joined(unit, used),
        )
    return of_one


def _robust(
    evaluation: FoldEvaluation, test: Lesions, drawn: Lesions, training: Sequence[np.ndarray]
) -> set[str]:
    """Add the robust MMD and its p; returns the names of those that rest on one held-out subject.

    training: (L, 8) vectors of every choice of training slices; p of the floor is that of the first choice.
    """
    config, device = evaluation.config, evaluation.device
    persons = evaluation.store.person[evaluation.lesion_rows[test.slices]]
    if one := mmd.rests_on_one(test.vectors, persons, unit="lesion slices"):
        reason = joined(one, evaluation.lesion_selection.note)
        of_one = {"mmd_robust", "mmd_robust_p"}
        for metric in sorted(of_one):
            evaluation.add(metric, np.nan, n=len(drawn.vectors), reason=reason, interval_reason=one)
        return of_one
    found = robust_mmd.robust_mmd(test.vectors, drawn.vectors, PERMUTATIONS, config.seed, device)
    floors = [
        robust_mmd.robust_mmd(test.vectors, vectors, 0 if number else PERMUTATIONS, config.seed, device)
        for number, vectors in enumerate(training)
    ]
    floor, spread = mean_floor([one.value for one in floors])
    resampling = evaluation.resampling(evaluation.lesion_rows[test.slices])
    interval = resampling.percentile(
        robust_mmd.resampled_robust(
            test.vectors, drawn.vectors, resampling.index, resampling.counts, evaluation.device
        )
    )
    note = f"{len(test.vectors)} real and {len(drawn.vectors)} synthetic lesion slices"
    if min(len(test.vectors), len(drawn.vectors)) < MIN_VECTORS:
        note += f"; at least {MIN_VECTORS} of each are required"
    note, n = joined(note, evaluation.lesion_selection.note), len(drawn.vectors)
    reason = joined(note, spread)
    evaluation.add("mmd_robust", found.value, interval=interval, floor=floor, n=n, reason=reason)
    note += (
        f"; slices are permuted as if independent, so p is too small; smallest possible p "
        f"{1 / (1 + PERMUTATIONS):.2g}; if the floor has this p too, p carries no information"
    )
    evaluation.add(
        "mmd_robust_p",
        found.p,
        floor=floors[0].p,
        n=n,
        reason=note,
        interval_reason="a p-value has no interval",
    )
    return set()


def _list(
    evaluation: FoldEvaluation,
    name: str,
    ids: np.ndarray,
    z_bin: np.ndarray,
    found: components.Components,
    images: Rows,
) -> None:
    places = positions(found.centroids, found.slices, images, evaluation.store.spacing_mm)
    for slice_, shape, (right, back) in zip(found.slices, found.features, places, strict=True):
        evaluation.lesions.append(
            {
                "set": name,
                "id": ids[slice_],
                "z_bin": int(z_bin[slice_]),
                **dict(zip(components.FEATURES, shape.tolist(), strict=True)),
                "right_mm": float(right),
                "back_mm": float(back),
            }
        )
