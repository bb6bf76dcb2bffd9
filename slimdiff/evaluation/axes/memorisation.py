"""The memorisation axis: nearest training slices of samples and held-out slices.

They are searched in features, in pixels, and in the spaces of `axes.copies`.
"""

from collections.abc import Callable

import numpy as np

from slimdiff.evaluation.axes.copies import UNMATCHED, found_in_spaces, too_few_lesions
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.copies.spaces import LESIONS
from slimdiff.evaluation.metrics.memorisation import (
    HeldOut,
    Memorisation,
    bin_scales,
    by_training_subject,
    memorisation,
    ratio,
)
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.evaluation.statistics.bootstrap import Interval

OVER_SUBJECTS = "interval over held-out subjects; samples are not resampled"
# Bickel & Freedman 1981, section 6.
NO_MINIMUM = "the bootstrap is not valid for a minimum"


def memorisation_axis(evaluation: FoldEvaluation) -> None:
    """Nearest training slices of samples and of held-out slices, in every space; the joint one first."""
    store, samples = evaluation.store, evaluation.samples
    extractor = evaluation.config.extractors[0]
    spaces: dict[str, tuple[str, Callable]] = {
        extractor: ("euclidean", lambda images: evaluation.features(images, extractor)),
        "pixels": ("ncc", lambda images: images),
    }
    test_images, train_images = evaluation.real(evaluation.test)[0], evaluation.real(evaluation.train)[0]
    test_bin, train_bin = store.z_bin[evaluation.test], store.z_bin[evaluation.train]
    if evaluation.config.copies:
        for space, (of_samples, of_test) in found_in_spaces(evaluation).items():
            _space(evaluation, space, of_samples, of_test)
    for space, (metric, represent) in spaces.items():
        train = represent(train_images)
        of_samples, of_test = (
            nearest(represent(images), train, bins, train_bin, metric, device=evaluation.device)
            for images, bins in ((samples.images, samples.z_bin), (test_images, test_bin))
        )
        _space(evaluation, space, of_samples, of_test, bin_scales(of_test[0], test_bin, store.n_bins))


def _space(
    evaluation: FoldEvaluation,
    space: str,
    of_samples: tuple[np.ndarray, np.ndarray],
    of_test: tuple[np.ndarray, np.ndarray],
    scales: np.ndarray | None = None,
) -> None:
    """Add the rows of one space to all tables.

    of_samples, of_test: distance and index into the training slices; scales: of the z-bins, None: all 1.
    """
    store, samples = evaluation.store, evaluation.samples
    scales = np.ones(store.n_bins) if scales is None else scales
    sample_scale, test_scale = _scale_of(scales, samples.z_bin), scales[store.z_bin[evaluation.test]]
    persons, seed = store.person[evaluation.test], evaluation.config.seed
    distances = (of_samples[0], of_test[0])
    found = memorisation(*distances, persons, seed, sample_scale, test_scale)
    _numbers(evaluation, space, found, of_samples[0] / sample_scale, of_test[0] / test_scale)
    _tables(evaluation, space, found, *of_samples, sample_scale)


def _scale_of(scales: np.ndarray, z_bin: np.ndarray) -> np.ndarray:
    """Scale of each sample; NaN for a z-bin that the store lacks, where no sample has a training slice."""
    known = (z_bin >= 0) & (z_bin < len(scales))
    return np.where(known, scales[np.where(known, z_bin, 0)], np.nan)


