"""The training lesion that is closest to a slice's lesions, wherever it lies: a lesion can be copied alone.

Each lesion (4-connected component of the mask) becomes a patch about its centroid: its smoothed mask, and the smoothed
image inside it. What surrounds the lesion is no part of it, because a copied lesion has another surrounding.
"""

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.copies.distinct import distinct

RADIUS_PX = 9
"""Half the side of a patch; what lies outside is not compared."""
SMOOTHING_PX = 1.0
"""Standard deviation of the smoothing: a lesion that was moved by a part of a pixel was interpolated."""
SHIFTS_PX = (-0.5, 0.0, 0.5)
"""Rows and columns by which a lesion is moved beside its alignment, in all combinations, as it is and mirrored."""
IMAGE_WEIGHT = 1.0
"""Weight of the squared difference of images, where that of masks has 1."""


def lesion_patches(
    images: np.ndarray,
    masks: np.ndarray,
    tau: float,
    min_px: int,
    shifts: tuple[float, ...] = (0.0,),
    mirrored: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The patches of all lesions, the slice of each patch, and the lesion of each patch.

    Args:
        images: (N, H, W) in [-1, 1].
        masks: (N, H, W) in [-1, 1], 1 inside a lesion.
        tau: threshold of the masks.
        min_px: lesions with fewer pixels are left out.
        shifts: moves along rows and along columns, in px.
        mirrored: whether each patch follows as its mirror image (left to right), too.

    Returns:
        (P, D) float32, with equal norm where a lesion has any contrast inside, and (P,) int64 twice: slice and lesion.
    """
    patches, owners, numbers, lesions = [], [], [], -1
    for number in range(len(images)):
        mask = np.asarray(masks[number], np.float32)
        labels, count = ndimage.label(mask > tau)
        if not count:
            continue
        level = (np.asarray(images[number], np.float32) + 1) / 2
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            own = labels == label
            if own[box].sum() < min_px:
                continue
            lesions += 1
            # The mask's own values, one pixel beyond the threshold: a lesion between pixels has a soft border.
            share = np.clip((mask + 1) / 2, 0, 1) * ndimage.binary_dilation(own)
            centre = np.array(ndimage.center_of_mass(share))
            shape, inside = (ndimage.gaussian_filter(part, SMOOTHING_PX) for part in (share, share * level))
            for patch in _around(inside, shape, centre, shifts, mirrored):
                patches.append(patch)
                owners.append(number)
                numbers.append(lesions)
    dim = 2 * (2 * RADIUS_PX + 1) ** 2
    found = np.stack(patches) if patches else np.empty((0, dim), np.float32)
    return found, np.array(owners, np.int64), np.array(numbers, np.int64)


def _around(level: np.ndarray, shape: np.ndarray, centre: np.ndarray, shifts, mirrored: bool):
    """The patches of one lesion; level: the smoothed product of image and mask, shape: the smoothed mask."""
    steps = np.arange(-RADIUS_PX, RADIUS_PX + 1)
    mean = level.sum() / shape.sum()
    for down in shifts:
        for right in shifts:
            places = np.meshgrid(centre[0] + down + steps, centre[1] + right + steps, indexing="ij")
            inside, grey = (ndimage.map_coordinates(part, places, order=3) for part in (shape, level))
            norm = np.sqrt((inside**2).sum()) + 1e-6
            parts = [inside / norm, IMAGE_WEIGHT * (grey - mean * inside) / norm]
            yield np.concatenate([part.ravel() for part in parts]).astype(np.float32)
            if mirrored:
                yield np.concatenate([part[:, ::-1].ravel() for part in parts]).astype(np.float32)


def closest_lesion(
    images: np.ndarray,
    masks: np.ndarray,
    known: np.ndarray,
    owners: np.ndarray,
    persons: np.ndarray,
    tau: float,
    min_px: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest ratio (`distinct`) of a slice's lesions to the training lesions, and that lesion's training slice.

    Args:
        images, masks: (N, H, W) in [-1, 1], the slices.
        known, owners: patches of the training lesions and the training slice of each, from `lesion_patches`.
        persons: person of each training lesion.
        tau: threshold of the masks.
        min_px: lesions with fewer pixels are left out.

    Returns:
        (N,) float64 and (N,) int64; NaN and -1 for a slice without a lesion, or without training lesions.
    """
    distance, index = np.full(len(images), np.nan), np.full(len(images), -1, np.int64)
    patches, slices, lesions = lesion_patches(images, masks, tau, min_px, SHIFTS_PX, mirrored=True)
    found, place = distinct(patches, known, np.zeros(len(patches)), np.zeros(len(known)), persons, lesions)
    slice_of = slices[np.flatnonzero(np.diff(lesions, prepend=-1))]
    for lesion in np.argsort(-found, kind="stable"):  # the closest one comes last, and stays
        if place[lesion] >= 0:
            distance[slice_of[lesion]], index[slice_of[lesion]] = found[lesion], owners[place[lesion]]
    return distance, index
