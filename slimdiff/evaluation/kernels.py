"""Distances between two sets of feature vectors: the cubic polynomial MMD and the Wasserstein-1 distance.

Binkowski et al. 2018 (KID, subset averaging), Gretton et al. 2012 (the unbiased estimate). Seeded: the same
features and seed give the same bits.
"""

from dataclasses import dataclass

import numpy as np

FEWEST = 10  # below this many vectors in either set an MMD says nothing
LARGEST_SUBSET = 500
_ROWS = 1024  # kernel rows held at once


@dataclass(frozen=True)
class MmdEstimate:
    """A squared MMD as the mean over seeded subsets."""

    value: float
    sd: float  # over subsets (ddof 0), the spread torch-fidelity prints; no interval over subjects
    n_real: int
    n_synthetic: int
    subset_size: int


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(x, y) = (x . y / D + 1)^3 for vectors x (N, D) and y (M, D); returns (N, M) float64."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1.0) ** 3


def subset_mmd2(
    real: np.ndarray,
    synthetic: np.ndarray,
    seed: int,
    subsets: int = 100,
    subset_size: int | None = None,
) -> MmdEstimate:
    """Unbiased squared MMD, averaged over random subsets of equal size drawn without replacement.

    The draws are torch-fidelity's, real first, so that its KID of the same features and seed is equal.

    Args:
        real, synthetic: (N, D) and (M, D) features.
        seed: of the draws.
        subsets: how many.
        subset_size: vectors drawn from each set; None: min(500, N, M).

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
    in_real, in_synthetic = np.zeros((subsets, n_real)), np.zeros((subsets, n_synthetic))
    for subset in range(subsets):
        in_real[subset, generator.choice(n_real, size, replace=False)] = 1
        in_synthetic[subset, generator.choice(n_synthetic, size, replace=False)] = 1
    # Every kernel entry is computed once and shared by the subsets: with 0/1 rows s, the sum over a subset
    # is s K s'.
    within = _sums(real, real, in_real, in_real) + _sums(synthetic, synthetic, in_synthetic, in_synthetic)
    across = _sums(real, synthetic, in_real, in_synthetic)
    values = within / (size * (size - 1)) - 2 * across / size**2
    return MmdEstimate(float(values.mean()), float(values.std()), n_real, n_synthetic, size)


def _sums(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Per subset the sum of the kernel over its pairs, without the diagonal where x is y; row by row."""
    total = np.zeros(len(in_x))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = polynomial_kernel(x[rows], y)
        if x is y:
            kernel[np.arange(len(kernel)), start + np.arange(len(kernel))] = 0
        total += ((in_x[:, rows] @ kernel) * in_y).sum(axis=1)
    return total


def resampled_mmd2(
    real: np.ndarray, synthetic: np.ndarray, subjects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Unbiased squared MMD of all vectors for every resampling of the real subjects.

    A subject drawn twice is two subjects that look alike: its vectors are paired within each copy, never
    across the copies of itself, because the kernel of a vector with itself would lift every resampling above
    the estimate.

    Args:
        real, synthetic: (N, D) and (M, D) features; the synthetic ones are not resampled.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) float64; NaN where a set has fewer than 10 vectors, or a resampling has no pair.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    _check(real, synthetic)
    counts = np.asarray(counts, np.float64)
    n_subjects = counts.shape[1]
    if len(subjects) != len(real) or (len(real) and np.max(subjects) >= n_subjects):
        raise ValueError(f"{len(subjects)} subject indices below {n_subjects} do not fit {len(real)} vectors")
    if min(len(real), len(synthetic)) < FEWEST:
        return np.full(len(counts), np.nan)
    member = np.eye(n_subjects)[:, subjects]  # (S, N)
    between = _subject_sums(real, member)
    size = member.sum(axis=1)
    own, own_pairs = np.diag(between).copy(), size * (size - 1)
    pairs = np.outer(size, size)
    np.fill_diagonal(between, 0)
    np.fill_diagonal(pairs, 0)
    kernel_sum = np.einsum("bs,st,bt->b", counts, between, counts) + counts @ own
    pair_sum = np.einsum("bs,st,bt->b", counts, pairs, counts) + counts @ own_pairs
    across = np.concatenate(
        [polynomial_kernel(real[i : i + _ROWS], synthetic).sum(axis=1) for i in range(0, len(real), _ROWS)]
    )
    n = len(synthetic)
    everything = np.ones((1, n))
    of_synthetic = _sums(synthetic, synthetic, everything, everything)[0] / (n * (n - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return kernel_sum / pair_sum + of_synthetic - 2 * (counts @ (member @ across)) / (counts @ size) / n


def _subject_sums(real: np.ndarray, member: np.ndarray) -> np.ndarray:
    """(S, S) sums of the kernel between subjects, a vector's kernel with itself left out."""
    total = np.zeros((len(member), len(member)))
    for start in range(0, len(real), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = polynomial_kernel(real[rows], real)
        kernel[np.arange(len(kernel)), start + np.arange(len(kernel))] = 0
        total += member[:, rows] @ kernel @ member.T
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
    u, v = np.sort(np.asarray(u, np.float64)), np.sort(np.asarray(v, np.float64))
    if not len(u) or not len(v):
        return float("nan")
    both = np.sort(np.concatenate([u, v]))
    below_u = np.searchsorted(u, both[:-1], side="right") / len(u)
    below_v = np.searchsorted(v, both[:-1], side="right") / len(v)
    return float(np.sum(np.abs(below_u - below_v) * np.diff(both)))


def feature_wasserstein(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, float]:
    """Wasserstein-1 of every z-scored feature, and their geometric mean.

    Args:
        real, synthetic: (N, D) and (M, D) features in their own units.

    Returns:
        (D,) distances in real standard deviations, and exp(mean(log)); NaN where either set is empty.
    """
    real, synthetic = standardise(real, synthetic)
    distances = np.array([wasserstein(real[:, d], synthetic[:, d]) for d in range(real.shape[1])])
    with np.errstate(divide="ignore"):
        return distances, float(np.exp(np.mean(np.log(distances))))


def _check(real: np.ndarray, synthetic: np.ndarray) -> None:
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"features (N, D) and (M, D) are wanted, found {real.shape} and {synthetic.shape}")
    if not (np.isfinite(real).all() and np.isfinite(synthetic).all()):
        raise ValueError("features hold NaN or infinite values")
