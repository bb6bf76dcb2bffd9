"""Whether unregistered volumes show the same heights: the z-range by slice numbers is the same for all of them.

Without registration a grid is centred on the volume's field of view. If that is wide, with much of the neck, its centre
is below the brain's, and a z-range about the centre misses the vertex.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slimdiff.config import Study
    from slimdiff.data.quality.measure import Measured

LEAST_AREA = 0.05
"""A slice has head if its area is at least this share of the largest one's."""
MISSED_MM = 25.0
"""Head above a z-range that cuts it at both ends; the demo's z-range leaves up to 22 mm of a brain above it."""
DIFFERENCE_MM = 20.0
"""Difference between the highest and the lowest vertex of a cohort."""
REMEDY = (
    "register the volumes (preprocess.registration.transform: rigid), or set slices.height: relative for z-bins by the "
    "height of each brain"
)


@dataclass(frozen=True)
class Slicing:
    """What becomes of a volume's slices."""

    native: bool = False
    """Volumes keep their own slices (`preprocess.spacing_mm`)."""
    by_number: bool = False
    """The number of a slice on the unregistered grid is its height."""
    z_range_mm: tuple[float, float] | None = None
    """Lowest and highest slice of `slices.z_range`, in mm above the centre of the grid; None: it is `auto`."""

    @classmethod
    def of(cls, study: "Study") -> "Slicing":
        """That of a study."""
        grid = study.preprocess
        if grid.registration.transform != "none" or study.slices.height != "slice":
            return cls(grid.native)
        if study.slices.z_range == "auto":
            return cls(grid.native, True)
        middle = (grid.grid[2] - 1) / 2
        first, last = ((z - middle) * grid.slice_mm for z in study.slices.z_range)
        return cls(grid.native, True, (first, last))


def head_extent(inside: np.ndarray, slice_mm: float) -> tuple[float, float] | None:
    """Lowest and highest slice with head, in mm above the centre of the volume; None without a head.

    inside: bool (X, Y, Z), RAS, the head or brain; slice_mm: distance between slices.
    """
    area = inside.sum(axis=(0, 1))
    if not area.any():
        return None
    shown = np.flatnonzero(area >= LEAST_AREA * area.max())
    middle = (len(area) - 1) / 2
    return float((shown[0] - middle) * slice_mm), float((shown[-1] - middle) * slice_mm)


def other_heights(cohort: "Mapping[str, Measured]", slicing: Slicing) -> dict[str, str]:
    """Participants whose slices are at other heights than the z-range expects: participant_id, why in words."""
    if not slicing.by_number:
        return {}
    heads = {name: facts.head_mm for name, facts in cohort.items() if facts.head_mm}
    found: dict[str, list[str]] = {}
    for name, (bottom, top) in heads.items():
        first, last = slicing.z_range_mm or (bottom, top)
        if bottom <= first and top - last > MISSED_MM:
            found.setdefault(name, []).append(
                f"the head reaches through both ends of slices.z_range and {top - last:.0f} mm above it, so the vertex "
                "is missed"
            )
    tops = [top for _, top in heads.values()]
    if tops and max(tops) - min(tops) > DIFFERENCE_MM:
        median = float(np.median(tops))
        for name, (_, top) in heads.items():
            # The highest or the lowest one is always farther away.
            if abs(top - median) > DIFFERENCE_MM / 2:
                way = "above" if top > median else "below"
                found.setdefault(name, []).append(
                    f"the top of the head is {abs(top - median):.0f} mm {way} the cohort's median on the grid, and "
                    f"those of the cohort differ by {max(tops) - min(tops):.0f} mm"
                )
    return {name: f"{'; '.join(reasons)}; {REMEDY}" for name, reasons in found.items()}
