"""How much closer the closest training slice is than those of all other persons. Needs only numpy.

Some slices are close to everything: a smooth one, or one with a small lesion. The ratio of the two distances does not
depend on that (Lowe 2004 matches image points so). It is near 1 for a slice of a new person, and near 0 for a copy.
"""

import numpy as np

ALONE = 2**0.5
"""Second distance where the z-bin has one person only: that of uncorrelated vectors of norm 1."""
EQUAL = 0.01
"""Added to both distances of vectors of norm 1: a slice that is equal to those of two persons has the ratio 1."""
_BLOCK = 512  # queries at once


def distinct(
    query: np.ndarray,
    reference: np.ndarray,
    query_bin: np.ndarray,
    reference_bin: np.ndarray,
    persons: np.ndarray,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the closest reference / that to the closest of another person, within the z-bin, 0.01 added to both.

    Args:
        query, reference: (N, D) and (M, D).
        query_bin, reference_bin: (N,) and (M,) z-bin.
        persons: (M,) person of each reference.
        groups: (N,) number of the object that each query is a view of, 0 ... G - 1; both distances are the smallest of
            all its views, which have one z-bin. None: each query is an object of its own.

    Returns:
        Ratio (G,) float64 in [0, 1], and index (G,) int64 of the closest reference; NaN and -1 without any.
    """
    owner = np.unique(persons, return_inverse=True)[1].reshape(-1)
    groups = np.arange(len(query)) if groups is None else groups
    count = int(groups.max()) + 1 if len(groups) else 0
    ratio, index = np.full(count, np.nan), np.full(count, -1, np.int64)
    for z_bin in np.unique(query_bin):
        known, members = np.flatnonzero(reference_bin == z_bin), np.flatnonzero(query_bin == z_bin)
        objects, of_member = np.unique(groups[members], return_inverse=True)
        if not len(known):
            continue
        distance = np.full((len(objects), len(known)), np.inf)
        for start in range(0, len(members), _BLOCK):
            rows = slice(start, start + _BLOCK)
            np.minimum.at(distance, of_member[rows], _distances(query[members[rows]], reference[known]))
        closest = distance.argmin(axis=1)
        others = np.where(owner[known][None] == owner[known][closest][:, None], np.inf, distance).min(axis=1)
        others = np.where(np.isfinite(others), others, np.maximum(ALONE, distance.min(axis=1)))
        smallest = distance[np.arange(len(objects)), closest]
        ratio[objects] = (smallest + EQUAL) / (others + EQUAL)
        index[objects] = known[closest]
    return ratio, index


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) Euclidean distances in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))
