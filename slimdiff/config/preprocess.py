"""From a clinical volume to the study's grid."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Fraction, Positive, PositiveInt, Real, Section, Seed


class BiasFieldConfig(Section):
    """N4 bias field correction (Tustison et al. 2010), by SimpleITK."""

    n4: bool = False
    """Whether it is done; not where the data are corrected already."""
    shrink: PositiveInt = 4
    """The field is estimated on every so many voxels, never on fewer than 32 along an axis."""
    iterations: tuple[PositiveInt, ...] = (50, 50, 30, 20)
    """Most iterations at each fitting level."""


class BrainConfig(Section):
    """Brain extraction: everything outside the brain becomes background."""

    method: Literal["none", "deepbet", "source"] = "none"
    """`none`: the volumes are extracted already, or the head is wanted; `deepbet`: its network (Fisch et al. 2024),
    whose weights come with the package; `source`: a brain mask that the source brings (`data.brain_suffix`, or the
    table's brain_mask)."""
    threshold: Fraction = 0.5
    """`deepbet`: probability above which a voxel is brain."""
    dilate_mm: Annotated[Real, Field(ge=-10, le=10)] = 0.0
    """`deepbet`, `source`: the mask grown (or, below 0, shrunk) by so much."""


class RegistrationConfig(Section):
    """Registration to the ICBM152 template that nilearn brings, by SimpleITK, mutual information."""

    transform: Literal["none", "rigid", "affine"] = "none"
    """`none`: every volume keeps its place; `rigid`: turned and moved; `affine`: also scaled and sheared."""
    sampling: Annotated[Fraction, Field(gt=0)] = 0.2
    """Share of voxels that the metric looks at."""
    seed: Seed = 0
    """Of which voxels these are."""


class PreprocessConfig(Section):
    """Bias field, brain, template, reorient, resample, crop or pad, scale to [-1, 1] (docs/data.md)."""

    spacing_mm: Positive = 1.25
    """Isotropic voxel size of the grid, in mm (paper: 1.25)."""
    grid: tuple[PositiveInt, PositiveInt, PositiveInt] = (160, 160, 160)
    """Voxels along right, anterior, superior (paper: 160, 160, 160)."""
    bias_field: BiasFieldConfig = BiasFieldConfig()
    brain: BrainConfig = BrainConfig()
    registration: RegistrationConfig = RegistrationConfig()
    percentiles: tuple[Real, Real] = (0.5, 99.5)
    """Intensity percentiles that become -1 and 1 (paper: 0.5, 99.5)."""
    percentiles_over: Literal["foreground", "volume"] = "foreground"
    """Where the percentiles are taken; `foreground` is the brain mask where there is one, else Otsu's largest component
    with holes filled, and sets everything outside to -1; `volume` is the reference's whole padded volume."""

    @model_validator(mode="after")
    def _ordered(self):
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {low}, {high}: 0 <= low < high <= 100 is wanted")
        return self
