"""What is exported for segmentation tools."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from slimdiff.config.base import InheritingSection, Tau

Format = Literal["bids", "nnunet", "monai", "png"]
MAX_NNUNET_ID = 999


class ExportConfig(InheritingSection):
    """Formats of the export, and which samples it contains (`snakemake --cores all export`)."""

    formats: tuple[Format, ...] = Field(default=("bids", "nnunet", "monai", "png"), min_length=1)
    """`bids`: synthetic pairs as a derivative dataset; `nnunet`: an nnU-Net v2 raw dataset of real and synthetic slices
    with its split; `monai`: the same slices with a datalist; `png`: synthetic pairs as PNG files."""
    tau: Tau | None = None
    """Mask threshold: a pixel above it is lesion; null: the study's."""
    without_suspects: bool = False
    """Whether to leave out samples that the memorisation metrics flag (flagged.tsv); the export then runs after the
    metrics."""
    without_outliers: bool = False
    """Whether to leave out broken samples (`outlier` is 1 in outliers.tsv)."""
    skull_stripped: bool | None = None
    """`bids`: value of SkullStripped, which BIDS requires; null: as the sidecars (the JSON beside them) of the source
    images say, and false if they say nothing."""
    nnunet_first_id: Annotated[int, Field(ge=1, le=MAX_NNUNET_ID)] = 501
    """nnU-Net's number of the first dataset; variants and folds count upwards from it, to 999 at most."""

    @field_validator("formats")
    @classmethod
    def _unique(cls, formats):
        if len(set(formats)) < len(formats):
            raise ValueError("duplicate format; remove one")
        return formats