def _numbers(
    evaluation: FoldEvaluation, space: str, found: Memorisation, distance: np.ndarray, test: np.ndarray
) -> None:
    """Add rows of metrics.tsv: all metrics over all z-bins; R and the suspect share also per z-bin.

    distance, test: relative to the scales of the z-bins.
    """
    subjects = evaluation.store.person[evaluation.test]
    held_out = HeldOut(found, test, subjects, evaluation.config.bootstrap, evaluation.config.seed)
    matched = np.isfinite(distance)
    synthetic, n = distance[matched], int(matched.sum())
    unmatched = (
        f"{UNMATCHED.get(space, 'samples without a training slice in their z-bin')}: {found.n_unmatched}"
    )
    withheld = too_few_lesions(evaluation) if space == LESIONS else ""

    def add(metric: str, value: float, note: str, count: int, **more) -> None:
        parts = [note, unmatched if found.n_unmatched and more.get("z_bin", "all") == "all" else ""]
        note = "; ".join(part for part in parts if part)
        if withheld:
            value, note, more = np.nan, withheld, {**more, "interval": Interval(np.nan, np.nan, withheld)}
            more["floor"] = np.nan
        evaluation.add(metric, value, extractor=space, n=count, reason=note, **more)

    add(
        "memorisation_ratio",
        found.ratio,
        OVER_SUBJECTS if np.isfinite(found.ratio) else _no_ratio(synthetic, test),
        n,
        interval=held_out.ratio(synthetic),
        floor=1.0,
    )
    of_threshold = f"threshold from {found.n_calibration} slices of half of the held-out subjects"
    add(
        "suspect_share",
        found.suspect_share,
        f"{of_threshold}, resampled for the interval, which contains that over samples; floor column: share of "
        "slices of the other half below it",
        n,
        interval=held_out.suspect_share(synthetic),
        floor=found.check_share,
    )
    n_checked = int(found.checking.sum())
    why = "" if n_checked else "no second half: at least two held-out subjects are required; "
    add(
        "suspect_share_check",
        found.check_share,
        f"{why}share of slices of the other half below the threshold; floor column: expected share; interval over "
        "subjects, both halves resampled",
        n_checked,
        interval=held_out.check_share(),
        floor=found.expected_share,
    )
    add(
        "suspect_share_ref",
        found.ref_share,
        "closer than any held-out slice; floor column: one half of the held-out subjects against the other half",
        n,
        interval=Interval(np.nan, np.nan, NO_MINIMUM),
        floor=found.ref_floor,
    )
    add(
        "memorisation_w1",
        found.w1,
        f"{OVER_SUBJECTS}; floor column: between the two halves of the held-out subjects",
        n,
        interval=held_out.w1(synthetic),
        floor=found.w1_floor,
    )
    sample_bin, test_bin = evaluation.samples.z_bin, evaluation.store.z_bin[evaluation.test]
    for z_bin in range(evaluation.store.n_bins):
        own, real = distance[matched & (sample_bin == z_bin)], np.isfinite(test) & (test_bin == z_bin)
        check = found.checking & (test_bin == z_bin)
        behind = f"of {int(real.sum())} held-out slices of {len(np.unique(subjects[real]))} subjects"
        value = ratio(own, test[real])
        note = behind if np.isfinite(value) else _no_ratio(own, test[real])
        interval = held_out.ratio(own, real)
        add("memorisation_ratio", value, note, len(own), z_bin=z_bin, interval=interval, floor=1.0)
        known = len(own) and np.isfinite(found.threshold)
        add(
            "suspect_share",
            float((own < found.threshold).mean()) if known else np.nan,
            f"floor column: of {int(check.sum())} held-out slices" if known else _no_share(own),
            len(own),
            z_bin=z_bin,
            interval=held_out.suspect_share(own),
            floor=float((test[check] < found.threshold).mean()) if check.any() else np.nan,
        )


def _no_ratio(synthetic: np.ndarray, test: np.ndarray) -> str:
    if not len(synthetic):
        return "no sample has a training slice in its z-bin"
    if not np.isfinite(test).any():
        return "no held-out slice has a training slice in its z-bin"
    return "the median distance of held-out slices is 0: at least half of them equal a training slice"


def _no_share(synthetic: np.ndarray) -> str:
    return (
        "no threshold: no held-out slice" if len(synthetic) else "no sample has a training slice in its z-bin"
    )


def _tables(
    evaluation: FoldEvaluation,
    space: str,
    found: Memorisation,
    distance: np.ndarray,
    index: np.ndarray,
    scale: np.ndarray,
) -> None:
    """Add rows of nearest.tsv and memorisation_subjects.tsv; the threshold of a sample is that of its z-bin."""
    store, samples = evaluation.store, evaluation.samples
    for i in range(len(distance)):
        row = int(evaluation.train[index[i]]) if index[i] >= 0 else None
        evaluation.nearest.append(
            {
                "id": samples.id[i],
                "sample": i,
                "z_bin": int(samples.z_bin[i]),
                "class": int(samples.label[i]),
                "train_row": row,
                "train_participant": store.participant[row] if row is not None else None,
                "distance": float(distance[i]),
                "threshold": float(found.threshold * scale[i]),
                "flagged": int(found.suspects[i]),
                "space": space,
            }
        )
    subjects, bins = store.participant[evaluation.train], store.z_bin[evaluation.train]
    for row in by_training_subject(distance, index, found.suspects, samples.z_bin, subjects, bins):
        evaluation.training_subjects.append({"space": space, **row})
