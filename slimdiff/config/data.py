"""Where the volumes come from."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from slimdiff.config.base import (
    Count,
    Fraction,
    InheritingSection,
    PathText,
    Positive,
    PositiveInt,
    Section,
    Seed,
    ShownText,
    WordOnly,
)

LesionLabel = Annotated[int, Field(ge=1)]
PICTURES = (".png", ".tif", ".tiff", ".jp2", ".j2k", ".npy")
"""Endings of the pictures that can be read."""
PART = re.compile(r"\{(\w*)\}")
PLACES = ("z", "height")
MODALITIES = {
    **dict.fromkeys(("flair", "t2f", "t2flair"), "FLAIR"),
    **dict.fromkeys(("t1", "t1w", "t1n", "t1c", "t1ce", "t1gd", "mprage", "mp2rage"), "T1w"),
    **dict.fromkeys(("t2", "t2w"), "T2w"),
    **dict.fromkeys(("pd", "pdw"), "PDw"),
    **dict.fromkeys(("t2star", "t2starw"), "T2starw"),
    **{name.lower(): name for name in ("UNIT1", "ADC", "DWI", "SWI", "CT", "PET")},
}
"""Names of images in lower case, and what they are, as a BIDS suffix if there is one."""
MODALITY = ("data.modality", "data.source", "data.image_suffix")
"""Keys that decide `DataConfig.modality_name`: a stage that reads volumes must have them in NEEDS."""


class PhantomConfig(InheritingSection):
    """The demo's cohort, which needs no data: ICBM152 anatomy with synthetic lesions, voxels of 2 mm."""

    patients: PositiveInt = 16
    """Subjects with one lesion each."""
    controls: Count = 8
    """Subjects without a lesion."""
    seed: Seed | None = None
    """Seed of the cohort; null: the study's. Each subject's stream is derived from it and the subject's name."""


class AnatomyConfig(Section):
    """Heads that are drawn while a network is trained on them (`slimdiff pretrain`, docs/pretraining.md)."""

    contrast: Literal["flair", "any"] = "flair"
    """`flair`: dark fluid, grey matter brighter than white, lesions bright; `any`: every tissue of any brightness."""
    skull: Fraction = 0.0
    """Share of the heads with fluid, bone and scalp around the brain; the others are brains alone."""


class FetchConfig(Section):
    """Files that the study downloads, checked by size and sha256. Files that are present and correct are kept."""

    dataset: Literal["ds004199"] | None = None
    """OpenNeuro ds004199 v1.0.6 (focal cortical dysplasia, CC0, 85 patients and 85 controls), into `data.root`; its
    T1w images (2.9 GB more) only if `data.image_suffix` is T1w. null: the files are already there."""
    base_url: str | None = None
    """Address of a mirror that has the dataset's paths below it; null: the dataset's public bucket."""


