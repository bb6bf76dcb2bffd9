"""The training lesion that is closest to a slice's lesions, wherever it lies: a lesion can be copied alone.

Each lesion (4-connected component of the mask) becomes a patch about its centroid: its smoothed mask, and the smoothed
image inside it. What surrounds the lesion is no part of it, because a copied lesion has another surrounding.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.copies.distinct import distinct

RADIUS_PX = 9
"""Half the side of a patch; what lies outside is not compared."""
SMOOTHING_PX = 1.0
"""Standard deviation of the smoothing: a lesion that was moved by a part of a pixel was interpolated."""
HALVES_PX = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
"""Moves along rows and columns of each training lesion: interpolation smooths a lesion that lies between pixels."""
IMAGE_WEIGHT = 1.0
"""Weight of the squared difference of images, where that of masks has 1."""


def lesion_patches(
    images: np.ndarray,
    masks: np.ndarray,
    tau: float,
    min_px: int,
    moves: Sequence[tuple[float, float]] = ((0.0, 0.0),),
    mirrored: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The patches of all lesions, the slice of each patch, and the lesion of each patch.

    Args:
        images: (N, H, W) in [-1, 1].
        masks: (N, H, W) in [-1, 1], 1 inside a lesion.
        tau: threshold of the masks.
        min_px: lesions with fewer pixels are left out.
        moves: along rows and columns, in px, by linear interpolation; a patch for each.
        mirrored: whether each patch follows as its mirror image (left to right), too.

    Returns:
        (P, D) float32, and (P,) int64 twice: slice and lesion.
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
            for move in moves:
                for patch in _patches(*_moved(level, share, move), mirrored):
                    patches.append(patch)
                    owners.append(number)
                    numbers.append(lesions)
    dim = 2 * (2 * RADIUS_PX + 1) ** 2
    found = np.stack(patches) if patches else np.empty((0, dim), np.float32)
    return found, np.array(owners, np.int64), np.array(numbers, np.int64)


def _moved(level: np.ndarray, share: np.ndarray, move: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    if move == (0.0, 0.0):
        return level, share
    return ndimage.shift(level, move, order=1, mode="nearest"), ndimage.shift(share, move, order=1)


def _patches(level: np.ndarray, share: np.ndarray, mirrored: bool) -> Iterator[np.ndarray]:
    """The patch of one lesion, and its mirror image; level: the image in [0, 1], share: the lesion's in each pixel."""
    steps = np.arange(-RADIUS_PX, RADIUS_PX + 1)
    centre = ndimage.center_of_mass(share)
    # At its border a pasted lesion has grey levels of its new surrounding.
    own = share**2
    contrast = own * (level - np.average(level, weights=own))
    places = np.meshgrid(centre[0] + steps, centre[1] + steps, indexing="ij")
    shape, grey = (
        ndimage.map_coordinates(ndimage.gaussian_filter(part, SMOOTHING_PX), places, order=3)
        for part in (share, contrast)
    )
    both = np.stack([shape, IMAGE_WEIGHT * grey]) / (np.sqrt((shape**2).sum()) + 1e-6)
    yield both.ravel().astype(np.float32)
    if mirrored:
        yield both[:, :, ::-1].ravel().astype(np.float32)


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
    patches, slices, lesions = lesion_patches(images, masks, tau, min_px, mirrored=True)
    found, place = distinct(patches, known, np.zeros(len(patches)), np.zeros(len(known)), persons, lesions)
    slice_of = slices[np.flatnonzero(np.diff(lesions, prepend=-1))]
    for lesion in np.argsort(-found, kind="stable"):  # the closest one comes last, and stays
        if place[lesion] >= 0:
            distance[slice_of[lesion]], index[slice_of[lesion]] = found[lesion], owners[place[lesion]]
    return distance, index
