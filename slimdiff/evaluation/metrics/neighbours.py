"""Nearest neighbours within a z-bin: blocked matrix products choose the candidates, exact distances the winner.

Needs torch and numpy only. A product of float32 vectors is off by about as much as near copies differ: it says which
references can be the nearest, and those alone are compared again, in float64 and from the difference itself.
"""

from collections.abc import Iterator

import numpy as np
import torch

METRICS = ("euclidean", "ncc")
# Higham & Mary 2019 (10.1137/18M1226312): a product of D terms is off by more than 6 sqrt(D) u |q| |r|, u = 2^-24 in
# float32, once in 10^7.
_ROUNDING = 6 * 2.0**-24
# Cards may round both factors to TensorFloat-32, each by 2^-11 at most.
_OF_A_CARD = 2 * 2.0**-11
# Numbers held at once: of a block of rows in float32, of its products, of rows compared in float64, of rows made ready.
_ROWS, _PRODUCTS, _EXACT, _CACHED = 2**23, 2**22, 2**18, 2**18


def nearest(
    query: np.ndarray,
    reference: np.ndarray,
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
        metric: `euclidean` (for features), or `ncc`: 1 - normalised cross-correlation (for pixels; 1 where
            either image is constant).
        block: queries at a time, at most; fewer where rows are long, so that blocks take about 200 MB.
        device: where the products are taken. It does not change the answer: exact distances are the CPU's.

    Returns:
        distance (N,) float64 and index into the reference (N,) int64; NaN and -1 where the reference has no
        slice of that z-bin. Ties go to the lowest index.

    Raises:
        ValueError: unknown metric, shapes that do not fit, or values that are not finite.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; {' or '.join(METRICS)} is wanted")
    query, reference = _flat(query), _flat(reference)
    if query.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"queries of {query.shape[1]} numbers against references of {reference.shape[1]}; as many are wanted"
        )
    query_bin, reference_bin = np.asarray(query_bin), np.asarray(reference_bin)
    if len(query_bin) != len(query) or len(reference_bin) != len(reference):
        raise ValueError("every query and every reference needs a z-bin")
    distance, index = np.full(len(query), np.nan), np.full(len(query), -1, np.int64)
    for z_bin in np.unique(query_bin):
        candidates = np.flatnonzero(reference_bin == z_bin)
        if not len(candidates):
            continue
        members = np.flatnonzero(query_bin == z_bin)
        at_once = max(1, min(block, _ROWS // max(1, query.shape[1]), _PRODUCTS // len(candidates)))
        for start in range(0, len(members), at_once):
            rows = members[start : start + at_once]
            possible = _possible(query, rows, reference, candidates, metric, torch.device(device))
            distance[rows], index[rows] = _winners(query, rows, reference, candidates, metric, possible)
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
    """Pairs (place in rows, place in candidates) that rounding leaves in question; every nearest is among them."""
    error = _ROUNDING * query.shape[1] ** 0.5 + (0.0 if device.type == "cpu" else _OF_A_CARD)
    step = max(1, _ROWS // max(1, query.shape[1]))
    # Distances do not change with the origin, but products lose less of them near the cloud's middle.
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
            # |q - r|^2 / 2 without |q|^2 / 2, which is the same for all references.
            score += norm**2 / 2
            slack *= norm * (query_norm[:, None] + norm)
        lowest[:, part], highest[:, part] = score - slack, score + slack
    in_question = lowest <= highest.amin(dim=1, keepdim=True)
    if not in_question.any(dim=1).all():
        raise ValueError("features or images hold values that are NaN or infinite; finite ones are wanted")
    first, second = in_question.nonzero(as_tuple=True)
    return first.cpu().numpy(), second.cpu().numpy()


def _rows(
    values: np.ndarray, chosen: np.ndarray, centre: np.ndarray | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen rows in float32, less `centre`, or without one each of mean 0 and length 1; and their lengths then."""
    result = np.empty((len(chosen), values.shape[1]), np.float32)
    # numpy, because torch's threads wait for each other at every step of so little work.
    for part in _blocks(len(chosen), max(1, _CACHED // max(1, values.shape[1]))):
        rows = values[chosen[part]]
        rows = rows.astype(np.promote_types(rows.dtype, np.float32))
        # Of what is not finite the caller hears later.
        with np.errstate(invalid="ignore"):
            result[part] = _standard(rows) if centre is None else rows - centre.astype(rows.dtype)
    norm = np.sqrt(np.einsum("ij,ij->i", result, result))
    return torch.from_numpy(result).to(device), torch.from_numpy(norm).to(device)


def _standard(rows: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1, in place; constant rows become 0."""
    # Found by comparison, because the mean of equal pixels is off by rounding.
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
    """Exact distance and index of the nearest of the pairs in question, for each of `rows`."""
    first, second = possible
    exact = np.empty(len(first))
    for pairs in _blocks(len(first), max(1, _EXACT // max(1, query.shape[1]))):
        q, r = query[rows[first[pairs]]], reference[candidates[second[pairs]]]
        exact[pairs] = _distance(q.astype(np.float64), r.astype(np.float64), metric)
    if not np.isfinite(exact).all():
        raise ValueError("features or images hold values that are NaN or infinite; finite ones are wanted")
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
