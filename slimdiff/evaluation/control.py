"""Whether samples are what was asked for: lesion or none, and lesions as large as real ones there."""

from dataclasses import dataclass

import numpy as np

from slimdiff.evaluation.masks import binarise, components


@dataclass(frozen=True)
class ClassFidelity:
    """Shares of slices that obey their class; NaN where a class has no slice."""

    lesion_share: float  # of class-1 slices, those with a component
    clean_share: float  # of class-0 slices, those without
    n_lesion: int
    n_clean: int


def has_lesion(masks: np.ndarray, tau: float = 0.0, min_px: int = 5) -> np.ndarray:
    """(N,) bool: slices with a 4-connected component of at least `min_px`; masks as for `masks.binarise`."""
    return np.array([bool(components(mask, min_px)) for mask in binarise(masks, tau)], bool)


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


def area_by_bin(
    real_masks: np.ndarray,
    real_bins: np.ndarray,
    synthetic_masks: np.ndarray,
    synthetic_bins: np.ndarray,
    n_bins: int,
    tau: float = 0.0,
    min_px: int = 5,
) -> list[dict[str, float]]:
    """Lesion area by height, over slices that have a lesion.

    Args:
        real_masks, synthetic_masks: (N, H, W) and (M, H, W), see `masks.binarise`.
        real_bins, synthetic_bins: (N,) and (M,) z-bin, 0 ... n_bins - 1.
        n_bins: number of z-bins.
        tau: threshold of continuous masks.
        min_px: components with fewer pixels do not count.

    Returns:
        A row per z-bin: z_bin, and for real and synthetic the number of lesion slices (n_real, n_synthetic)
        and the median lesion area in px (area_real, area_synthetic; NaN without a slice).
    """
    rows = [{"z_bin": z_bin} for z_bin in range(n_bins)]
    for name, masks, bins in (
        ("real", real_masks, real_bins),
        ("synthetic", synthetic_masks, synthetic_bins),
    ):
        areas = lesion_area(masks, tau, min_px)
        for row in rows:
            found = areas[(np.asarray(bins) == row["z_bin"]) & (areas > 0)]
            row[f"n_{name}"] = len(found)
            row[f"area_{name}"] = float(np.median(found)) if len(found) else float("nan")
    return rows


def lesion_area(masks: np.ndarray, tau: float = 0.0, min_px: int = 5) -> np.ndarray:
    """(N,) pixels in the components of at least `min_px` of every slice; masks as for `masks.binarise`."""
    return np.array(
        [sum(int(c.sum()) for c in components(mask, min_px)) for mask in binarise(masks, tau)], np.int64
    )
