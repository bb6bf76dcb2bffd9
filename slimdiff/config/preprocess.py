"""From a clinical volume to the study's grid."""

from typing import Literal

from pydantic import model_validator

from slimdiff.config.base import Positive, PositiveInt, Real, Section


class PreprocessConfig(Section):
    """Reorient, resample, crop or pad, scale to [-1, 1] (docs/method.md, steps 1-5)."""

    spacing_mm: Positive = 1.25
    """Isotropic voxel size of the grid, in mm (paper: 1.25)."""
    grid: tuple[PositiveInt, PositiveInt, PositiveInt] = (160, 160, 160)
    """Voxels along right, anterior, superior (paper: 160, 160, 160)."""
    percentiles: tuple[Real, Real] = (0.5, 99.5)
    """Intensity percentiles that become -1 and 1 (paper: 0.5, 99.5)."""
    percentiles_over: Literal["foreground", "volume"] = "foreground"
    """Where the percentiles are taken; `foreground` is Otsu's largest component with holes filled and sets
    everything outside to -1, `volume` is the reference's whole padded volume."""

    @model_validator(mode="after")
    def _ordered(self):
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {low}, {high}: 0 <= low < high <= 100 is wanted")
        return self
