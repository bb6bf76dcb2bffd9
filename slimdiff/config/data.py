"""Where the volumes come from."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import Count, PositiveInt, Real, Section, Seed


class PhantomConfig(Section):
    """The cohort that needs no data: ICBM152 anatomy with drawn lesions."""

    patients: PositiveInt = 16
    """Subjects with one lesion each."""
    controls: Count = 8
    """Subjects without a lesion."""
    seed: Seed = 0
    """Seed of the cohort; each subject's own stream is derived from it and the subject's name."""
    voxel_mm: Annotated[Real, Field(ge=1, le=6)] = 2.0
    """Isotropic voxel size of the written volumes, in mm."""


class DataConfig(Section):
    """Which volumes and masks make up the study."""

    source: Literal["phantom", "bids", "table"] = "phantom"
    """`phantom` makes its own BIDS dataset; `bids` reads one; `table` reads a TSV or CSV of paths."""
    root: str | None = None
    """`bids`: the dataset's folder."""
    table: str | None = None
    """`table`: a TSV or CSV with columns participant_id, image, mask (n/a: none) and optionally group,
    acquisition, site, split, lobe. Relative paths are relative to the table."""
    image_suffix: str = "FLAIR"
    """`bids`: the image of a subject is `sub-*_{image_suffix}.nii[.gz]` in its `anat` folder."""
    mask_suffix: str = "FLAIR_roi"
    """`bids`: the lesion mask is `sub-*_{mask_suffix}.nii[.gz]`, although `.bidsignore` may hide it."""
    groups: tuple[str, ...] = ()
    """Only subjects of these groups take part (as participants.tsv names them); empty: all."""
    two_dimensional: Literal["exclude", "include"] = "exclude"
    """`bids`: whether images whose own sidecar (the JSON beside them) says `MRAcquisitionType` 2D (thick slices) take
    part."""
    exclude: dict[str, str] = Field(default_factory=dict)
    """participant_id: reason. Excluded subjects stay in participants.tsv with their reason."""
    phantom: PhantomConfig = PhantomConfig()
