"""Whether samples copy training slices: nearest neighbours, judged by those of unseen subjects' slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimdiff.evaluation.kernels import wasserstein

QUANTILE = 0.01


def nearest(
    query: np.ndarray,
    reference: np.ndarray,
    query_bin: np.ndarray,
    reference_bin: np.ndarray,
    metric: str = "euclidean",
    block: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """The closest reference of the same z-bin for every query.

    Args:
        query, reference: (N, ...) and (M, ...) features or images; axes after the first are flattened.
        query_bin, reference_bin: (N,) and (M,) z-bin.
        metric: `euclidean` (for features), or `ncc`: 1 - normalised cross-correlation (for pixels; 1 where
            either image is constant).
        block: queries at a time.

    Returns:
        distance (N,) float64 and index into the reference (N,) int64; NaN and -1 where the reference has no
        slice of that z-bin. Ties go to the lowest index.

    Raises:
        ValueError: unknown metric, or shapes that do not fit.
    """
    if metric not in ("euclidean", "ncc"):
        raise ValueError(f"metric is {metric!r}; euclidean or ncc is wanted")
    if query.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"queries of shape {query.shape[1:]} against references of shape {reference.shape[1:]}"
        )
    query_bin, reference_bin = np.asarray(query_bin), np.asarray(reference_bin)
    if len(query_bin) != len(query) or len(reference_bin) != len(reference):
        raise ValueError("every query and every reference needs a z-bin")
    distance, index = np.full(len(query), np.nan), np.full(len(query), -1, np.int64)
    for z_bin in np.unique(query_bin):
        candidates = np.flatnonzero(reference_bin == z_bin)
        if not len(candidates):
            continue
        of_reference = _rows(reference[candidates], metric)
        members = np.flatnonzero(query_bin == z_bin)
        for start in range(0, len(members), block):
            rows = members[start : start + block]
            of_query = _rows(query[rows], metric)
            # |q - r|^2 = |q|^2 - 2 q.r + |r|^2; |q|^2 is the same for all candidates
            closest = np.argmin((of_reference**2).sum(axis=1) - 2 * of_query @ of_reference.T, axis=1)
            index[rows] = candidates[closest]
            # from the difference itself: the products above lose the distance of a near copy to cancellation
            squared = ((of_query - of_reference[closest]) ** 2).sum(axis=1)
            distance[rows] = (
                np.sqrt(squared)
                if metric == "euclidean"
                else _one_minus_correlation(of_query, of_reference[closest], squared)
            )
    return distance, index


def _rows(values: np.ndarray, metric: str) -> np.ndarray:
    rows = values.reshape(len(values), -1).astype(np.float64)
    if metric == "ncc":
        rows = rows - rows.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        # the mean of equal pixels is off by rounding, which must not be blown up to a unit vector
        rows = np.where(norm > 1e-6, rows / np.maximum(norm, 1e-6), 0.0)
    return rows


def _one_minus_correlation(a: np.ndarray, b: np.ndarray, squared: np.ndarray) -> np.ndarray:
    # for unit vectors 1 - a.b = |a - b|^2 / 2; a constant image is the zero vector and has no correlation
    return np.where(a.any(axis=1) & b.any(axis=1), squared / 2, 1.0)


@dataclass(frozen=True)
class Memorisation:
    """Distances of samples to the training slices, judged by those of held-out slices.

    `ratio` R = median(synthetic to train) / median(test to train): below 1, samples are closer to the
    training slices than unseen subjects are. `suspects` lie below `threshold`, the 1 % quantile of the test
    distances of half of the held-out subjects; `check_share` is how much of the other half it flags, which
    should be near 0.01. `suspects_ref` are closer than the closest test slice.
    """

    ratio: float
    threshold: float
    suspects: np.ndarray  # (N,) bool
    suspect_share: float
    check_share: float  # NaN with fewer than two held-out subjects
    suspects_ref: np.ndarray  # (N,) bool
    w1: float  # between the two distributions of distances
    n_calibration: int  # test slices behind the threshold; below 100 it is close to their minimum
    n_unmatched: int  # samples without a training slice in their z-bin; no suspects


def memorisation(
    synthetic_distance: np.ndarray, test_distance: np.ndarray, test_subjects: Sequence, seed: int
) -> Memorisation:
    """Judge nearest-neighbour distances of samples by those of held-out slices.

    Args:
        synthetic_distance: (N,) from `nearest`, synthetic to train.
        test_distance: (M,) from `nearest`, test to train.
        test_subjects: (M,) subject of each test slice.
        seed: of the split of the held-out subjects into calibration and check.

    Returns:
        See `Memorisation`; numbers are NaN, and nothing is suspect, where there is no distance to go by.

    Raises:
        ValueError: another number of subjects than test slices.
    """
    test_subjects = np.asarray(test_subjects)
    if len(test_subjects) != len(test_distance):
        raise ValueError(
            f"{len(test_distance)} test slices want as many subjects, found {len(test_subjects)}"
        )
    matched = np.isfinite(test_distance)
    test, subjects = test_distance[matched], test_subjects[matched]
    synthetic = synthetic_distance[np.isfinite(synthetic_distance)]
    order = np.random.default_rng(seed).permutation(np.unique(subjects))
    calibrating = np.isin(subjects, order[: (len(order) + 1) // 2])
    calibration, check = test[calibrating], test[~calibrating]
    threshold = float(np.quantile(calibration, QUANTILE)) if len(calibration) else float("nan")
    suspects = synthetic_distance < threshold  # False for NaN on either side
    return Memorisation(
        ratio=_ratio(synthetic, test),
        threshold=threshold,
        suspects=suspects,
        suspect_share=float(suspects.sum() / len(synthetic)) if len(synthetic) else float("nan"),
        check_share=float((check < threshold).mean()) if len(check) else float("nan"),
        suspects_ref=synthetic_distance < (test.min() if len(test) else np.nan),
        w1=wasserstein(synthetic, test),
        n_calibration=len(calibration),
        n_unmatched=len(synthetic_distance) - len(synthetic),
    )


def _ratio(synthetic: np.ndarray, test: np.ndarray) -> float:
    if not len(synthetic) or not len(test) or np.median(test) == 0:
        return float("nan")
    return float(np.median(synthetic) / np.median(test))


def by_training_subject(
    distance: np.ndarray, index: np.ndarray, suspects: np.ndarray, train_subjects: Sequence
) -> list[dict]:
    """How often each training subject is the nearest one.

    Args:
        distance, index: (N,) from `nearest`, synthetic to train.
        suspects: (N,) bool.
        train_subjects: (M,) subject of each training slice.

    Returns:
        A row per training subject, those with the most suspects first: participant, n_nearest, n_suspects,
        closest (the smallest distance, NaN where it is never the nearest).
    """
    train_subjects = np.asarray(train_subjects)
    matched = index >= 0
    nearest_subject = train_subjects[index[matched]]
    rows = []
    for subject in np.unique(train_subjects):
        own = nearest_subject == subject
        rows.append(
            {
                "participant": str(subject),
                "n_nearest": int(own.sum()),
                "n_suspects": int(suspects[matched][own].sum()),
                "closest": float(distance[matched][own].min()) if own.any() else float("nan"),
            }
        )
    return sorted(rows, key=lambda row: (-row["n_suspects"], -row["n_nearest"], row["participant"]))


def closest_pairs(distance: np.ndarray, index: np.ndarray, k: int) -> list[tuple[int, int, float]]:
    """The k smallest distances from `nearest` as (query, reference, distance), closest first."""
    order = np.argsort(distance, kind="stable")[:k]  # NaN sorts last
    return [(int(i), int(index[i]), float(distance[i])) for i in order if index[i] >= 0]
