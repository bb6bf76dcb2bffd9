"""A distance between lesion slices that no single lesion can rule: an RBF MMD of one vector a slice, with a p-value.

The cubic kernel of MMD-MF grows with the third power of a feature, so a few large lesions decide it; an RBF kernel is
bounded by 1, and the area enters as its logarithm (Gretton et al. 2012: estimate, median heuristic, permutation test).
"""

from dataclasses import dataclass

import numpy as np
import torch

from slimdiff.evaluation.metrics.components import FEATURES, Components
from slimdiff.evaluation.metrics.mmd import (
    MIN_VECTORS,
    group_sums,
    on_device,
    resampled_by_subject,
    standardise,
    unbiased_mmd2,
)

COLUMNS = (
    "log_lesion_area",
    "n_components",
    "circularity",
    "solidity",
    "eccentricity",
    "centroid_x",
    "centroid_y",
    "z",
)
SHRINKAGE = 0.05
LARGEST_PERMUTED = (
    5000  # lesion slices of a set that are permuted; time grows with the square of their number
)
_LARGEST_MEDIAN = 4000  # slices between which distances are taken for their median
_PERMUTED_AT_ONCE = 500


@dataclass(frozen=True)
class RobustMmd:
    """A squared MMD with the p-value of the hypothesis that both sets come from one distribution."""

    value: float
    p: float  # NaN without permutations
    bandwidth: float  # median distance of whitened vectors; the kernels take half of it, itself and twice
    n_real: int
    n_synthetic: int
    n_permuted: tuple[int, int]  # real and synthetic slices that p looked at


