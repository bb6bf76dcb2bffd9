"""Image quality of one volume, as MRIQC defines it, and outliers of a cohort (Esteban et al. 2017; docs/data.md).

The numbers depend on scanner and sequence: they say which participant differs from the others of its cohort, not which
image is good.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slimdiff.data.quality.measure import Measured

FEWEST_PARTICIPANTS = 10
"""Of a cohort in which outliers are sought."""
OUTLIER_SD, OUTLIER_SHARE, OUTLIER_STEP = 5.0, 0.2, 0.03
"""Distance of an outlier from the cohort's median: in SD (1.4826 times the median absolute deviation), as a share
of the median, and for `slice_jump` and `ghost`, whose median can be 0, as it is. Both must be exceeded, so that a
cohort of nearly equal images has no outlier."""


@dataclass(frozen=True)
class ImageQuality:
    """None: not defined for this volume, for example a background of 0 in a stripped image."""

    snr: float | None
    """Mean / SD of the head or brain (with n - 1)."""
    efc: float | None
    """Entropy focus criterion (Atkinson et al. 1997): 0 if one voxel has all energy, 1 if all are equal; ghosts and
    blur raise it."""
    fber: float | None
    """Foreground-background energy ratio (Shehzad et al. 2015): median squared intensity inside / outside."""
    slice_jump: float | None
    """Largest difference of an axial slice's median from the mean of its two neighbours', relative to the median of the
    whole head: interleaved or missing slices."""
    ghost: float | None
    """Nyquist ghosts (Giannelli et al. 2010): mean of the background where the head shifted by half of the image lies,
    minus that of the rest of the background, relative to the median of the head; the larger of two in-plane axes."""


WORSE = {"snr": -1, "efc": 1, "fber": -1, "slice_jump": 1, "ghost": 1}
"""The direction in which each number is worse."""


def image_quality(values: np.ndarray, inside: np.ndarray) -> ImageQuality:
    """Quality of a volume (X, Y, Z) in RAS order; inside: bool (X, Y, Z), the brain, or the head without one."""
    shifted = values.astype(np.float64) - float(values.min())
    head, around = shifted[inside], shifted[~inside]
    if head.size < 2 or not around.size:
        return ImageQuality(None, None, None, None, None)
    spread, middle = float(head.std(ddof=1)), float(np.median(head))
    energy = float(np.median(around**2))
    return ImageQuality(
        snr=float(head.mean()) / spread if spread > 0 else None,
        efc=_entropy_focus(shifted),
        fber=float(np.median(head**2)) / energy if energy > 0 else None,
        slice_jump=_slice_jump(shifted, inside) / middle if middle > 0 else None,
        ghost=_ghost(shifted, inside) / middle if middle > 0 and energy > 0 else None,
    )


def _entropy_focus(shifted: np.ndarray) -> float | None:
    total = float(np.sqrt((shifted**2).sum()))
    if total == 0:
        return None
    shares = shifted[shifted > 0] / total
    # The entropy if all voxels are equal: N times (1 / sqrt(N)) log sqrt(N).
    largest = np.sqrt(shifted.size) * 0.5 * np.log(shifted.size)
    return float(-(shares * np.log(shares)).sum() / largest)


def _slice_jump(shifted: np.ndarray, inside: np.ndarray) -> float:
    counts = inside.sum(axis=(0, 1))
    # Near the ends of the head neighbours differ by anatomy.
    whole = np.flatnonzero(counts > 0.5 * counts.max())
    medians = np.array([np.median(shifted[:, :, z][inside[:, :, z]]) for z in range(whole[0], whole[-1] + 1)])
    if len(medians) < 3:
        return 0.0
    return float(np.abs(medians[1:-1] - (medians[:-2] + medians[2:]) / 2).max())


def _ghost(shifted: np.ndarray, inside: np.ndarray) -> float:
    found = []
    for axis in (0, 1):
        ghost = np.roll(inside, inside.shape[axis] // 2, axis) & ~inside
        rest = ~(ghost | inside)
        if ghost.any() and rest.any():
            found.append(float(shifted[ghost].mean() - shifted[rest].mean()))
    return max(found, default=0.0)


def outliers(cohort: Mapping[str, "ImageQuality | Measured"]) -> dict[str, list[str]]:
    """Participants whose image is worse than the cohort's: participant_id, what differs in words."""
    found: dict[str, list[str]] = {}
    for key, direction in WORSE.items():
        known = {name: getattr(own, key) for name, own in cohort.items() if getattr(own, key) is not None}
        if len(known) < FEWEST_PARTICIPANTS:
            continue
        values = np.array(list(known.values()))
        median = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - median)))
        least = OUTLIER_STEP if key in ("slice_jump", "ghost") else OUTLIER_SHARE * abs(median)
        for name, value in known.items():
            if direction * (value - median) > max(OUTLIER_SD * spread, least):
                found.setdefault(name, []).append(f"{key} {value:.3g}, median of the cohort {median:.3g}")
    return found
