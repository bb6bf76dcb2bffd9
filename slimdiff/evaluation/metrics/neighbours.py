"""Nearest neighbours within a z-bin.

Blocked float32 matrix products select the references that can be the nearest. Their rounding error is about as large as
the difference between near copies, so the selected references are compared again by exact float64 distances.
Needs only torch and numpy.
"""

from collections.abc import Iterator

import numpy as np
import torch

from slimdiff.stored_rows import Rows

METRICS = ("euclidean", "ncc")
# Higham & Mary 2019 (10.1137/18M1226312): the error of an inner product of D terms exceeds 6 sqrt(D) u |q| |r| with
# probability 1e-7; u = 2^-24 in float32.
_ROUNDING = 6 * 2.0**-24
# GPUs may round both factors to TensorFloat-32, each by at most 2^-11.
_OF_A_CARD = 2 * 2.0**-11
# Largest number of values in memory: rows of a block (float32), its products, rows compared in float64, rows converted.
_ROWS, _PRODUCTS, _EXACT, _CACHED = 2**23, 2**22, 2**18, 2**18


def nearest(
    query: np.ndarray | Rows,
    reference: np.ndarray | Rows,
    query_bin: np.ndarray,
    reference_bin: np.ndarray,
    metric: str = "euclidean",
    block: int = 1024,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The closest reference of the same z-bin for every query.

    Args:
        query, reference: (N, ...) and (M, ...) features or images; axes after the first are flattened.
        query_bin, reference_bin: (N,) and (M,) z-bin.
        metric: `euclidean` (for features), or `ncc`: 1 - normalised cross-correlation (for pixels; 1 if one of the
            images is constant).
        block: maximum number of queries per block; long rows reduce it, so that a block takes about 200 MB.
        device: device of the matrix products. It does not change the result: exact distances are computed on the CPU.

    Returns:
        Distance (N,) float64 and index into the reference (N,) int64; NaN and -1 if the reference has no slice of
        that z-bin. Ties go to the lowest index.

    Raises:
        ValueError: unknown metric, mismatched shapes, or values that are not finite.
    """
    if metric not in METRICS:
        raise ValueError(f"expected metric {' or '.join(METRICS)}, found {metric!r}")
    lengths = [int(np.prod(np.shape(values)[1:])) for values in (query, reference)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"expected queries and references of the same length, found {lengths[0]} and {lengths[1]} values"
        )
    query_bin, reference_bin = np.asarray(query_bin), np.asarray(reference_bin)
    if len(query_bin) != len(query) or len(reference_bin) != len(reference):
        raise ValueError(
            f"expected a z-bin for each of {len(query)} queries and {len(reference)} references, "
            f"found {len(query_bin)} and {len(reference_bin)}"
        )
    distance, index = np.full(len(query), np.nan), np.full(len(query), -1, np.int64)
    for z_bin in np.unique(query_bin):
        candidates = np.flatnonzero(reference_bin == z_bin)
        if not len(candidates):
            continue
        members = np.flatnonzero(query_bin == z_bin)
        at_once = max(1, min(block, _ROWS // max(1, lengths[0]), _PRODUCTS // len(candidates)))
        # The references of one z-bin are in memory, and one block of its queries.
        own, places = _flat(reference[candidates]), np.arange(len(candidates))
        for start in range(0, len(members), at_once):
            rows = members[start : start + at_once]
            asked, of_rows = _flat(query[rows]), np.arange(len(rows))
            possible = _possible(asked, of_rows, own, places, metric, torch.device(device))
            distance[rows], winner = _winners(asked, of_rows, own, places, metric, possible)
            index[rows] = candidates[winner]
    return distance, index


def _flat(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype not in (np.float16, np.float32):
        values = values.astype(np.float64)
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


@torch.inference_mode()
def _possible(
    query: np.ndarray,
    rows: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    metric: str,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs (into rows, into candidates) that can be nearest given the rounding error."""
    error = _ROUNDING * query.shape[1] ** 0.5 + (0.0 if device.type == "cpu" else _OF_A_CARD)
    step = max(1, _ROWS // max(1, query.shape[1]))
    # Centring leaves distances unchanged and reduces the rounding error of the products.
    centre = reference[candidates[:step]].mean(axis=0, dtype=np.float64) if metric == "euclidean" else None
    of_query, query_norm = _rows(query, rows, centre, device)
    lowest, highest = (torch.empty((len(rows), len(candidates)), device=device) for _ in range(2))
    for start in range(0, len(candidates), step):
        part = slice(start, start + step)
        of_reference, norm = _rows(reference, candidates[part], centre, device)
        with torch.autocast(device.type, enabled=False):
            score = -(of_query @ of_reference.T)
        slack = error * torch.ones_like(score)
        if metric == "euclidean":
            # |q - r|^2 / 2 without the term |q|^2 / 2, which is the same for all references.
            score += norm**2 / 2
            slack *= norm * (query_norm[:, None] + norm)
        lowest[:, part], highest[:, part] = score - slack, score + slack
    in_question = lowest <= highest.amin(dim=1, keepdim=True)
    if not in_question.any(dim=1).all():
        raise ValueError("expected finite features or images, found NaN or infinite values")
    first, second = in_question.nonzero(as_tuple=True)
    return first.cpu().numpy(), second.cpu().numpy()


def _rows(
    values: np.ndarray, chosen: np.ndarray, centre: np.ndarray | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen rows in float32 minus `centre` (None: standardised to mean 0 and norm 1), and their norms."""
    result = np.empty((len(chosen), values.shape[1]), np.float32)
    # numpy is faster here: the steps are too small for torch's threads.
    for part in _blocks(len(chosen), max(1, _CACHED // max(1, values.shape[1]))):
        rows = values[chosen[part]]
        rows = rows.astype(np.promote_types(rows.dtype, np.float32))
        # The caller raises an error for values that are not finite.
        with np.errstate(invalid="ignore"):
            result[part] = _standard(rows) if centre is None else rows - centre.astype(rows.dtype)
    norm = np.sqrt(np.einsum("ij,ij->i", result, result))
    return torch.from_numpy(result).to(device), torch.from_numpy(norm).to(device)


def _standard(rows: np.ndarray) -> np.ndarray:
    """Standardise rows in place to mean 0 and norm 1; constant rows become 0."""
    # Constant rows are found by comparison, because the mean of equal pixels has a rounding error.
    constant = rows.max(axis=1) == rows.min(axis=1)
    rows -= rows.mean(axis=1, keepdims=True)
    rows[constant] = 0
    rows /= np.sqrt((rows**2).sum(axis=1, keepdims=True)) + constant[:, None]
    return rows


def _winners(
    query: np.ndarray,
    rows: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    metric: str,
    possible: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Exact distance and index of the nearest of the possible pairs, for each of `rows`."""
    first, second = possible
    exact = np.empty(len(first))
    for pairs in _blocks(len(first), max(1, _EXACT // max(1, query.shape[1]))):
        q, r = query[rows[first[pairs]]], reference[candidates[second[pairs]]]
        exact[pairs] = _distance(q.astype(np.float64), r.astype(np.float64), metric)
    if not np.isfinite(exact).all():
        raise ValueError("expected finite features or images, found NaN or infinite values")
    order = np.lexsort((second, exact, first))
    best = order[np.unique(first[order], return_index=True)[1]]
    return exact[best], candidates[second[best]]


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _distance(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """Distance of each row of a (P, D) to that of b, float64."""
    if metric == "euclidean":
        return np.sqrt(((a - b) ** 2).sum(axis=1))
    a, b = _standard(a), _standard(b)
    # For unit vectors 1 - a.b = |a - b|^2 / 2.
    return np.where(a.any(axis=1) & b.any(axis=1), ((a - b) ** 2).sum(axis=1) / 2, 1.0)