def slice_vectors(components: Components, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One vector for every slice that has a lesion component.

    Args:
        components: of N slices, from `morphology.components_of`.
        z: (N,) height of each slice, in slices. Give the middle of its z-bin for real and synthetic slices alike: the
            z-bin is all that a sample knows of its height, and one set on a finer grid would be told apart by that.

    Returns:
        (L, 8), columns as `COLUMNS`: logarithm of the components' area (px^2), their number, four numbers of the
        largest (of equally large ones the first; its centroid in px, x the column and y the row), and z; and (L,) the
        slice of each vector, ascending.
    """
    area = components.features[:, FEATURES.index("area")]
    # by slice, in it by falling area; the sort keeps the order of equals
    order = np.lexsort((-area, components.slices))
    slices, first, count = np.unique(components.slices[order], return_index=True, return_counts=True)
    largest = order[first]
    columns = [FEATURES.index(name) for name in ("circularity", "solidity", "eccentricity")]
    lesion_area = np.bincount(components.slices, weights=area, minlength=len(z))[slices]
    vectors = (
        np.log(lesion_area),
        count,
        *components.features[largest][:, columns].T,
        components.centroids[largest, 1],
        components.centroids[largest, 0],
        np.asarray(z)[slices],
    )
    return np.stack(vectors, axis=1).astype(np.float64), slices


def robust_mmd(
    real: np.ndarray,
    synthetic: np.ndarray,
    permutations: int = 500,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> RobustMmd:
    """Unbiased squared MMD of whitened vectors under the mean of three RBF kernels, and its permutation p-value.

    k(x, y) = exp(-|x - y|^2 / 2 s^2) with s half the median distance, the median distance, and twice that, over the
    pairs of both sets together. p = (1 + permutations whose MMD is at least the observed one) / (1 + permutations);
    slices are permuted as if independent, so those of few subjects make it too small.

    Vectors are whitened by the covariance of both sets together. By the real set's own, which is estimated from fewer
    slices, that set alone would come out spherical, and p of equal sets of 40 slices would fall under 0.05 in one of
    seven (of 12 slices, in half). The correlations are shrunk by 0.05 towards none, so that a column which nearly
    follows from the others is not blown up; a constant one is left as it is.

    Args:
        real, synthetic: (N, D) and (M, D), from `slice_vectors`.
        permutations: how many; 0: no p.
        seed: of the permutations. At most 5,000 slices of each set, drawn with it, enter them; the value is of all.
        device: where kernels are computed.

    Returns:
        NaN for value and p where either set has fewer than 10 vectors.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    x, y = whitened(real, synthetic)
    n, m = len(x), len(y)
    if min(n, m) < MIN_VECTORS:
        return RobustMmd(np.nan, np.nan, np.nan, n, m, (0, 0))
    bandwidth = _median_distance(np.concatenate([x, y]))
    kernel = MeanOfRbf(bandwidth)
    value = _labelled_mmd2(kernel, np.concatenate([x, y]), np.arange(n + m)[None] < n, device)[0]
    if not permutations:
        return RobustMmd(float(value), np.nan, bandwidth, n, m, (0, 0))
    rng = np.random.default_rng(seed)
    x, y = (z[np.sort(rng.permutation(len(z))[:LARGEST_PERMUTED])] for z in (x, y))
    pooled, labels = np.concatenate([x, y]), np.arange(len(x) + len(y)) < len(x)
    observed = _labelled_mmd2(kernel, pooled, labels[None], device)[0]
    at_least = 0
    for start in range(0, permutations, _PERMUTED_AT_ONCE):
        here = min(_PERMUTED_AT_ONCE, permutations - start)
        shuffled = rng.permuted(np.tile(labels, (here, 1)), axis=1)
        # labellings that are equally good differ by rounding
        at_least += int((_labelled_mmd2(kernel, pooled, shuffled, device) > observed - 1e-12).sum())
    p = (1 + at_least) / (1 + permutations)
    return RobustMmd(float(value), p, bandwidth, n, m, (len(x), len(y)))


def resampled_robust(
    real: np.ndarray,
    synthetic: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The squared MMD of `robust_mmd` for every resampling of the real subjects.

    Whitening and bandwidth are those of the sets as they are.

    Args:
        real, synthetic: (N, D) and (M, D), from `slice_vectors`; the synthetic ones are not resampled.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.
        device: where kernels are computed.

    Returns:
        (B,) float64; NaN where a set has fewer than 10 vectors, or a resampling has no pair.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    x, y = whitened(real, synthetic)
    enough = min(len(x), len(y)) >= MIN_VECTORS
    kernel = MeanOfRbf(_median_distance(np.concatenate([x, y])) if enough else 1.0)

    def sums(*groups) -> np.ndarray:
        return group_sums(kernel, *groups)

    return resampled_by_subject(sums, *on_device(device, x, y), subjects, counts)


class MeanOfRbf:
    """Mean of three RBF kernels, whose bandwidths are half of one, that one, and twice it."""

    def __init__(self, bandwidth: float):
        self.bandwidth = bandwidth

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        squared_x, squared_y = x.square().sum(dim=1), y.square().sum(dim=1)
        squared = torch.addmm(squared_x[:, None] + squared_y, x, y.T, alpha=-2).clamp_min_(0)
        # half the bandwidth is four times the exponent
        wide = squared.mul_(-1 / (8 * self.bandwidth**2)).exp_()
        middle = wide.square().square_()
        narrow = middle.square().square_()
        return wide.add_(middle).add_(narrow).div_(3)


def whitened(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets, (N, D) and (M, D), less the mean, scale and (but for the shrinkage) correlation of both together.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    real, synthetic = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"vectors (N, D) and (M, D) are wanted, found {real.shape} and {synthetic.shape}")
    pooled = np.concatenate([real, synthetic])
    if not np.isfinite(pooled).all():
        raise ValueError("vectors hold NaN or infinite values")
    if not len(pooled):
        return real, synthetic
    pooled, _ = standardise(pooled, pooled)
    correlation = (1 - SHRINKAGE) * (pooled.T @ pooled / len(pooled)) + SHRINKAGE * np.eye(pooled.shape[1])
    # any root will do: an RBF kernel sees distances only
    white = np.linalg.solve(np.linalg.cholesky(correlation), pooled.T).T
    return white[: len(real)], white[len(real) :]


def _median_distance(pooled: np.ndarray) -> float:
    """Median distance between different vectors; 1 where most are equal, so that no kernel divides by 0."""
    chosen = np.linspace(0, len(pooled) - 1, min(len(pooled), _LARGEST_MEDIAN)).round().astype(np.int64)
    median = float(np.median(torch.pdist(torch.from_numpy(pooled[chosen])).numpy()))
    return median if median > 0 else 1.0


def _labelled_mmd2(
    kernel: MeanOfRbf, pooled: np.ndarray, is_real: np.ndarray, device: str | torch.device
) -> np.ndarray:
    """(P,) squared MMD of pooled vectors (N, D) under each labelling is_real (P, N) bool, with one pass over the
    kernel."""
    labellings, n = len(is_real), int(is_real[0].sum())
    m = pooled.shape[0] - n
    everything = np.ones((1, n + m))
    groups = np.concatenate([is_real, ~is_real, everything]).astype(np.float64)
    sums = group_sums(kernel, on_device(device, pooled)[0], groups, paired=True)
    of_real, of_synthetic, total = sums[:labellings], sums[labellings:-1], sums[-1]
    return unbiased_mmd2(of_real, of_synthetic, (total - of_real - of_synthetic) / 2, n, m)
