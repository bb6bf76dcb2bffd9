"""Whether lesions are as large as real ones at the same height: medians a z-bin, joined into one number."""

import numpy as np

from slimdiff.evaluation.statistics import resampled_quantile


def area_gap(
    real_areas: np.ndarray, real_bins: np.ndarray, synthetic_areas: np.ndarray, synthetic_bins: np.ndarray
) -> float:
    """Mean over z-bins of log2 (median synthetic area / median real area).

    z-bin by z-bin, because samples are drawn at other heights than lesions lie; z-bins without a lesion on either side
    are left out.

    Args:
        real_areas, synthetic_areas: (N,) and (M,) lesion area of slices that have one, px.
        real_bins, synthetic_bins: (N,) and (M,) their z-bins.

    Returns:
        0 for equal sizes, 1 where synthetic lesions are twice as large; NaN without a common z-bin.
    """
    everybody = np.zeros(len(real_areas), np.int64)
    return float(
        resampled_area_gap(
            real_areas, real_bins, synthetic_areas, synthetic_bins, everybody, np.ones((1, 1))
        )[0]
    )


def resampled_area_gap(
    real_areas: np.ndarray,
    real_bins: np.ndarray,
    synthetic_areas: np.ndarray,
    synthetic_bins: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """`area_gap` when subjects, with all their real slices, are drawn with replacement.

    Args:
        subjects: (N,) index of each real slice's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,); a resampling leaves out z-bins of which it drew no lesion, and is NaN where it drew none.
    """
    counts = np.asarray(counts)
    gaps = []
    for z_bin in np.intersect1d(real_bins, synthetic_bins):
        own = real_bins == z_bin
        real = resampled_quantile(real_areas[own], subjects[own], counts, 0.5)
        gaps.append(np.log2(np.median(synthetic_areas[synthetic_bins == z_bin]) / real))
    if not gaps:
        return np.full(len(counts), np.nan)
    gaps = np.array(gaps)  # (bins, B)
    found = np.isfinite(gaps)
    with np.errstate(invalid="ignore"):
        return np.where(found, gaps, 0).sum(axis=0) / np.where(found.any(axis=0), found.sum(axis=0), np.nan)
