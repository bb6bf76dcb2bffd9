"""Where the volumes come from."""

from typing import Annotated, Literal

from pydantic import Field

from slimdiff.config.base import Count, NonNegative, Positive, PositiveInt, Real, Section, Seed

Entity = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
LesionLabel = Annotated[int, Field(ge=1)]


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


class FetchConfig(Section):
    """Files that the study fetches itself, checked by size and sha256; what is there already and right stays."""

    dataset: Literal["ds004199"] | None = None
    """OpenNeuro ds004199 v1.0.6 (focal cortical dysplasia, CC0, 85 patients and 85 controls) into `data.root`; nothing:
    the files are there already."""
    base_url: str | None = None
    """Where its files lie, paths of the dataset below it; nothing: the dataset's public bucket."""
    t1w: bool = False
    """Fetch the T1w images too (2.9 GB more); no stage reads them."""
    connections: PositiveInt = 8
    """Files fetched side by side."""
    attempts: PositiveInt = 5
    """Tries for a file that is cut off, slow, answered with a server's error, or wrong in its content."""
    wait_s: NonNegative = 2.0
    """Seconds before the second try; doubled before each further one."""
    timeout_s: Positive = 60.0
    """Seconds without a byte after which a connection counts as lost."""


class DataConfig(Section):
    """Which volumes and masks make up the study."""

    source: Literal["phantom", "bids", "nnunet", "brats", "table"] = "phantom"
    """`phantom` makes its own BIDS dataset; `bids` reads one; `nnunet` reads an nnU-Net raw dataset; `brats` reads
    files named case_flair, case_seg in one folder or one folder a case; `table` reads a TSV or CSV of paths."""
    root: str | None = None
    """`bids`, `nnunet`, `brats`: the dataset's folder."""
    table: str | None = None
    """`table`: a TSV or CSV with columns participant_id, image, mask (n/a: none) and optionally brain_mask, group,
    acquisition, site, split, lobe; further columns are carried along. Relative paths are relative to the table."""
    image_suffix: str | None = None
    """`bids`: the image of a subject is `sub-*_{image_suffix}.nii[.gz]` in its `anat` folder (default FLAIR); `brats`:
    `{case}_{image_suffix}` or `{case}-{image_suffix}` (default flair, or t2f)."""
    mask_suffix: str | None = None
    """`bids`: the lesion mask is `sub-*_{mask_suffix}.nii[.gz]`, although `.bidsignore` may hide it (default
    FLAIR_roi); `brats`: likewise (default seg)."""
    entities: dict[Entity, Entity] = Field(default_factory=dict)
    """`bids`: only images that have these entities in their names, for example {ses: "01", acq: T2sel}. Masks are
    matched by subject, and by session where images are."""
    mask_root: str | None = None
    """`bids`: where the masks lie, if not in `root`: a folder with the same sub-*/ tree, for example a derivative."""
    brain_suffix: str | None = None
    """`bids`: a brain mask is `sub-*_{brain_suffix}.nii[.gz]` in the image's or the mask's tree; for
    `preprocess.brain.method: source`."""
    channel: Count = 0
    """`nnunet`: the channel that is the image, the 0000 of case_0000.nii.gz."""
    lesion_labels: (
        Literal["binary", "any"] | Annotated[tuple[LesionLabel, ...], Field(min_length=1)] | None
    ) = None
    """Which mask values are lesion: `binary` (the mask has one value above 0, and anything else is an error), `any`
    (all above 0 are merged), or a list of labels; nothing: `any` for `brats`, else `binary`."""
    empty_mask: Literal["error", "control"] = "error"
    """What a mask without lesion means: a fault, or a control (usual in nnU-Net datasets)."""
    mask_grid: Literal["same", "resample"] = "same"
    """A mask on another grid than its image: a fault, or brought onto the image's by both affines (nearest voxel)."""
    groups: tuple[str, ...] = ()
    """Only subjects of these groups take part (as participants.tsv names them); empty: all."""
    two_dimensional: Literal["exclude", "include"] = "exclude"
    """`bids`: whether images whose own sidecar (the JSON beside them) says `MRAcquisitionType` 2D (thick slices) take
    part."""
    exclude: dict[str, str] = Field(default_factory=dict)
    """participant_id: reason. Excluded subjects stay in participants.tsv with their reason."""
    phantom: PhantomConfig = PhantomConfig()
    fetch: FetchConfig = FetchConfig()

    @property
    def labels(self) -> Literal["binary", "any"] | tuple[int, ...]:
        """`lesion_labels`, with the source's own default in place."""
        if self.lesion_labels is not None:
            return self.lesion_labels
        return "any" if self.source == "brats" else "binary"
