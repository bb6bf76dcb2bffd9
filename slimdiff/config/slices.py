"""Which axial slices enter the study, and their z-bins."""

from typing import Literal

from pydantic import model_validator

from slimdiff.config.base import Count, Fraction, NonNegative, PositiveInt, Real, Section


class SlicesConfig(Section):
    """Slice selection and z-binning (docs/method.md, steps 6-8)."""

    z_range: Literal["auto"] | tuple[Count, Count] = (34, 115)
    """First and last axial slice, both included; `auto` is the extent of the brain in the subjects that are
    training subjects of at least one fold, and what is taken where volumes are registered and nothing is said."""
    n_bins: PositiveInt = 30
    """z-bins (paper: 30)."""
    background_level: Real = -0.9
    """Pixels above it count as tissue, in [-1, 1]."""
    min_tissue: Fraction = 0.05
    """Smallest share of tissue pixels of a slice that is kept."""
    min_lesion_mm2: NonNegative = 46.875
    """Lesion slices with less lesion are dropped, and so are such samples before mask metrics, in mm2
    (30 px of the paper's grid; 0 keeps all: for small lesions)."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.z_range != "auto":
            first, last = self.z_range
            if first > last:
                raise ValueError(f"z_range {first}, {last}: the first slice lies above the last")
            if last - first + 1 < self.n_bins:
                raise ValueError(
                    f"z_range {first}, {last} has {last - first + 1} slices, fewer than n_bins {self.n_bins}"
                )
        return self
