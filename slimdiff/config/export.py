"""What is handed to segmentation tools."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from slimdiff.config.base import Real, Section

Format = Literal["bids", "nnunet", "monai", "png"]
MAX_NNUNET_ID = 999


class ExportConfig(Section):
    """Forms of the export, and which samples are in it (`snakemake --cores all export`)."""

    formats: tuple[Format, ...] = Field(default=("bids", "nnunet", "monai", "png"), min_length=1)
    """`bids`: the synthetic pairs as a derivative dataset; `nnunet`: an nnU-Net v2 raw dataset of real and synthetic
    slices with its split; `monai`: the same slices with a datalist; `png`: the synthetic pairs as pictures."""
    tau: Annotated[Real, Field(gt=-1, lt=1)] = 0.0
    """Mask threshold: a sample's mask is lesion above it."""
    without_suspects: bool = False
    """Whether samples are left out that the memorisation metric flagged in any of its spaces (flagged.tsv lists them);
    the export then waits for the metrics."""
    skull_stripped: bool | None = None
    """`bids`: whether the images are without skull, which BIDS demands to be told; `null`: as the sidecars (the JSON
    beside them) of the source images say, and no where they do not."""
    nnunet_first_id: Annotated[int, Field(ge=1, le=MAX_NNUNET_ID)] = 501
    """nnU-Net's number of the first dataset; variants and folds count upwards from it, to 999 at most."""

    @field_validator("formats")
    @classmethod
    def _no_format_twice(cls, formats):
        if len(set(formats)) < len(formats):
            raise ValueError("a format stands there twice")
        return formats
