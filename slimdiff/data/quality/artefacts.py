"""Two faults of a file: a flipped lesion mask, and overflow of a 16-bit type.

Detection of a flip assumes a lesion that is brighter than the tissue around it, as on FLAIR. The contrast of a mask is
the mean within the mask minus the mean of the shell 1.5 to 6 mm around it, within the brain, in SD of the brain. It is
computed for the mask as stored and for each flip: mirrored at the brain's plane of symmetry, reversed along one axis of
the file, or reversed along the first two axes (some file formats use left and posterior instead of right and anterior).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from slimdiff.data.volumes.foreground import box_of

SHELL_MM = (1.5, 6.0)
SHIFT = 0.15
"""The plane of symmetry is searched within this share of the width around the centre of the brain."""


def flip_contrasts(
    values: np.ndarray, lesion: np.ndarray, brain: np.ndarray, spacing_mm: np.ndarray, plane: float
) -> dict[str, float]:
    """Contrast of the mask `as stored` and of each flip, in SD of the brain; flips that miss the brain are left out.

    values (X, Y, Z), lesion and brain bool, all in RAS order. plane: see `symmetry_plane`.
    """
    # With large voxels the shell must still reach the neighbouring ones.
    nearest, farthest = SHELL_MM[0], max(SHELL_MM[1], float(spacing_mm.max()))
    box = box_of(lesion, np.ceil(farthest / spacing_mm).astype(int))
    deviation = float(values[brain].std()) if brain.any() else 0.0
    if box is None or deviation == 0:
        return {}
    distance = ndimage.distance_transform_edt(~lesion[box], sampling=spacing_mm)
    start = np.array([[part.start] for part in box])
    within = np.array(np.nonzero(lesion[box])) + start
    around = np.array(np.nonzero((distance > nearest) & (distance <= farthest))) + start
    last = np.array(values.shape) - 1
    turns = {
        "as stored": (None, None, None),
        "mirrored left to right": (round(2 * plane), None, None),
        "reversed left to right": (last[0], None, None),
        "reversed front to back": (None, last[1], None),
        "reversed top to bottom": (None, None, last[2]),
        "turned by 180 degrees": (last[0], last[1], None),
    }
    found = {}
    for name, turn in turns.items():
        inside, shell = (_met(values, brain, _turned(voxels, turn)) for voxels in (within, around))
        if len(inside) and len(shell):
            found[name] = float(inside.mean(dtype=np.float64) - shell.mean(dtype=np.float64)) / deviation
    return found


def symmetry_plane(values: np.ndarray, brain: np.ndarray) -> float:
    """Plane with the highest left-right correlation of the brain: position in voxels along the first axis, RAS."""
    shown = np.where(brain, values, 0).astype(np.float32)
    width = len(shown)
    where = np.flatnonzero(brain.any(axis=(1, 2)))
    middle, reach = where[0] + where[-1], max(1, int(SHIFT * width))
    best = (-2.0, middle)
    for total in range(middle - reach, middle + reach + 1):
        first, last = max(0, total - width + 1), min(width - 1, total)
        part = shown[first : last + 1]
        if len(part) < width // 2:
            continue
        part = part - part.mean()
        power = float((part * part).sum())
        if power > 0:
            best = max(best, (float((part * part[::-1]).sum()) / power, total))
    return best[1] / 2


def _turned(voxels: np.ndarray, turn: tuple[int | None, ...]) -> np.ndarray:
    """Voxels (3, N) with index i replaced by total - i along every axis for which `turn` has a total."""
    return np.stack(
        [index if total is None else total - index for index, total in zip(voxels, turn, strict=True)]
    )


def _met(values: np.ndarray, brain: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Values at those voxels (3, N) that lie within the volume and the brain."""
    there = ((voxels >= 0) & (voxels < np.array(values.shape)[:, None])).all(axis=0)
    place = tuple(voxels[:, there])
    return values[place][brain[place]]


EIGHTH = 8


@dataclass(frozen=True)
class Overflow:
    """Result of `overflow`."""

    wrapped_voxels: int
    """Voxels whose jump in intensity is explained by wrapping and not by anatomy."""
    clipped_share: float
    """Share of voxels exactly at an end of the type, not counting the background."""


def overflow(stored: np.ndarray, scaled: bool) -> Overflow:
    """Count wrapped and clipped voxels in the stored values (X, Y, Z).

    Only unscaled 16-bit types are checked. An 8-bit image uses its whole range on purpose. A scaled image is fitted to
    the ends of its type, so that a jump over half the range is an ordinary edge.
    """
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize != 2 or scaled:
        return Overflow(0, 0.0)
    ends = np.iinfo(stored.dtype)
    # int32, because the difference of two 16-bit values may not fit into 16 bits.
    values = stored.astype(np.int32)
    background = _background(values)
    top, low = values == ends.max, values == ends.min
    # The background of a signed type is 0; the lowest value is padding.
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
        # The background is in the middle of the range, so a jump over half the range means that one voxel wrapped.
        jumped = np.zeros(values.shape, bool)
        for axis in range(3):
            far = np.abs(np.diff(values, axis=axis)) > span // 2
            for shift in (0, 1):
                place = [slice(None)] * 3
                place[axis] = slice(shift, shift + far.shape[axis])
                jumped[tuple(place)] |= far
        # It is the one below the background; the bright neighbour is correct.
        return int((jumped & (values < background)).sum())
    # The background of an unsigned type is 0, so every bright edge is a jump. Only a wrapped component has no
    # intermediate values on any side.
    high, low = values > ends.max - span // EIGHTH, values < ends.min + span // EIGHTH
    at_bottom = background < ends.min + span // 2
    # The maximum, not the sum: among many voxels of one kind a few of the other are enclosed by chance.
    return max(_enclosed(high, low, not at_bottom), _enclosed(low, high, at_bottom))


def _enclosed(inside: np.ndarray, around: np.ndarray, background: bool) -> int:
    """Number of voxels in those components of `inside` whose outer neighbours are all in `around`.

    background: whether `inside` contains the background; components at the volume's faces then belong to it.
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
