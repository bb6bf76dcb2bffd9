"""Robust MMD between lesion slices: RBF kernels on one vector per slice, with a permutation p-value.

The cubic kernel of MMD-MF grows with the third power of a feature, so a few large lesions dominate it. An RBF kernel
is bounded by 1, and the area is used as its logarithm. Estimate, median heuristic and permutation test: Gretton et al.
2012.
"""

from dataclasses import dataclass

import numpy as np
import torch

from slimdiff.evaluation.metrics.components import FEATURES, Components
from slimdiff.evaluation.metrics.mmd import (
    MIN_VECTORS,
    at_most,
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
LARGEST_PERMUTED = 5000  # maximum number of permuted lesion slices per set; time grows with its square
_LARGEST_MEDIAN = 4000  # maximum number of slices for the median distance
_PERMUTED_AT_ONCE = 500


@dataclass(frozen=True)
class RobustMmd:
    """A squared MMD with the p-value of the hypothesis that both sets come from one distribution."""

    value: float
    p: float  # NaN without permutations
    bandwidth: float  # median distance of whitened vectors; the kernels use 0.5, 1 and 2 times this value
    n_real: int
    n_synthetic: int
    n_permuted: tuple[int, int]  # real and synthetic slices used for p


def slice_vectors(components: Components, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One vector for every slice that has a lesion component.

    Args:
        components: components of N slices, from `components.components_of`.
        z: (N,) height of each slice, in slices. Use the centre of the z-bin for both real and synthetic slices. A
            sample has only a z-bin, and a finer grid for real slices would make the two sets differ.

    Returns:
        (L, 8) vectors with columns as `COLUMNS`, and (L,) the slice of each vector, ascending. The columns are the
        logarithm of the lesion area (px^2), the number of components, shape and centroid (x = column, y = row, px) of
        the largest component (the first one if there are ties), and z.
    """
    area = components.features[:, FEATURES.index("area")]
    # Sort by slice, then by decreasing area; the sort is stable.
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

    k(x, y) = exp(-|x - y|^2 / 2 s^2), with s equal to 0.5, 1 and 2 times the median distance between all vectors of
    both sets. p = (1 + permutations whose MMD is at least the observed one) / (1 + permutations). Slices are permuted
    as if they were independent, so p is too small if the slices are of few subjects.

    Vectors are whitened by the covariance of both sets together. The covariance of the real set alone would make only
    this set spherical: for equal distributions, p would be below 0.05 in one of seven tests with 40 slices per set,
    and in half of the tests with 12 slices. Correlations are shrunk by 0.05 towards 0, so that whitening does not
    amplify a column that is nearly a combination of the others. A constant column is unchanged.

    Args:
        real, synthetic: (N, D) and (M, D), from `slice_vectors`.
        permutations: number of permutations; 0: no p.
        seed: seed of the permutations. They use at most 5,000 random slices per set; the value uses all real slices,
            and at most `mmd.LARGEST_SYNTHETIC` synthetic ones.
        device: where kernels are computed.

    Returns:
        The result; value and p are NaN if either set has fewer than 10 vectors.

    Raises:
        ValueError: mismatched shapes, or values that are not finite.
    """
    x, y = whitened(real, synthetic)
    n, m = len(x), len(y)
    if min(n, m) < MIN_VECTORS:
        return RobustMmd(np.nan, np.nan, np.nan, n, m, (0, 0))
    bandwidth = _median_distance(np.concatenate([x, y]))
    kernel = MeanOfRbf(bandwidth)
    used = np.concatenate([x, at_most(y)])
    value = _labelled_mmd2(kernel, used, np.arange(len(used))[None] < n, device)[0]
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
        # The tolerance is for equal labellings that differ by rounding.
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

    Whitening and bandwidth are computed once, from the full sets. At most `mmd.LARGEST_SYNTHETIC` synthetic slices are
    used.

    Args:
        real, synthetic: (N, D) and (M, D), from `slice_vectors`; the synthetic ones are not resampled.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.
        device: where kernels are computed.

    Returns:
        (B,) float64; NaN if a set has fewer than 10 vectors or a resampling has no pair.

    Raises:
        ValueError: mismatched shapes, or values that are not finite.
    """
    x, y = whitened(real, synthetic)
    enough = min(len(x), len(y)) >= MIN_VECTORS
    kernel = MeanOfRbf(_median_distance(np.concatenate([x, y])) if enough else 1.0)

    def sums(*groups) -> np.ndarray:
        return group_sums(kernel, *groups)

    return resampled_by_subject(sums, *on_device(device, x, at_most(y)), subjects, counts)


class MeanOfRbf:
    """Mean of three RBF kernels with 0.5, 1 and 2 times the given bandwidth."""

    def __init__(self, bandwidth: float):
        self.bandwidth = bandwidth

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        squared_x, squared_y = x.square().sum(dim=1), y.square().sum(dim=1)
        squared = torch.addmm(squared_x[:, None] + squared_y, x, y.T, alpha=-2).clamp_min_(0)
        # Half the bandwidth multiplies the exponent by 4.
        wide = squared.mul_(-1 / (8 * self.bandwidth**2)).exp_()
        middle = wide.square().square_()
        narrow = middle.square().square_()
        return wide.add_(middle).add_(narrow).div_(3)


def whitened(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets, (N, D) and (M, D), centred, scaled and decorrelated (except for the shrinkage) by their pooled values.

    Raises:
        ValueError: mismatched shapes, or values that are not finite.
    """
    real, synthetic = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"expected vectors (N, D) and (M, D), found {real.shape} and {synthetic.shape}")
    pooled = np.concatenate([real, synthetic])
    if not np.isfinite(pooled).all():
        raise ValueError("expected finite vectors, found NaN or infinite values")
    if not len(pooled):
        return real, synthetic
    pooled, _ = standardise(pooled, pooled)
    correlation = (1 - SHRINKAGE) * (pooled.T @ pooled / len(pooled)) + SHRINKAGE * np.eye(pooled.shape[1])
    # Any matrix square root is correct, because an RBF kernel depends only on distances.
    white = np.linalg.solve(np.linalg.cholesky(correlation), pooled.T).T
    return white[: len(real)], white[len(real) :]


def _median_distance(pooled: np.ndarray) -> float:
    """Median distance between vectors; 1 if it is 0, so that no kernel divides by 0."""
    chosen = np.linspace(0, len(pooled) - 1, min(len(pooled), _LARGEST_MEDIAN)).round().astype(np.int64)
    median = float(np.median(torch.pdist(torch.from_numpy(pooled[chosen])).numpy()))
    return median if median > 0 else 1.0


def _labelled_mmd2(
    kernel: MeanOfRbf, pooled: np.ndarray, is_real: np.ndarray, device: str | torch.device
) -> np.ndarray:
    """(P,) squared MMD of pooled vectors (N, D) for each labelling is_real (P, N) bool; computes the kernel once."""
    labellings, n = len(is_real), int(is_real[0].sum())
    m = pooled.shape[0] - n
    everything = np.ones((1, n + m))
    groups = np.concatenate([is_real, ~is_real, everything]).astype(np.float64)
    sums = group_sums(kernel, on_device(device, pooled)[0], groups, paired=True)
    of_real, of_synthetic, total = sums[:labellings], sums[labellings:-1], sums[-1]
    return unbiased_mmd2(of_real, of_synthetic, (total - of_real - of_synthetic) / 2, n, m)
