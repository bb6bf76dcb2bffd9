"""Precision and recall: the share of one set of features that lies within the manifold of the other."""

from dataclasses import dataclass

import numpy as np
import torch

from slimdiff.evaluation.metrics.mmd import MIN_VECTORS

_ROWS = 1024


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: share of synthetic slices in the real manifold. Recall: share of real slices in the synthetic one."""

    precision: float
    recall: float
    precision_resampled: np.ndarray
    """(B,) precision of every resampling of the real subjects."""
    recall_resampled: np.ndarray
    """(B,) recall of every resampling."""


def precision_recall(
    real: np.ndarray,
    synthetic: np.ndarray,
    neighbours: int = 3,
    subjects: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> PrecisionRecall:
    """Precision and recall of Kynkaanniemi et al. 2019, as torch-fidelity computes them.

    A manifold is the union of balls around the vectors of a set; each radius is the distance to the k-th nearest
    neighbour in the same set. In a resampling, a subject drawn twice is not its own neighbour: precision uses each
    drawn subject once, and recall weights subjects by how often they were drawn.

    Args:
        real, synthetic: (N, D) and (M, D) features.
        neighbours: k.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject; None: no resampling.
        device: where distances are computed, in float64.

    Returns:
        Shares in [0, 1]; NaN with fewer than 10 slices in either set, or in a resampling with too few real vectors.
    """
    resamplings = 0 if counts is None else len(counts)
    if min(len(real), len(synthetic)) < max(MIN_VECTORS, neighbours + 1):
        return PrecisionRecall(np.nan, np.nan, *np.full((2, resamplings), np.nan))
    x, y = (torch.from_numpy(np.asarray(f, np.float64)).to(device) for f in (real, synthetic))
    synthetic_reach = torch.cat([_reach(d, neighbours) for _, d in _distances(y, y)])
    among_real = torch.cat([d for _, d in _distances(x, x)])
    across = torch.cat([d for _, d in _distances(x, y)])  # (N, M)
    found = (across <= synthetic_reach).any(dim=1).cpu().numpy()
    precision = _covered(across, _reach(among_real, neighbours))
    of_precision, of_recall = np.full((2, resamplings), np.nan)
    # Rounding preserves order, so float32 can only add ties; it halves the memory traffic.
    across, among_real = across.float(), among_real.float()
    for b in range(resamplings):
        weight = counts[b][subjects]
        drawn = torch.from_numpy(np.flatnonzero(weight)).to(device)
        if len(drawn) > neighbours:
            reach = _reach(among_real[drawn][:, drawn], neighbours)
            of_precision[b] = _covered(across[drawn], reach)
            of_recall[b] = np.average(found, weights=weight)
    return PrecisionRecall(precision, float(found.mean()), of_precision, of_recall)


def _covered(across: torch.Tensor, reach: torch.Tensor) -> float:
    return float((across <= reach[:, None]).any(dim=0).double().mean())


def _reach(distances: torch.Tensor, neighbours: int) -> torch.Tensor:
    """(rows,) distance to the k-th nearest other vector; the nearest vector is the vector itself."""
    return distances.kthvalue(neighbours + 1, dim=1).values


def _distances(x: torch.Tensor, y: torch.Tensor):
    """Yield blocks of Euclidean distances from x to y: (first row, distances (rows, M))."""
    for start in range(0, len(x), _ROWS):
        yield start, torch.cdist(x[start : start + _ROWS], y)
