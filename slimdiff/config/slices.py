"""Which axial slices enter the study, and their z-bins."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from slimdiff.config.base import Fraction, NonNegative, PositiveInt, Section

Height = Literal["slice", "mm", "relative"]
"""How the height of a slice is measured; the unit of the z-range."""


def _z_range(value: Any) -> Any:
    """`auto` or two numbers. Raises ValueError with what is expected instead."""
    ends = value if isinstance(value, (list, tuple)) else []
    numbers = [type(end) in (int, float) and 0 <= end < float("inf") for end in ends]
    if value != "auto" and numbers != [True, True]:
        raise ValueError("expected auto or a list of two numbers, the lowest and the highest, of at least 0")
    return value if value == "auto" else tuple(value)


class SlicesConfig(Section):
    """Slice selection and z-binning (docs/method.md, steps 6-8)."""

    height: Height = "slice"
    """How the height of a slice, and so its z-bin, is measured. `slice`: its number on the common grid (paper). `mm`:
    mm above the participant's lowest slice with brain. `relative`: 0 is the lowest and 1 the highest slice with brain;
    it is the default with native slices, which have no common number. A slice has brain if it has `min_tissue`."""
    z_range: Annotated[
        Literal["auto"] | tuple[int | NonNegative, int | NonNegative], BeforeValidator(_z_range)
    ] = (34, 115)
    """Lowest and highest slice, both included, in the unit of `height` (paper: slices 34, 115). `auto`: the extent of
    the brain in subjects that are training subjects of at least one fold (`relative`: 0 to 1); it is the default if
    volumes are registered, and unless `height` is `slice`."""
    n_bins: PositiveInt = 30
    """Number of z-bins (paper: 30)."""
    min_tissue: Fraction = 0.05
    """Smallest share of tissue pixels (above -0.9) of a slice that is kept (paper: 0.05)."""
    min_lesion_mm2: NonNegative = 46.875
    """Smallest lesion area of a lesion slice, in mm2 (30 px of the paper's grid). Slices with a smaller lesion are left
    out, and so are such samples in the mask metrics. 0 keeps all, for small lesions."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.height != "slice" and "z_range" not in self.model_fields_set:
            # The paper's slices are numbers of its own grid.
            self.__dict__["z_range"] = "auto"
        if self.z_range == "auto":
            return self
        first, last = self.z_range
        if self.height == "slice" and not all(isinstance(end, int) for end in self.z_range):
            raise ValueError(
                f"z_range: expected whole numbers with height slice, found {first}, {last}; for other "
                "heights set height to mm or relative"
            )
        if self.height == "relative" and last > 1:
            raise ValueError(
                f"z_range {first}, {last}: expected 0 to 1 with height relative; for a range in mm set height: mm"
            )
        if first > last or (self.height != "slice" and first == last):
            what = "first slice" if self.height == "slice" else "lowest height"
            raise ValueError(f"z_range {first}, {last}: expected the {what} below the last")
        if self.height == "slice" and last - first + 1 < self.n_bins:
            raise ValueError(
                f"z_range {first}, {last} has {last - first + 1} slices, fewer than n_bins {self.n_bins}"
            )
        if self.height == "mm" and last - first < self.n_bins:
            raise ValueError(
                f"z_range {first}, {last}: expected at least 1 mm a z-bin, found n_bins {self.n_bins}"
            )
        return self
