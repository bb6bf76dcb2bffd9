"""Estimates that several metrics share, and the choice of slices, written from the text of docs/ alone."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

FEWEST = 10
"""Vectors that both sets need for an MMD, FID, precision and recall."""


def grey_levels(images):
    scaled = (np.clip(images.astype(np.float32), -1, 1) + 1) * np.float32(127.5)
    return np.rint(scaled).astype(np.uint8)


# One mix of z-bins and classes ------------------------------------------------------------------------------------


@dataclass
class Choice:
    """Positions within the held-out slices, the samples and the training slices, each ascending."""

    held_out: np.ndarray
    samples: np.ndarray
    matched: np.ndarray
    """The samples of FID, precision and recall."""
    floors: list[np.ndarray]
    """Choices of training slices."""


def cells(z_bins, labels) -> list[tuple[int, int]]:
    return [(int(z), int(label)) for z, label in zip(z_bins, labels, strict=True)]


def largest_remainders(exact: dict) -> dict:
    """Whole numbers of slices per cell: rounded down, and the missing ones to the largest remainders."""
    whole = {cell: number.numerator // number.denominator for cell, number in exact.items()}
    total = sum(exact.values())
    missing = total.numerator // total.denominator - sum(whole.values())
    by_remainder = sorted(exact, key=lambda cell: (-(exact[cell] - whole[cell]), cell))
    for cell in by_remainder[:missing]:
        whole[cell] += 1
    return whole


def first_in_random_order(of_slices: list, wanted: dict, seed: int) -> np.ndarray:
    """Of every cell the first slices in a permutation of all slices."""
    left, chosen = dict(wanted), []
    for i in np.random.default_rng(seed).permutation(len(of_slices)):
        if left.get(of_slices[i], 0) > 0:
            left[of_slices[i]] -= 1
            chosen.append(int(i))
    return np.array(sorted(chosen), int)


def choose(held_out, samples, training, seed, z_bin="all", label=None, floor_draws=1) -> Choice:
    """Lists of cells (z-bin, class), one per slice -> the slices that metrics compare."""

    def count(of_slices, cell):
        return sum(one == cell for one in of_slices)

    used = sorted(
        cell
        for cell in set(held_out) & set(samples)
        if z_bin in ("all", cell[0]) and label in (None, cell[1])
    )
    h, s, t = ({cell: count(x, cell) for cell in used} for x in (held_out, samples, training))
    k = min(Fraction(s[cell], h[cell]) for cell in used)
    k_floor = min(k, Fraction(sum(t.values()), sum(h.values())))
    of_samples = largest_remainders({cell: k * h[cell] for cell in used})
    of_floor = largest_remainders({cell: k_floor * h[cell] for cell in used})
    of_floor = {cell: min(of_floor[cell], t[cell]) for cell in used}
    draws = [first_in_random_order(training, of_floor, seed + i) for i in range(floor_draws)]
    floors = []
    for draw in draws:
        if not any(np.array_equal(draw, other) for other in floors):
            floors.append(draw)
    matched = of_floor if sum(of_floor.values()) else of_samples
    return Choice(
        np.array([i for i, cell in enumerate(held_out) if cell in used]),
        first_in_random_order(samples, of_samples, seed),
        first_in_random_order(samples, matched, seed),
        floors,
    )


# Distances --------------------------------------------------------------------------------------------------------


def cubic(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def unequal_pairs(kernel_values) -> float:
    return kernel_values.sum() - np.trace(kernel_values)


def unbiased_mmd(x, y, kernel=cubic) -> float:
    n, m = len(x), len(y)
    if min(n, m) < FEWEST:
        return np.nan
    within = unequal_pairs(kernel(x, x)) / (n * (n - 1)) + unequal_pairs(kernel(y, y)) / (m * (m - 1))
    return within - 2 * kernel(x, y).mean()


def z_scores(held_out, others):
    mean, sd = held_out.mean(axis=0), held_out.std(axis=0)
    return (held_out - mean) / sd, (others - mean) / sd


def robust_z_scores(held_out, others):
    middle = np.median(held_out, axis=0)
    scale = 1.4826 * np.median(np.abs(held_out - middle), axis=0)
    scale = np.where(scale > 0, scale, held_out.std(axis=0))
    return tuple(np.clip((values - middle) / scale, -5, 5) for values in (held_out, others))


def each_wasserstein(held_out, others) -> np.ndarray:
    a, b = z_scores(held_out, others)
    return np.array([wasserstein_distance(a[:, d], b[:, d]) for d in range(a.shape[1])])


def geometric_mean(distances) -> float:
    return float(np.exp(np.log(distances).mean())) if distances.min() > 0 else 0.0


def kernel_inception_distance(a, b, seed: int) -> float:
    if min(len(a), len(b)) < FEWEST:
        return np.nan
    direction = np.random.default_rng(0).standard_normal(a.shape[1])
    a, b = (x.astype(float) for x in (a, b))
    a, b = (x[np.argsort(x @ direction, kind="stable")] for x in (a, b))
    generator, size, values = np.random.RandomState(seed), min(500, len(a), len(b)), []
    for _ in range(100):
        i = generator.choice(len(a), size, replace=False)
        j = generator.choice(len(b), size, replace=False)
        values.append(unbiased_mmd(a[i], b[j]))
    return float(np.mean(values))


def frechet_distance(a, b) -> float:
    if min(len(a), len(b)) < FEWEST:
        return np.nan
    a, b = a.astype(float), b.astype(float)
    root_a, root_b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    of_means = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    common = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return max(0.0, of_means + (root_a**2).sum() + (root_b**2).sum() - 2 * common)


def precision_and_recall(held_out, others) -> tuple[float, float]:
    if min(len(held_out), len(others)) < FEWEST:
        return np.nan, np.nan
    held_out, others = held_out.astype(float), others.astype(float)
    radius_x, radius_y = (np.sort(cdist(x, x), axis=1)[:, 3] for x in (held_out, others))
    distance = cdist(held_out, others)
    precision = (distance <= radius_x[:, None]).any(axis=0).mean()
    return precision, (distance <= radius_y[None]).any(axis=1).mean()
