"""All flags of participants, each with its meaning in one sentence."""

from typing import get_args

from slimdiff.config.quality import Doubt

FAULTS: dict[str, str] = {
    "missing_file": "A file named by the source does not exist, is a broken link, or its content was not fetched.",
    "several_images": "More than one image of the participant matches the configuration.",
    "several_masks": "More than one lesion mask matches the configuration, and `data.several_masks` is error.",
    "no_mask": "The participant has no lesion mask, but others of the same group have one, it has no group and others "
    "have one, or a file of it looks like a lesion mask.",
    "two_splits": "The participant, or scans of its person, are in more than one split of the dataset.",
    "empty_file": "A file has no bytes.",
    "truncated": "A file ends before its last voxel, or its gzip stream is damaged.",
    "unreadable": "A file is not a NIfTI volume, or its header is damaged; or it is not a picture that can be read.",
    "missing_slice": "A number between the first and the last slice of the participant has no file, or the relative "
    "heights of its slices are not at equal distances.",
    "slices_differ": "The slices of the participant are not of one type, such as 8 bit.",
    "not_3d": "An image does not have three axes, or has a single voxel along one of them.",
    "not_finite": "Voxels are NaN, infinite, or too large for an intensity.",
    "constant": "All voxels of the image are equal.",
    "other_grid": "The mask's shape or affine differs from the image's, so the position of the lesion is unknown.",
    "mask_not_binary": "The mask has several values above 0, or values below 0, and the configuration names "
    "neither those of the lesion nor a threshold.",
    "empty_mask": "No voxel of the mask is above 0.",
    "other_labels": "The mask has voxels that are not 0, but none with a label of the lesion.",
    "empty_brain_mask": "The source's brain mask has no voxel within the image.",
    "not_preprocessed": "The volume could not be resampled to the study's grid: no brain was found, the registration "
    "failed, or no head or lesion is left on the grid.",
}
"""A file cannot be used: fix it or exclude the participant."""

DOUBTS: dict[str, str] = {
    "thick_slices": "Voxels are longer than `quality.max_spacing_mm` along one axis that is resampled; slices would be "
    "blurred.",
    "lesion_outside_brain": "More of the lesion than `quality.max_lesion_outside` allows lies outside the brain mask, "
    "or outside the head if there is no brain mask.",
    "implausible_lesion": "The lesion is larger than 300 ml, or than 30 % of the brain mask (without one: the head), "
    "or smaller than 3 voxels.",
    "background_within": "The value outside the brain lies within the intensities of the brain, as in a stripped image "
    "scaled to a mean of 0; the background counts as darker than the brain.",
    "image_quality": "A measure of image quality is far worse than those of the cohort.",
    "field_of_view": "Without registration, the z-range misses more than 25 mm of the head at the vertex, or the "
    "heights of the cohort's heads differ by more than 20 mm.",
    "forms_differ": "The sform and qform of the image's header place voxels more than a voxel apart; the sform counts.",
    "flip_suspected": "The lesion has a higher contrast if its mask is flipped (left to right, or along an axis of the "
    "file) than as stored.",
    "duplicate_image": "Another participant's image has the same voxels, possibly stored in another format or order.",
    "intensity_overflow": "Intensities exceeded the range of a 16-bit type and were wrapped or clipped.",
    "orientation_unknown": "The image's header has sform and qform code 0, so the directions of its axes are "
    "assumed.",
}
"""A file may be correct despite such a flag; inspect it. `quality.accept` can accept the flags in `Doubt`."""

MEANINGS: dict[str, str] = FAULTS | DOUBTS

ACCEPTABLE = frozenset(get_args(Doubt))
"""Flags that `quality.accept` can name."""