class StackConfig(Section):
    """Slices as pictures (`source: slices`): PNG, TIFF, JPEG-2000 or NPY, one file a slice (docs/data.md)."""

    image: str | None = None
    """Pattern of the images' paths below `data.root`, with named parts: `{participant}/{participant}_{z}.tif`. It
    requires {participant}, and {z} (whole number) or {height} (0 to 1). {site}, {group}, {split}, {person}, {lobe} and
    {acquisition} are read, other parts become further columns; * is any text. null: `data.table` lists the slices."""
    mask: str | None = None
    """Pattern of the masks' paths, likewise. A mask belongs to the image with the same participant and z or height."""
    pixel_mm: Positive | None = None
    """Size of a pixel, in mm, of every picture; the smaller pictures of a participant are padded. If it is unknown, a
    nominal one. Either this or `field_mm`."""
    field_mm: Positive | None = None
    """Width of every picture, in mm, whatever its number of pixels: the smaller pictures of a participant are scaled
    up."""
    distance_mm: Positive | None = None
    """Distance between slices z and z + 1, in mm. Either this or `height_mm`."""
    height_mm: Positive | None = None
    """If the distance is unknown: slices are placed by relative height, and the brain, from the first to the last
    slice that shows it, has this nominal height in mm (preprocess.spacing_mm times the grid's depth fills the grid)."""
    orientation: Annotated[str, Field(pattern=r"^([LR][AP]|[AP][LR])[SI]$")] = "LPS"
    """Where columns, rows and z increase to: L or R, A or P, S or I. LPS: the left of the picture is the patient's
    right, the top is anterior, and z increases upwards."""
    gaps: Literal["error", "nearest"] = "error"
    """Numbers z without a file, between the first and the last slice of a participant: an error, or the nearest slice
    is used."""
    missing_mask: Literal["error", "lesion_free"] = "error"
    """A slice without a mask, of a participant with masks: an error, or a slice without lesion."""

    @field_validator("image", "mask")
    @classmethod
    def _pattern(cls, pattern):
        if pattern is None:
            return None
        names = PART.findall(pattern)
        found = f"found {pattern!r}"
        if re.search(r"[{}]", PART.sub("", pattern)) or not all(name.isidentifier() for name in names):
            raise ValueError(f"expected named parts such as {{participant}}, {found}")
        if "participant" not in names or len(set(names) & set(PLACES)) != 1:
            raise ValueError(f"expected {{participant}}, and either {{z}} or {{height}}, {found}")
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ValueError(f"expected a path below data.root, {found}")
        if not pattern.lower().endswith((*PICTURES, ".*")):
            raise ValueError(f"expected a name that ends in {', '.join(PICTURES)} or .*, {found}")
        return pattern

    @model_validator(mode="after")
    def _one_of_each(self):
        for one, other in (("pixel_mm", "field_mm"), ("distance_mm", "height_mm")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"expected {one} or {other}, found both; delete one of them")
        if (self.image is None) != (self.mask is None):
            raise ValueError("expected a pattern for image and one for mask, found only one of them")
        if self.image and self.height_mm is None and "height" in PART.findall(self.image):
            raise ValueError("image has {height}, which requires height_mm; found null")
        return self


