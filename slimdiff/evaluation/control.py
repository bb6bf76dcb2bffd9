"""Whether samples are what was asked for: lesion or none, and lesions as large as real ones there."""

from dataclasses import dataclass

import numpy as np

from slimdiff.evaluation.masks import binarise
from slimdiff.evaluation.morphology import FEATURES, components_of


@dataclass(frozen=True)
class ClassFidelity:
    """Shares of slices that obey their class; NaN where a class has no slice."""

    lesion_share: float  # of class-1 slices, those with a component
    clean_share: float  # of class-0 slices, those without
    n_lesion: int
    n_clean: int


def has_lesion(masks: np.ndarray, tau: float = 0.0, min_px: int = 5) -> np.ndarray:
    """(N,) bool: slices with a 4-connected component of at least `min_px`; masks as for `masks.binarise`."""
    return lesion_area(masks, tau, min_px) > 0


def class_fidelity(
    masks: np.ndarray, classes: np.ndarray, tau: float = 0.0, min_px: int = 5
) -> ClassFidelity:
    """How often a mask agrees with the class it was asked for.

    Args:
        masks: (N, H, W), see `masks.binarise`.
        classes: (N,) 0 = no lesion, 1 = lesion.
        tau: threshold of continuous masks.
        min_px: smallest component that counts as a lesion.

    Raises:
        ValueError: other classes, or another number of them than slices.
    """
    classes = np.asarray(classes)
    if len(classes) != len(masks) or not np.isin(classes, (0, 1)).all():
        raise ValueError(f"{len(masks)} masks want {len(masks)} classes of 0 or 1, found {len(classes)}")
    lesion = has_lesion(masks, tau, min_px)
    asked, clean = lesion[classes == 1], ~lesion[classes == 0]
    return ClassFidelity(_mean(asked), _mean(clean), len(asked), len(clean))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def lesion_area(masks: np.ndarray, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0) -> np.ndarray:
    """(N,) pixels in the components of at least `min_px` of every slice; 0 where it has fewer than `min_slice_px`.

    masks: as for `masks.binarise`; min_slice_px: the rule that filled the slice store.
    """
    found = components_of(binarise(masks, tau), min_px, min_slice_px)
    area = found.features[:, FEATURES.index("area")]
    return np.bincount(found.slices, area, minlength=len(masks)).astype(np.int64)
