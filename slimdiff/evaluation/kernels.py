"""Distances between two sets of feature vectors: the cubic polynomial MMD and the Wasserstein-1 distance.

Binkowski et al. 2018 (KID, subset averaging), Gretton et al. 2012 (the unbiased estimate). Seeded: on one machine the
same features and seed give the same bits. Needs torch and numpy only.
"""

from dataclasses import dataclass

import numpy as np
import torch

from slimdiff.evaluation.mmd import (
    FEWEST,
    blocks,
    check_subjects,
    group_sums,
    on_device,
    resampled_by_subject,
    unbiased_mmd2,
)

LARGEST_SUBSET = 500
# Features up to which the cubic kernel's own feature space (455 monomials) is the cheaper way.
_LARGEST_EXPLICIT = 12
_RESAMPLINGS = 128  # distribution functions held at once


@dataclass(frozen=True)
class MmdEstimate:
    """A squared MMD as the mean over seeded subsets."""

    value: float
    sd: float  # over subsets (ddof 0), the spread torch-fidelity prints; no interval over subjects
    n_real: int
    n_synthetic: int
    subset_size: int


def polynomial_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """k(x, y) = (x . y / D + 1)^3 for vectors x (N, D) and y (M, D); returns (N, M) in their precision."""
    base = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return (base * base).mul_(base)


def subset_mmd2(
    real: np.ndarray,
    synthetic: np.ndarray,
    seed: int,
    subsets: int = 100,
    subset_size: int | None = None,
    device: str | torch.device = "cpu",
) -> MmdEstimate:
    """Unbiased squared MMD, averaged over random subsets of equal size drawn without replacement.

    The draws are torch-fidelity's, real first, so that its KID of the same float64 features and seed is equal. If all
    features are float32, kernels are computed in float32 and summed in float64: of network features that moves the
    result by under 1e-8 of the mean kernel, which is under 1e-5 of a KID that differs from 0.

    Args:
        real, synthetic: (N, D) and (M, D) features.
        seed: of the draws.
        subsets: how many.
        subset_size: vectors drawn from each set; None: min(500, N, M).
        device: where kernels are computed.

    Returns:
        The mean and sd over subsets, both NaN where either set has fewer than 10 vectors.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a subset larger than a set.
    """
    _check(real, synthetic)
    n_real, n_synthetic = len(real), len(synthetic)
    size = min(LARGEST_SUBSET, n_real, n_synthetic) if subset_size is None else subset_size
    if min(n_real, n_synthetic) < FEWEST:
        return MmdEstimate(np.nan, np.nan, n_real, n_synthetic, size)
    if not 2 <= size <= min(n_real, n_synthetic):
        raise ValueError(
            f"subsets of {size} cannot be drawn from {n_real} real and {n_synthetic} synthetic vectors"
        )
    generator = np.random.RandomState(seed)
    of_real, of_synthetic = np.empty((2, subsets, size), np.int64)
    for subset in range(subsets):
        of_real[subset] = generator.choice(n_real, size, replace=False)
        of_synthetic[subset] = generator.choice(n_synthetic, size, replace=False)
    x, y = on_device(device, real, synthetic)
    # Either every kernel entry once, shared by the subsets, or subset by subset: whichever multiplies less.
    dim, entries = x.shape[1], (n_real + n_synthetic) ** 2 / 2
    if dim <= _LARGEST_EXPLICIT or entries * (dim + subsets) < subsets * 2 * size**2 * dim:
        sums = _three_sums(x, y, _indicators(of_real, n_real), _indicators(of_synthetic, n_synthetic))
    else:
        everything = np.ones((1, size))
        drawn = zip(of_real, of_synthetic, strict=True)
        parts = [_three_sums(x[rows], y[columns], everything, everything) for rows, columns in drawn]
        sums = np.concatenate(parts, axis=1)
    values = unbiased_mmd2(*sums, size, size)
    return MmdEstimate(float(values.mean()), float(values.std()), n_real, n_synthetic, size)


def _indicators(drawn: np.ndarray, n: int) -> np.ndarray:
    """Rows of 0/1 (subsets, n) from the indices that each subset drew (subsets, size)."""
    rows = np.zeros((len(drawn), n))
    np.put_along_axis(rows, drawn, 1, axis=1)
    return rows


