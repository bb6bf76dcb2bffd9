"""Every flag that a participant can have, with what it means in one sentence."""

from typing import get_args

from slimdiff.config.quality import Doubt

FAULTS: dict[str, str] = {
    "missing_file": "A file that the source names is not there, or is a link to nowhere.",
    "several_images": "More than one image of the participant fits the configuration.",
    "several_masks": "More than one lesion mask of the participant fits the configuration.",
    "no_mask": "The participant has no lesion mask, though others of the same group have one.",
    "two_splits": "The participant stands in more than one split of the dataset.",
    "empty_file": "A file has no bytes.",
    "truncated": "A file ends before its last voxel, or its gzip stream is damaged.",
    "unreadable": "A file is no NIfTI volume, or its header is broken.",
    "not_3d": "An image has fewer or more than three axes, or a single voxel along one of them.",
    "not_finite": "Voxels are NaN, infinite, or so large that they are no intensities.",
    "constant": "All voxels of the image are equal.",
    "other_grid": "The mask's shape or affine is not the image's, so nobody can say where the lesion lies.",
    "mask_not_binary": "The mask has several values above 0 and the configuration does not say which are lesion.",
    "empty_mask": "No voxel of the mask is lesion.",
    "empty_brain_mask": "The source's brain mask has no voxel on the image.",
    "not_preprocessed": "The volume could not be put on the study's grid: no brain was found, the registration failed, "
    "or nothing is left there.",
}
"""A file cannot be used; nothing but mending it or leaving the participant out helps."""

DOUBTS: dict[str, str] = {
    "thick_slices": "Voxels are longer along one axis than `quality.max_spacing_mm`; its slices would be blurred.",
    "lesion_outside_brain": "More of the lesion than `quality.max_lesion_outside` lies outside the brain mask, or "
    "where there is none outside the head.",
    "flip_suspected": "The mask turned over (left to right, or along an axis of the file) sits on a brighter place "
    "than as it is stored.",
    "duplicate_image": "Another participant's image has the same voxels, however it is stored or turned.",
    "intensity_overflow": "Intensities ran over the end of a 16-bit type and came out at the other end, or were cut "
    "off there.",
    "orientation_unknown": "The image's header has sform and qform code 0, so that left, anterior and superior are "
    "only assumed.",
}
"""Somebody who has looked may know better; those of `Doubt` can be accepted by the configuration."""

MEANINGS: dict[str, str] = FAULTS | DOUBTS

ACCEPTABLE = frozenset(get_args(Doubt))
"""What `quality.accept` can name."""
