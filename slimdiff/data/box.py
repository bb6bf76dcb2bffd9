"""The smallest box around what a mask marks."""

from collections.abc import Sequence

import numpy as np


def box_of(mask: np.ndarray, margin: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...] | None:
    """Slices of the smallest box around what is True in a mask (X, Y, Z); None around nothing.

    margin: voxels by which it is wider on each side of an axis, within the volume.
    """
    box = []
    for axis, more in enumerate(margin):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(where):
            return None
        box.append(slice(max(0, int(where[0] - more)), min(mask.shape[axis], int(where[-1] + more + 1))))
    return tuple(box)
