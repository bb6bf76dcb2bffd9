"""Where the volumes come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimdiff.config.base import (
    Count,
    Fraction,
    InheritingSection,
    PathText,
    PositiveInt,
    Section,
    Seed,
    WordOnly,
)

LesionLabel = Annotated[int, Field(ge=1)]


class PhantomConfig(InheritingSection):
    """The demo's cohort, which needs no data: ICBM152 anatomy with synthetic lesions, voxels of 2 mm."""

    patients: PositiveInt = 16
    """Subjects with one lesion each."""
    controls: Count = 8
    """Subjects without a lesion."""
    seed: Seed | None = None
    """Seed of the cohort; null: the study's. Each subject's stream is derived from it and the subject's name."""


class FetchConfig(Section):
    """Files that the study downloads, checked by size and sha256. Files that are present and correct are kept."""

    dataset: Literal["ds004199"] | None = None
    """OpenNeuro ds004199 v1.0.6 (focal cortical dysplasia, CC0, 85 patients and 85 controls), into `data.root`; its
    T1w images (2.9 GB more) only if `data.image_suffix` is T1w. null: the files are already there."""
    base_url: str | None = None
    """Address of a mirror that has the dataset's paths below it; null: the dataset's public bucket."""


class DataConfig(Section):
    """Which volumes and masks make up the study (docs/data.md)."""

    source: Literal["phantom", "bids", "nnunet", "brats", "table"] = "phantom"
    """`phantom` makes its own BIDS dataset; `bids` reads one; `nnunet` reads an nnU-Net raw dataset; `brats` reads
    files named case_flair and case_seg, in one folder or one folder per case; `table` reads a TSV or CSV of paths."""
    root: PathText | None = None
    """`bids`, `nnunet`, `brats`: the dataset's folder. In all paths `~` and environment variables such as $SCRATCH are
    replaced when the study is loaded."""
    table: PathText | None = None
    """`table`: a TSV or CSV with the columns participant_id, image and mask (n/a: no mask). Optional columns:
    brain_mask, group, acquisition, site, split, lobe, person (one value for all scans of a person). Further columns are
    kept. Relative paths are relative to the table."""
    image_suffix: str | None = None
    """`bids`: a subject's image is `sub-*_{image_suffix}.nii[.gz]` in its `anat` folder; null: FLAIR. `brats`:
    `{case}_{image_suffix}` or `{case}-{image_suffix}`; null: flair or t2f."""
    mask_suffix: str | None = None
    """`bids`: the lesion mask is `sub-*_{mask_suffix}.nii[.gz]`, even if `.bidsignore` lists it; null: FLAIR_roi.
    `brats`: likewise; null: seg."""
    entities: dict[WordOnly, WordOnly] = Field(default_factory=dict)
    """`bids`: which image counts if a subject has several, for example {ses: "01", acq: T2sel}; 1 is 01. An image with
    another value is dropped; an only image without the entity is kept. Masks are matched by subject, and by session if
    images are."""
    entities_may_drop: Fraction = 0.2
    """`bids`: largest share of the subjects with images that `entities` may drop; more are an error."""
    mask_root: PathText | None = None
    """`bids`: folder of the masks, with the same sub-*/ tree, for example a derivative; null: `root`."""
    brain_suffix: str | None = None
    """`bids`: a brain mask is `sub-*_{brain_suffix}.nii[.gz]` in the tree of the image or the mask; required by
    `preprocess.brain.method: source`."""
    channel: Count = 0
    """`nnunet`: number of the image's channel, the 0000 of case_0000.nii.gz."""
    lesion_labels: (
        Literal["binary", "any"] | Annotated[tuple[LesionLabel, ...], Field(min_length=1)] | None
    ) = None
    """Mask values that are lesion: `binary` (one value above 0; more are an error), `any` (all values above 0), or a
    list of labels; null: `any` for `brats`, else `binary`."""
    mask_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Soft masks (probabilities, smoothed or resampled labels): lesion is where the value exceeds this share of the
    mask's largest value, or of 1 if that is below 1; 0.5 is usual. null: masks have whole numbers, and any other is an
    error. With `lesion_labels` `binary` or `any`."""
    empty_mask: Literal["error", "control"] = "error"
    """Meaning of a mask without lesion: an error, or a control (usual in nnU-Net datasets)."""
    several_masks: Literal["error", "union"] = "error"
    """`bids`: several lesion masks of one image are an error, or the lesion is their union."""
    patients_without_mask: Literal["error", "exclude", "control"] | None = None
    """`bids`, `table`: members without a mask of a group in which others have one (such as MRI-negative patients): an
    error, excluded, or used as `control`, whose slices are learned as lesion-free; null: exclude for `table`, else
    error."""
    mask_grid: Literal["same", "voxels", "resample"] = "same"
    """A mask on another grid than its image: an error (`same`); resampled by both affines (`resample`, nearest voxel);
    or taken voxel by voxel (`voxels`), if both have the same shape, and either the mask has the affine of the image's
    other form (sform and qform differ) or one of the headers gives no position."""
    groups: tuple[str, ...] = ()
    """Only subjects of these groups, as named in participants.tsv (case and plural do not count; `control` and
    `patient` have synonyms such as hc and case); empty: all."""
    two_dimensional: Literal["exclude", "include"] = "exclude"
    """`bids`: whether to include images whose sidecar (the JSON beside them) says `MRAcquisitionType` 2D (thick
    slices). With native slices (`preprocess.spacing_mm`) the default is `include`."""
    exclude: dict[str, str] = Field(default_factory=dict)
    """participant_id: reason. Excluded subjects stay in participants.tsv, with the reason."""
    phantom: PhantomConfig = PhantomConfig()
    fetch: FetchConfig = FetchConfig()

    @model_validator(mode="after")
    def _threshold_or_labels(self):
        if self.mask_threshold is not None and isinstance(self.lesion_labels, tuple):
            raise ValueError(
                "mask_threshold: expected lesion_labels binary or any with it, found a list of labels; soft masks have "
                "no labels"
            )
        return self

    @property
    def on_patients_without_mask(self) -> Literal["error", "exclude", "control"]:
        """`patients_without_mask`, or the source's default: a table states that there is no mask, a folder does not."""
        return self.patients_without_mask or ("exclude" if self.source == "table" else "error")

    @property
    def labels(self) -> Literal["binary", "any"] | tuple[int, ...]:
        """`lesion_labels`, or the source's default."""
        if self.lesion_labels is not None:
            return self.lesion_labels
        return "any" if self.source == "brats" else "binary"
