"""The two training slices whose mixture is closest to a slice. Needs only numpy.

A mean of two training slices is close to neither of them. For each slice q, the pair (a, b) of training slices of its
z-bin is searched whose combination s a + t b, with the shares s, t >= 0 that fit best, leaves the least of q.
"""

import numpy as np

from slimdiff.stored_rows import Rows

FIRST = 48
"""Training slices that can be the first of a pair: those that correlate most with the slice."""
_PARALLEL = 1e-4  # 1 - r^2 of two training slices below which they are one slice


def closest_mixture(
    query: np.ndarray | Rows,
    reference: np.ndarray | Rows,
    query_bin: np.ndarray,
    reference_bin: np.ndarray,
    persons: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each slice that no mixture of two training slices of its z-bin explains, and the larger of the two.

    Pixels are centred, so that with the multiple correlation R of q on a and b the distance is 1 - R^2; 1 if the slice
    is constant.

    Args:
        query, reference: (N, H, W) and (M, H, W).
        query_bin, reference_bin: (N,) and (M,) z-bin.

    Returns:
        Distance (N,) float64 in [0, 1] and index (N,) int64 of the training slice with the larger share; NaN and -1
        where the z-bin has no training slice.
    """
    distance, index = np.full(len(query), np.nan), np.full(len(query), -1, np.int64)
    owner = np.unique(persons, return_inverse=True)[1].reshape(-1)
    for z_bin in np.unique(query_bin):
        candidates = np.flatnonzero(reference_bin == z_bin)
        if not len(candidates):
            continue
        known = _unit(reference[candidates])
        gram = known @ known.T
        for row in np.flatnonzero(query_bin == z_bin):
            ratio, place = _best_pair(known @ _unit(query[[row]])[0], gram, owner[candidates])
            distance[row], index[row] = ratio, candidates[place]
    return distance, index


def _unit(images: np.ndarray) -> np.ndarray:
    """(N, D) float32 of mean 0 and norm 1; constant images become 0."""
    flat = np.asarray(images, np.float32).reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", flat, flat))[:, None]
    return np.where(norm > 1e-6, flat / np.maximum(norm, 1e-6), 0)


def _best_pair(r: np.ndarray, gram: np.ndarray, owner: np.ndarray) -> tuple[float, int]:
    """The largest R^2 of a slice on two training slices, and the training slice of the pair with the larger share.

    Args:
        r: (M,) correlation of the slice with each training slice.
        gram: (M, M) correlations of the training slices.
    """
    single = np.maximum(r, 0).astype(np.float64)
    first = np.argsort(-single, kind="stable")[:FIRST]
    a, b, g = single[first][:, None], single[None, :], gram[first].astype(np.float64)
    rest = 1 - g**2
    # Regression on two unit vectors: the shares are (a - g b) / (1 - g^2) and (b - g a) / (1 - g^2).
    inside = (a - g * b > 0) & (b - g * a > 0) & (rest > _PARALLEL)
    explained = np.where(inside, (a**2 + b**2 - 2 * g * a * b) / np.where(inside, rest, 1), 0)
    singles = single[first][:, None] ** 2 + np.zeros_like(explained)
    explained = np.maximum(explained, singles)
    row, column = np.unravel_index(int(explained.argmax()), explained.shape)
    pair = (int(first[row]), int(column))
    other = ~np.isin(owner, owner[list(pair)])
    others = other[first][:, None] & other[None, :]
    second = float(explained[others].max()) if others.any() else 0.0
    larger = pair[0] if single[pair[0]] >= single[pair[1]] else pair[1]
    return (max(0.0, 1 - float(explained[row, column]))) / max(1e-9, 1 - second), larger
