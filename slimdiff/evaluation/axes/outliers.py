"""The outlier axis: single samples that are unlike the real slices of their z-bin and unlike the other samples."""

import numpy as np

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.evaluation.metrics.outliers import (
    DESCRIPTORS,
    LIMIT,
    MIN_SLICES,
    descriptors,
    deviations,
    scores,
)
from slimdiff.evaluation.statistics.bootstrap import share_interval

OUTLIER_COLUMNS = ("id", "z_bin", "class", "score", "limit", "outlier", "why")

NO_SCORE = f"fewer than {MIN_SLICES} slices, or no held-out slice, in the z-bin"


def outlier_axis(evaluation: FoldEvaluation) -> None:
    """The score of every sample, and the share of outliers; its floor: held-out slices among training slices."""
    store, samples = evaluation.store, evaluation.samples
    held_out, training, drawn = _described(evaluation)
    test_bin, train_bin = store.z_bin[evaluation.test], store.z_bin[evaluation.train]
    real, real_bin = np.concatenate([held_out, training]), np.concatenate([test_bin, train_bin])
    deviation = deviations(drawn, samples.z_bin, real, real_bin)
    found = scores(deviation)
    known = np.isfinite(found)
    of_real = scores(deviations(held_out, test_bin, training, train_bin, others=False))
    real_known = np.isfinite(of_real)
    outlier = found > LIMIT
    left_out = int((~known).sum())
    evaluation.add(
        "outlier_share",
        float(outlier[known].mean()) if known.any() else np.nan,
        interval=share_interval(int(outlier[known].sum()), int(known.sum())),
        floor=float((of_real[real_known] > LIMIT).mean()) if real_known.any() else np.nan,
        n=int(known.sum()),
        reason="interval over samples of this model; floor column: held-out slices, compared with training slices"
        + (f"; {left_out} samples left out: {NO_SCORE}" if left_out else ""),
    )
    for i in np.argsort(-np.nan_to_num(found, nan=-1.0), kind="stable"):
        why = ""
        if outlier[i]:
            why = DESCRIPTORS[int(np.argmax(deviation[i]))]
        elif not known[i]:
            why = NO_SCORE
        evaluation.outliers.append(
            {
                "id": samples.id[i],
                "z_bin": int(samples.z_bin[i]),
                "class": int(samples.label[i]),
                "score": float(found[i]),
                "limit": LIMIT,
                "outlier": int(outlier[i]),
                "why": why,
            }
        )


def _described(evaluation: FoldEvaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descriptors of held-out slices, training slices and samples, the last column: the distance of features to the
    nearest held-out slice of the z-bin (of another person), as its logarithm to base 2."""
    store, samples = evaluation.store, evaluation.samples
    extractor = evaluation.config.extractors[0]
    images = [evaluation.real(rows)[0] for rows in (evaluation.test, evaluation.train)]
    images.append(samples.images)
    bins = [store.z_bin[evaluation.test], store.z_bin[evaluation.train], samples.z_bin]
    features = [evaluation.features(part, extractor) for part in images]
    reference = np.asarray(features[0][:])
    to_held_out = [
        nearest(part, reference, own, bins[0], device=evaluation.device)[0]
        for part, own in zip(features[1:], bins[1:], strict=True)
    ]
    persons = store.person[evaluation.test]
    between = np.full(len(reference), np.nan)
    for person in np.unique(persons):
        own = persons == person
        between[own], _ = nearest(
            reference[own], reference[~own], bins[0][own], bins[0][~own], device=evaluation.device
        )
    distances = [np.log2(np.maximum(part, 1e-6)) for part in (between, *to_held_out)]
    return tuple(
        np.column_stack([descriptors(part), distance])
        for part, distance in zip(images, distances, strict=True)
    )
