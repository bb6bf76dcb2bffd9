"""Agreement of predicted with true masks: Dice, lesion-wise sensitivity and false positives.

Dice is undefined without a true lesion. Such slices and subjects are counted, but never scored 0 or 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from slimdiff.evaluation.metrics.lesions import components


@dataclass(frozen=True)
class Scores:
    """Counts, all (N,) int; an entry is a slice, a subject or a set of slices."""

    slices: np.ndarray
    empty_slices: np.ndarray
    """Slices without a true lesion pixel."""
    empty_with_false_positive: np.ndarray
    true_px: np.ndarray
    predicted_px: np.ndarray
    overlap_px: np.ndarray
    lesions: np.ndarray
    """True 4-connected components of at least `min_px` pixels."""
    found: np.ndarray
    """Those of them that share a pixel with a predicted component of at least `min_px` pixels."""
    false_positives: np.ndarray
    """Predicted components of at least `min_px` pixels that share no pixel with a true lesion."""

    def __getitem__(self, rows: np.ndarray) -> "Scores":
        return Scores(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.slices)

    def grouped(self, groups: Sequence) -> tuple[np.ndarray, "Scores"]:
        """Names of the groups, sorted, and the counts summed within each group."""
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        sums = []
        for field in fields(self):
            total = np.zeros(len(names), np.int64)
            np.add.at(total, index, getattr(self, field.name))
            sums.append(total)
        return names, Scores(*sums)

    def pooled(self) -> "Scores":
        """The sums over all entries, as one entry."""
        return Scores(*(getattr(self, field.name).sum(keepdims=True) for field in fields(self)))

    @property
    def dice(self) -> np.ndarray:
        """2 |P and T| / (|P| + |T|) over all slices of an entry; NaN without a lesion."""
        return _share(2 * self.overlap_px, self.true_px + self.predicted_px, self.true_px > 0)

    @property
    def sensitivity(self) -> np.ndarray:
        """Share of the lesions that are detected; NaN without a lesion."""
        return _share(self.found, self.lesions)

    @property
    def false_positives_per_slice(self) -> np.ndarray:
        """False-positive components per slice."""
        return _share(self.false_positives, self.slices)

    @property
    def false_positive_share_empty(self) -> np.ndarray:
        """Share of lesion-free slices with a false positive; NaN without lesion-free slices."""
        return _share(self.empty_with_false_positive, self.empty_slices)


def _share(part: np.ndarray, whole: np.ndarray, defined: np.ndarray | None = None) -> np.ndarray:
    defined = whole > 0 if defined is None else defined
    return np.where(defined, part / np.maximum(whole, 1), np.nan)


def score_slices(truth: np.ndarray, prediction: np.ndarray, min_px: int) -> Scores:
    """Scores of every slice.

    Args:
        truth, prediction: (N, H, W) bool.
        min_px: smallest 4-connected component, true or predicted, that counts as a lesion. Dice uses all pixels.

    Raises:
        ValueError: masks that are not bool, or shapes that differ.
    """
    if truth.shape != prediction.shape or truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(
            f"expected bool masks of one shape, found truth {truth.shape} {truth.dtype} and prediction "
            f"{prediction.shape} {prediction.dtype}"
        )
    rows = [_of_slice(*pair, min_px) for pair in zip(truth, prediction, strict=True)]
    return Scores(*np.array(rows, np.int64).reshape(-1, len(fields(Scores))).T)


def _of_slice(truth: np.ndarray, prediction: np.ndarray, min_px: int) -> tuple[int, ...]:
    lesions, blobs = components(truth, min_px), components(prediction, min_px)
    counted = np.any(blobs, axis=0) if blobs else np.zeros_like(truth)
    false = sum(not (blob & truth).any() for blob in blobs)
    empty = not truth.any()
    return (
        1,
        int(empty),
        int(empty and false > 0),
        int(truth.sum()),
        int(prediction.sum()),
        int((truth & prediction).sum()),
        len(lesions),
        sum(bool((lesion & counted).any()) for lesion in lesions),
        false,
    )
