"""From a clinical volume to the study's grid."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from slimdiff.config.base import PositiveInt, Real, Section

LARGEST_MM = 20.0
"""Largest voxel size, in mm; a larger one is in another unit."""
Millimetres = Annotated[Real, Field(gt=0, le=LARGEST_MM)]


def _spacing(value: Any) -> Any:
    """A number, or three of which the last may be `native`. Raises ValueError with what is expected instead."""
    if not isinstance(value, (list, tuple)):
        return _millimetres(value, "; or three values, as [1.25, 1.25, native]")
    if len(value) != 3:
        raise ValueError(
            "expected a number, or three values along right, anterior, superior, as [1.25, 1.25, native]"
        )
    if "native" in value[:2]:
        raise ValueError(
            "expected native only as the third value: slices are resampled in plane, so that all have one size; give "
            "two numbers and native, as [1.25, 1.25, native]"
        )
    right, anterior = (_millimetres(part) for part in value[:2])
    if right != anterior:
        raise ValueError("expected the same number along right and anterior, because pixels are square")
    return (
        right,
        anterior,
        value[2] if value[2] == "native" else _millimetres(value[2], ", or native as the third"),
    )


def _millimetres(value: Any, otherwise: str = "") -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= LARGEST_MM:
        raise ValueError(
            f"expected a finite number of mm, greater than 0 and at most {LARGEST_MM:g}{otherwise}"
        )
    return number


class BiasFieldConfig(Section):
    """N4 bias field correction (Tustison et al. 2010), by SimpleITK."""

    n4: bool = False
    """Whether to correct; leave it off if the data are already corrected."""


class BrainConfig(Section):
    """Brain extraction: everything outside the brain becomes background."""

    method: Literal["none", "deepbet", "source"] = "none"
    """`none`: the volumes are already extracted, or the head is to be kept; `deepbet`: its network (Fisch et al. 2024),
    whose weights come with the package; `source`: the source's brain mask (`data.brain_suffix`, or column brain_mask of
    the table)."""
    dilate_mm: Annotated[Real, Field(ge=-10, le=10)] = 0.0
    """`deepbet`, `source`: dilation of the brain mask, in mm; below 0: erosion."""


class RegistrationConfig(Section):
    """Registration to the ICBM152 template that comes with nilearn, by SimpleITK, mutual information."""

    transform: Literal["none", "rigid", "affine"] = "none"
    """`none`: every volume keeps its position; `rigid`: rotation and translation; `affine`: also scaling and
    shearing."""


class PreprocessConfig(Section):
    """Bias field, brain, template, reorient, resample, crop or pad, scale to [-1, 1] (docs/data.md)."""

    spacing_mm: Annotated[
        Millimetres | tuple[Millimetres, Millimetres, Millimetres | Literal["native"]],
        BeforeValidator(_spacing),
    ] = 1.25
    """Voxel size of the grid, in mm (paper: 1.25): one number, or three along right, anterior, superior, the first two
    equal. With `native` as the third, as [1.25, 1.25, native], slices are resampled in plane only, and every volume
    keeps its own: for stacks of thick slices (docs/data.md)."""
    grid: tuple[PositiveInt, PositiveInt, PositiveInt] = (160, 160, 160)
    """Voxels along right, anterior, superior (paper: 160, 160, 160). With `native` slices the third is the largest
    number of slices that a volume may have."""
    bias_field: BiasFieldConfig = BiasFieldConfig()
    brain: BrainConfig = BrainConfig()
    registration: RegistrationConfig = RegistrationConfig()
    percentiles: tuple[Real, Real] = (0.5, 99.5)
    """Intensity percentiles that become -1 and 1 (paper: 0.5, 99.5)."""
    percentiles_over: Literal["foreground", "volume"] = "foreground"
    """`foreground`: percentiles of the brain mask, or without one of the head (Otsu, the largest component with holes
    filled); everything outside becomes -1. `volume`: percentiles of the whole padded volume, as in the published
    code."""

    harmonise: Literal["none", "histogram"] = "none"
    """Harmonisation of intensities between scanners before slices are cut: `histogram` maps each volume's percentiles
    to landmarks (Nyúl et al. 2000, by torchio). They are learned from the training subjects of the dataset's own split
    (`folds.use_split`), without a split from all participants."""

    @model_validator(mode="after")
    def _ordered(self):
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles: expected 0 <= low < high <= 100, found {low}, {high}")
        if self.native and self.registration.transform != "none":
            raise ValueError(
                f"spacing_mm: native slices do not fit the template's grid of registration.transform "
                f"{self.registration.transform}; give three numbers, as [{self.pixel_mm:g}, {self.pixel_mm:g}, 4], or "
                "set transform: none"
            )
        if self.harmonise == "histogram" and self.percentiles_over != "foreground":
            raise ValueError(
                f"harmonise: histogram requires percentiles_over: foreground, found {self.percentiles_over}"
            )
        return self

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel of a slice."""
        return self.spacing_mm[0] if isinstance(self.spacing_mm, tuple) else self.spacing_mm

    @property
    def slice_mm(self) -> float | None:
        """Distance between slices; None: each volume's own."""
        if self.native:
            return None
        return self.spacing_mm[2] if isinstance(self.spacing_mm, tuple) else self.spacing_mm

    @property
    def native(self) -> bool:
        """Whether volumes keep their own slices."""
        return isinstance(self.spacing_mm, tuple) and self.spacing_mm[2] == "native"

    @property
    def voxel(self) -> str:
        """The voxel size for messages."""
        sizes = self.spacing_mm if isinstance(self.spacing_mm, tuple) else (self.spacing_mm,)
        return " x ".join(size if size == "native" else f"{size:g}" for size in sizes) + " mm"
