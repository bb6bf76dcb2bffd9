"""Whole numbers that ran over the end of their 16 bits: wrapped to the other end, or clipped there."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EIGHTH = 8


@dataclass(frozen=True)
class Overflow:
    """What `overflow` counts."""

    wrapped_voxels: int
    """Voxels that wrapping explains and anatomy does not."""
    clipped_share: float
    """Share of voxels that are exactly at the type's end, background not counted."""


def overflow(stored: np.ndarray, scaled: bool) -> Overflow:
    """Look for wrapped and clipped voxels in the stored values (X, Y, Z).

    Only 16-bit types that the header does not scale are looked at: 8-bit images use their whole range on purpose, and
    a writer that scales fits the image to the type's ends, where a jump over half the range is an ordinary edge.
    """
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize != 2 or scaled:
        return Overflow(0, 0.0)
    ends = np.iinfo(stored.dtype)
    # Wider, because a difference of two of these values does not fit into their own type.
    values = stored.astype(np.int32)
    background = _background(values)
    top, low = values == ends.max, values == ends.min
    # Signed background lies at 0; at the lowest value it was put there as padding.
    clipped = top.sum() * (background != ends.max) + low.sum() * (ends.min < 0 and background != ends.min)
    return Overflow(_wrapped(values, background, ends), float(clipped / values.size))


def _background(values: np.ndarray) -> int:
    faces = [np.moveaxis(values, axis, 0)[[0, -1]].ravel() for axis in range(3)]
    return int(np.median(np.concatenate(faces)))


def _wrapped(values: np.ndarray, background: int, ends: np.iinfo) -> int:
    span = ends.max - ends.min + 1
    if values.max() - values.min() <= span // 2:
        return 0
    if ends.min < 0:
        if not ends.min + span // 4 < background < ends.max - span // 4:
            return 0
        # With the background in the middle, neighbours half a range apart lie on both sides of the type's end.
        jumped = np.zeros(values.shape, bool)
        for axis in range(3):
            far = np.abs(np.diff(values, axis=axis)) > span // 2
            for shift in (0, 1):
                place = [slice(None)] * 3
                place[axis] = slice(shift, shift + far.shape[axis])
                jumped[tuple(place)] |= far
        # The brightest true voxels beside it are whole: those of the other sign have wrapped.
        return int((jumped & (values < background)).sum())
    # Unsigned background is at 0, so every bright edge is a jump. What wrapped has no voxel in between on any side.
    high, low = values > ends.max - span // EIGHTH, values < ends.min + span // EIGHTH
    at_bottom = background < ends.min + span // 2
    # Not the sum: between many voxels of the one kind a few of the other are enclosed by chance.
    return max(_enclosed(high, low, not at_bottom), _enclosed(low, high, at_bottom))


def _enclosed(inside: np.ndarray, around: np.ndarray, background: bool) -> int:
    """Voxels of the components of `inside` whose neighbours outside of it are all `around`.

    background: whether `inside` has the background, so that components at the volume's faces are part of it.
    """
    open_to_others = ndimage.binary_dilation(~inside & ~around) & inside
    labels, count = ndimage.label(inside)
    if not count:
        return 0
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    closed = np.ones(count + 1, bool)
    closed[np.unique(labels[open_to_others])] = False
    for axis in range(3) if background else ():
        closed[np.unique(np.take(labels, (0, -1), axis))] = False
    closed[0] = False
    return int(sizes[closed].sum())