class DataConfig(Section):
    """Which volumes and masks make up the study (docs/data.md)."""

    source: Literal["phantom", "bids", "nnunet", "brats", "table", "slices"] = "phantom"
    """`phantom` makes its own BIDS dataset; `bids` reads one; `nnunet` reads an nnU-Net raw dataset; `brats` reads
    files named case_flair and case_seg, in one folder or one folder per case; `table` reads a TSV or CSV of paths;
    `slices` reads 2-D pictures, one file a slice."""
    root: PathText | None = None
    """`bids`, `nnunet`, `brats`, `slices`: the dataset's folder. In all paths `~` and environment variables such as
    $SCRATCH are replaced when the study is loaded."""
    table: PathText | None = None
    """`table`: a TSV or CSV with the columns participant_id, image and mask (n/a: no mask). Optional columns:
    brain_mask, group, acquisition, site, split, lobe, person (one value for all scans of a person). Further columns are
    kept. Relative paths are relative to the table. `slices`: one row a slice, with a column z (whole number) or height
    (0 to 1) more; a participant whose masks are all n/a has none."""
    slices: StackConfig = StackConfig()
    image_suffix: str | None = None
    """`bids`: a subject's image is `sub-*_{image_suffix}.nii[.gz]` in its `anat` folder; null: FLAIR. `brats`:
    `{case}_{image_suffix}` or `{case}-{image_suffix}`; null: flair or t2f."""
    modality: Annotated[str, Field(pattern="^[A-Za-z0-9]+$")] | None = None
    """What the images are: FLAIR, T1w, T2w ... (a BIDS suffix, letters and digits), as named in the files of volumes,
    in exports and captions; null: from `image_suffix` where it is set, else FLAIR. A lesion that is brighter than its
    surroundings is expected of FLAIR and T2w only (flag `flip_suspected`)."""
    mask_suffix: str | None = None
    """`bids`: the lesion mask is `sub-*_{mask_suffix}.nii[.gz]`, even if `.bidsignore` lists it; null: FLAIR_roi.
    `brats`: likewise; null: seg."""
    entities: dict[WordOnly, WordOnly] = Field(default_factory=dict)
    """`bids`: which image counts if a subject has several, for example {ses: "01", acq: T2sel}; 1 is 01. An image with
    another value is dropped, but an only image without the entity and an only run are kept. Masks are matched by
    subject, and by session if images are."""
    entities_may_drop: Fraction = 0.2
    """`bids`: largest share of the subjects with images that `entities` may drop; more are an error."""
    mask_root: PathText | None = None
    """`bids`: folder of the masks, with the same sub-*/ tree, for example a derivative; null: `root`."""
    brain_suffix: str | None = None
    """`bids`: a brain mask is `sub-*_{brain_suffix}.nii[.gz]` in the tree of the image or the mask; required by
    `preprocess.brain.method: source`."""
    channel: Count | None = None
    """`nnunet`: number of the image's channel, the 0000 of case_0000.nii.gz; null: 0. `slices`: channel of a picture
    with several, 0 first; null: pictures have one channel, or equal ones."""
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
    """Meaning of a mask without lesion: an error, or a control (usual in nnU-Net datasets). A participant whose stated
    group is one of patients, by name or by the lesions of others, is settled by `patients_without_mask` instead."""
    several_masks: Literal["error", "union"] = "error"
    """`bids`: several lesion masks of one image are an error, or the lesion is their union."""
    patients_without_mask: Literal["error", "exclude", "control"] | None = None
    """`bids`, `table`, `slices`: members without a mask of a group in which others have one (such as MRI-negative
    patients), and participants with neither mask nor group where others have a group: an error, excluded, or used as
    `control`, whose slices are learned as lesion-free; null: exclude where `table` lists them, else error."""
    mask_grid: Literal["same", "voxels", "resample"] = "same"
    """A mask on another grid than its image: an error (`same`); resampled by both affines (`resample`, nearest voxel);
    or taken voxel by voxel (`voxels`), if both have the same shape, and either the mask has the affine of the image's
    other form (sform and qform differ) or one of the headers gives no position (no form, or axes along the world's
    with origin 0, as scripts write it)."""
    groups: tuple[str, ...] = ()
    """Only subjects of these groups, as named in participants.tsv (case and plural do not count; `control` and
    `patient` have synonyms such as hc and case); empty: all."""
    two_dimensional: Literal["exclude", "include"] = "exclude"
    """`bids`: whether to include images whose sidecar (the JSON beside them) says `MRAcquisitionType` 2D (thick
    slices). With native slices (`preprocess.spacing_mm`) the default is `include`."""
    exclude: dict[str, ShownText] = Field(default_factory=dict)
    """participant_id: reason. Excluded subjects stay in participants.tsv, with the reason."""
    phantom: PhantomConfig = PhantomConfig()
    anatomy: AnatomyConfig = AnatomyConfig()
    fetch: FetchConfig = FetchConfig()

    @model_validator(mode="after")
    def _threshold_or_labels(self):
        if self.mask_threshold is not None and isinstance(self.lesion_labels, tuple):
            raise ValueError(
                "mask_threshold: expected lesion_labels binary or any with it, found a list of labels; soft masks have "
                "no labels"
            )
        return self

    @model_validator(mode="after")
    def _modality_of_the_suffix(self):
        if not self.modality_name.isalnum() or self.modality_name.lower() == "mask":
            raise ValueError(
                f"modality: expected what the images are, such as FLAIR or T1w, found {self.modality or 'null'}"
                + ("" if self.modality else f", and image_suffix {self.image_suffix} does not say it")
            )
        return self

    @property
    def modality_name(self) -> str:
        """`modality`, or what the suffix of the images says."""
        if self.modality is not None:
            return self.modality
        if self.source not in ("bids", "brats") or self.image_suffix is None:
            return "FLAIR"
        suffix = self.image_suffix.rpartition("_")[2]
        return MODALITIES.get(suffix.lower(), suffix)

    @property
    def on_patients_without_mask(self) -> Literal["error", "exclude", "control"]:
        """`patients_without_mask`, or the source's default: a table states that there is no mask, a folder does not."""
        return self.patients_without_mask or ("exclude" if self.listed else "error")

    @property
    def listed(self) -> bool:
        """Whether a table of the user lists the files."""
        return self.source == "table" or (self.source == "slices" and self.table is not None)

    @property
    def labels(self) -> Literal["binary", "any"] | tuple[int, ...]:
        """`lesion_labels`, or the source's default."""
        if self.lesion_labels is not None:
            return self.lesion_labels
        return "any" if self.source == "brats" else "binary"
