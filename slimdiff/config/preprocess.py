"""From a clinical volume to the study's grid."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import Positive, PositiveInt, Real, Section


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
        if self.harmonise == "histogram" and self.percentiles_over != "foreground":
            raise ValueError(
                f"harmonise: histogram requires percentiles_over: foreground, found {self.percentiles_over}"
            )
        return self
