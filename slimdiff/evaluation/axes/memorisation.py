"""The memorisation axis: nearest training slices of samples and held-out slices, in features and in pixels."""

from collections.abc import Callable

import numpy as np

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.metrics.memorisation import (
    QUANTILE,
    HeldOut,
    Memorisation,
    by_training_subject,
    memorisation,
    ratio,
)
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.evaluation.statistics.bootstrap import Interval

OVER_SUBJECTS = "interval over held-out subjects, samples as they are"
# Bickel & Freedman 1981, section 6.
NO_MINIMUM = "drawing subjects again does not tell how a minimum varies"


def memorisation_axis(cell: FoldEvaluation) -> None:
    """Nearest training slices of samples and of held-out slices, in features and in pixels."""
    store, samples = cell.store, cell.samples
    extractor = cell.config.extractors[0]
    spaces: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
        extractor: ("euclidean", lambda images: cell.features(images, extractor)),
        "pixels": ("ncc", np.asarray),
    }
    test_images, train_images = cell.real(cell.test)[0], cell.real(cell.train)[0]
    test_bin, train_bin = store.z_bin[cell.test], store.z_bin[cell.train]
    for space, (metric, represent) in spaces.items():
        train = represent(train_images)
        of_samples, of_test = (
            nearest(represent(images), train, bins, train_bin, metric, device=cell.device)
            for images, bins in ((samples.images, samples.z_bin), (test_images, test_bin))
        )
        found = memorisation(of_samples[0], of_test[0], store.participant[cell.test], cell.config.seed)
        _numbers(cell, space, found, of_samples[0], of_test[0])
        _tables(cell, space, found, *of_samples)


def _numbers(
    cell: FoldEvaluation, space: str, found: Memorisation, distance: np.ndarray, test: np.ndarray
) -> None:
    """Rows of metrics.tsv: over all z-bins, and R and suspects of every z-bin."""
    subjects = cell.store.participant[cell.test]
    held_out = HeldOut(found, test, subjects, cell.config.bootstrap, cell.config.seed)
    matched = np.isfinite(distance)
    synthetic, n = distance[matched], int(matched.sum())
    unmatched = f"samples without a training slice in their z-bin: {found.n_unmatched}"

    def add(metric: str, value: float, note: str, count: int, **more) -> None:
        parts = [note, unmatched if found.n_unmatched and more.get("z_bin", "all") == "all" else ""]
        note = "; ".join(part for part in parts if part)
        cell.add(metric, value, extractor=space, n=count, note=note, **more)

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
        f"{of_threshold}, drawn again for the interval; floor column: share of the other half's slices below it",
        n,
        interval=held_out.suspect_share(synthetic),
        floor=found.check_share,
    )
    n_checked = int(found.checking.sum())
    why = "" if n_checked else "no second half: two held-out subjects are wanted; "
    add(
        "suspect_share_check",
        found.check_share,
        f"{why}other held-out subjects' slices below the threshold; interval over subjects, both halves drawn again",
        n_checked,
        interval=held_out.check_share(),
        floor=QUANTILE,
    )
    add(
        "suspect_share_ref",
        found.ref_share,
        "closer than any held-out slice; floor column: of one half of the held-out subjects against the other half",
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
    sample_bin, test_bin = cell.samples.z_bin, cell.store.z_bin[cell.test]
    for z_bin in range(cell.store.n_bins):
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
        return "no sample with a training slice in its z-bin"
    if not np.isfinite(test).any():
        return "no held-out slice with a training slice in its z-bin"
    return "half of the held-out slices are training slices: their median distance is 0"


def _no_share(synthetic: np.ndarray) -> str:
    return (
        "no threshold: no held-out slice"
        if len(synthetic)
        else "no sample with a training slice in its z-bin"
    )


def _tables(
    cell: FoldEvaluation, space: str, found: Memorisation, distance: np.ndarray, index: np.ndarray
) -> None:
    """Rows of nearest.tsv and of memorisation_subjects.tsv."""
    store, samples = cell.store, cell.samples
    for i in range(len(distance)):
        row = int(cell.train[index[i]]) if index[i] >= 0 else None
        cell.nearest.append(
            {
                "id": samples.id[i],
                "sample": i,
                "z_bin": int(samples.z_bin[i]),
                "class": int(samples.label[i]),
                "train_row": row,
                "train_participant": store.participant[row] if row is not None else None,
                "distance": float(distance[i]),
                "threshold": found.threshold,
                "flagged": int(found.suspects[i]),
                "space": space,
            }
        )
    subjects, bins = store.participant[cell.train], store.z_bin[cell.train]
    for row in by_training_subject(distance, index, found.suspects, samples.z_bin, subjects, bins):
        cell.training_subjects.append({"space": space, **row})
