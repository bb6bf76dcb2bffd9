"""Binary lesion masks of continuous ones, their components and areas. Pages use it, so it does without torch."""

import numpy as np

from slimdiff.evaluation.metrics.components import FEATURES, Components, components_of, stack_blocks
from slimdiff.evaluation.metrics.grey_levels import store_precision
from slimdiff.stored_rows import Rows


class BinaryMasks(Rows):
    """Binary masks: lesion is where a continuous mask is above tau; masks that are already binary are unchanged.

    They are made when they are indexed. Who has seen all of them calls `check`.

    Args:
        masks: (N, H, W); float in [-1, 1], or bool or integer {0, 1}.
        tau: threshold, in (-1, 1).

    Raises:
        ValueError, also when they are indexed: integers other than 0 and 1, floats outside [-1, 1] or not finite.
    """

    def __init__(self, masks: np.ndarray | Rows, tau: float = 0.0):
        if masks.ndim != 3:
            raise ValueError(f"expected masks of shape (N, H, W), found {masks.shape}")
        super().__init__(masks.shape, bool)
        self.masks, self.tau = masks, tau
        self._zero_or_one, self._zero = np.issubdtype(masks.dtype, np.floating), False

    def check(self) -> None:
        """Raise ValueError where all of the masks that were indexed are floats of 0 or 1.

        A binary mask stored as float would be lesion everywhere for tau < 0.
        """
        if self._zero_or_one and self._zero:
            raise ValueError(
                "expected float masks in [-1, 1], found only 0 and 1; pass binary masks as bool or uint8"
            )

    def __getitem__(self, rows) -> np.ndarray:
        # The masks resolve every kind of index themselves; a slice of an array stays a view.
        return self._take(rows)

    def _take(self, rows) -> np.ndarray:
        masks = np.asarray(self.masks[rows])
        if masks.dtype == bool:
            return masks
        if not np.issubdtype(masks.dtype, np.floating):
            if masks.size and (masks.min() < 0 or masks.max() > 1):
                raise ValueError(
                    f"expected integer masks of 0 and 1, found {masks.dtype} values from {masks.min()} to {masks.max()}"
                )
            return masks.view(bool) if masks.dtype.itemsize == 1 else masks.astype(bool)
        part = store_precision(masks)
        # Both only change in one direction, so threads may share them.
        if self._zero_or_one and not ((part == 0) | (part == 1)).all():
            self._zero_or_one = False
        if self._zero_or_one and (part == 0).any():
            self._zero = True
        return part > np.float32(self.tau)


def binarise(masks: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """All of the `BinaryMasks`, checked: (N, H, W) bool; not a copy if they are bool or one-byte integers."""
    masks = np.asarray(masks)
    stack = BinaryMasks(masks, tau)
    if not np.issubdtype(masks.dtype, np.floating):
        return stack[:]
    binary = np.empty(masks.shape, bool)
    for block in stack_blocks(masks.shape):
        binary[block] = stack[block]
    stack.check()
    return binary


def binary_components(
    masks: np.ndarray | Rows, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0
) -> Components:
    """`components_of` the `BinaryMasks`, checked; binary masks of one block at a time are in memory."""
    binary = BinaryMasks(masks, tau)
    found = components_of(binary, min_px, min_slice_px)
    binary.check()
    return found


def lesion_area(
    masks: np.ndarray | Rows, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0
) -> np.ndarray:
    """(N,) lesion area of every slice in px.

    Args:
        masks: (N, H, W), see `binarise`.
        tau: threshold of continuous masks.
        min_px: components with fewer pixels do not count.
        min_slice_px: the area is 0 in a slice with fewer lesion pixels, as in the slice store.
    """
    found = binary_components(masks, tau, min_px, min_slice_px)
    area = found.features[:, FEATURES.index("area")]
    return np.bincount(found.slices, area, minlength=len(masks)).astype(np.int64)


def has_lesion(masks: np.ndarray | Rows, tau: float = 0.0, min_px: int = 5) -> np.ndarray:
    """(N,) bool: slices with a 4-connected component of at least `min_px`; masks as for `binarise`."""
    return lesion_area(masks, tau, min_px) > 0
