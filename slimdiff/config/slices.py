"""Which axial slices enter the study, and their z-bins."""

from typing import Literal

from pydantic import model_validator

from slimdiff.config.base import Count, Fraction, NonNegative, PositiveInt, Section


class SlicesConfig(Section):
    """Slice selection and z-binning (docs/method.md, steps 6-8)."""

    z_range: Literal["auto"] | tuple[Count, Count] = (34, 115)
    """First and last axial slice, both included (paper: 34, 115). `auto`: the extent of the brain in subjects that are
    training subjects of at least one fold; it is the default if volumes are registered."""
    n_bins: PositiveInt = 30
    """Number of z-bins (paper: 30)."""
    min_tissue: Fraction = 0.05
    """Smallest share of tissue pixels (above -0.9) of a slice that is kept (paper: 0.05)."""
    min_lesion_mm2: NonNegative = 46.875
    """Smallest lesion area of a lesion slice, in mm2 (30 px of the paper's grid). Slices with a smaller lesion are left
    out, and so are such samples in the mask metrics. 0 keeps all, for small lesions."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.z_range != "auto":
            first, last = self.z_range
            if first > last:
                raise ValueError(f"z_range {first}, {last}: expected the first slice below the last")
            if last - first + 1 < self.n_bins:
                raise ValueError(
                    f"z_range {first}, {last} has {last - first + 1} slices, fewer than n_bins {self.n_bins}"
                )
        return self