def _three_sums(x: torch.Tensor, y: torch.Tensor, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """(3, groups) sums of the cubic kernel: within x's groups, within y's, and across."""
    sums = [_cubic_sums(z, groups, paired=True) for z, groups in ((x, in_x), (y, in_y))]
    return np.stack([*sums, _cubic_sums(x, in_x, y, in_y, paired=True)])


def resampled_mmd2(
    real: np.ndarray,
    synthetic: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Unbiased squared MMD of all vectors for every resampling of the real subjects.

    Precision as in `subset_mmd2`.

    Args:
        real, synthetic: (N, D) and (M, D) features; the synthetic ones are not resampled.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.
        device: where kernels are computed.

    Returns:
        (B,) float64; NaN where a set has fewer than 10 vectors, or a resampling has no pair.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    _check(real, synthetic)
    return resampled_by_subject(_cubic_sums, *on_device(device, real, synthetic), subjects, counts)


def _cubic_sums(
    x: torch.Tensor,
    in_x: np.ndarray,
    y: torch.Tensor | None = None,
    in_y: np.ndarray | None = None,
    paired: bool = False,
) -> np.ndarray:
    """`group_sums` of the cubic kernel; of few features by way of the feature space whose inner product it is, where
    the sum over the pairs of two groups is the inner product of the groups' sums."""
    if x.shape[1] > _LARGEST_EXPLICIT:
        return group_sums(polynomial_kernel, x, in_x, y, in_y, paired)
    of_x = _monomial_sums(x, in_x)
    if y is not None:
        of_y = _monomial_sums(y, in_y)
        return ((of_x * of_y).sum(dim=1) if paired else of_x @ of_y.T).cpu().numpy()
    itself = (x.double().square().mean(dim=1) + 1).pow(3).cpu().numpy()
    if paired:
        return of_x.square().sum(dim=1).cpu().numpy() - in_x @ itself
    return (of_x @ of_x.T).cpu().numpy() - in_x * itself @ in_x.T


def _monomial_sums(x: torch.Tensor, in_x: np.ndarray) -> torch.Tensor:
    """(A, P): per group of x (N, D) the sum of all P = (D + 3 choose 3) weighted monomials of degree up to 3, whose
    inner product is the cubic kernel: with u = (1, x / sqrt D), (u . v)^3 is the sum over i <= j <= k of
    c_ijk (u_i u_j u_k) (v_i v_j v_k), where c_ijk counts the orders of ijk."""
    dim, in_x = x.shape[1], torch.from_numpy(in_x).to(x.device, torch.float64)
    ijk = torch.combinations(torch.arange(dim + 1), 3, with_replacement=True)
    distinct = 1 + (ijk.diff(dim=1) > 0).sum(dim=1)
    weights = torch.tensor([0, 1, 3, 6], dtype=torch.float64)[distinct].sqrt().to(x.device)
    total = torch.zeros(len(in_x), len(ijk), dtype=torch.float64, device=x.device)
    for rows in blocks(len(x)):
        u = torch.nn.functional.pad(x[rows].double() / dim**0.5, (1, 0), value=1.0)
        i, j, k = ijk.to(x.device).T
        total += in_x[:, rows] @ (u[:, i] * u[:, j]).mul_(u[:, k]).mul_(weights)
    return total


def standardise(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z-scores of both sets with the mean and sd (ddof 0) of all real vectors.

    A feature that is constant in the real set is centred only. With no real vectors both come back as they
    are.
    """
    real, synthetic = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    if not len(real):
        return real, synthetic
    mean, sd = real.mean(axis=0), real.std(axis=0)
    # the sd of equal numbers is rounding error, not always 0
    sd = np.where(sd > 1e-12 * np.maximum(np.abs(mean), 1), sd, 1.0)
    return (real - mean) / sd, (synthetic - mean) / sd


def wasserstein(u: np.ndarray, v: np.ndarray) -> float:
    """Wasserstein-1 distance between two samples of numbers: the area between their distribution functions.

    NaN where either is empty.
    """
    weights = np.ones((1, len(u)))
    return float(_weighted_wasserstein(np.asarray(u, np.float64), np.asarray(v, np.float64), weights)[0])


def _weighted_wasserstein(u: np.ndarray, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Wasserstein-1 between u (N,) under each of weights (B, N) and v (M,): (B,), NaN where nothing has weight."""
    if not len(u) or not len(v):
        return np.full(len(weights), np.nan)
    order = np.argsort(u, kind="stable")
    u, v = u[order], np.sort(v)
    both = np.sort(np.concatenate([u, v]))
    widths, below_v = np.diff(both), np.searchsorted(v, both[:-1], side="right") / len(v)
    # the distribution function of u has one value between two of its numbers, whatever lies of v in between
    behind = np.searchsorted(u, both[:-1], side="right")
    distances = np.empty(len(weights))
    for start in range(0, len(weights), _RESAMPLINGS):
        rows = slice(start, start + _RESAMPLINGS)
        cumulated = np.pad(np.cumsum(weights[rows][:, order], axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        with np.errstate(invalid="ignore"):
            below_u = (cumulated / cumulated[:, -1:])[:, behind]
        distances[rows] = np.abs(below_u - below_v) @ widths
    return distances


def feature_wasserstein(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, float]:
    """Wasserstein-1 of every z-scored feature, and their geometric mean.

    Args:
        real, synthetic: (N, D) and (M, D) features in their own units.

    Returns:
        (D,) distances in real standard deviations, and exp(mean(log)); NaN where either set is empty.
    """
    everything = np.ones((1, 1))
    distances = resampled_wasserstein(real, synthetic, np.zeros(len(real), np.int64), everything)[0]
    with np.errstate(divide="ignore"):
        return distances, float(np.exp(np.mean(np.log(distances))))


def resampled_wasserstein(
    real: np.ndarray, synthetic: np.ndarray, subjects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Wasserstein-1 of every z-scored feature for every resampling of the real subjects.

    Args:
        real, synthetic: (N, D) and (M, D) features in their own units; z-scored by all real vectors, whatever a
            resampling drew.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B, D) distances in real standard deviations; NaN where a set is empty or a resampling drew no vector.

    Raises:
        ValueError: subjects that do not fit.
    """
    check_subjects(real, subjects, counts)
    real, synthetic = standardise(real, synthetic)
    weights = np.asarray(counts)[:, subjects]
    features = range(real.shape[1])
    return np.stack([_weighted_wasserstein(real[:, d], synthetic[:, d], weights) for d in features], axis=1)


def _check(real: np.ndarray, synthetic: np.ndarray) -> None:
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"features (N, D) and (M, D) are wanted, found {real.shape} and {synthetic.shape}")
    if not (np.isfinite(real).all() and np.isfinite(synthetic).all()):
        raise ValueError("features hold NaN or infinite values")
