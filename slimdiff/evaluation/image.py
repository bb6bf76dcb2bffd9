"""How close synthetic slices come to real ones, on their feature vectors: KID, FID, precision and recall."""

import numpy as np

from slimdiff.evaluation.kernels import FEWEST, MmdEstimate, subset_mmd2


def kid(
    real_features: np.ndarray,
    synthetic_features: np.ndarray,
    seed: int,
    subsets: int = 100,
    subset_size: int | None = None,
) -> MmdEstimate:
    """Kernel distance between real and synthetic features (Binkowski et al. 2018).

    Equal to torch-fidelity's `kid_features_to_metric` for float64 features and the same seed, subsets and
    size. Print the extractor beside it: only with `inception` is this *the* KID.

    Args:
        real_features, synthetic_features: (N, D) and (M, D), from `features.extract`.
        seed: of the subsets.
        subsets, subset_size: how many and how large; None: min(500, N, M).

    Returns:
        Mean and sd over subsets; NaN below 10 slices.
    """
    return subset_mmd2(real_features, synthetic_features, seed, subsets, subset_size)


def fid(real_features: np.ndarray, synthetic_features: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to both sets of features (Heusel et al. 2017).

    Tr (S1 S2)^1/2 is the sum of the singular values of A B', where S1 = A'A and S2 = B'B: exact and quick
    for fewer slices than features, where the covariance matrices themselves are singular. Biased upwards for
    small sets: compare it only between sets of equal size, see `statistics.floor`.

    Args:
        real_features, synthetic_features: (N, D) and (M, D).

    Returns:
        The distance, not below 0; NaN below 10 slices in either.
    """
    if min(len(real_features), len(synthetic_features)) < FEWEST:
        return float("nan")
    means, roots = [], []
    for features in (real_features, synthetic_features):
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        root = (features - mean) / np.sqrt(len(features) - 1)
        if len(root) > root.shape[1]:
            root = np.linalg.qr(root, mode="r")
        means.append(mean)
        roots.append(root)
    trace_of_root = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    traces = sum(float(np.sum(root**2)) for root in roots)
    return max(float(np.sum((means[0] - means[1]) ** 2)) + traces - 2 * float(trace_of_root), 0.0)


def precision_recall(
    real_features: np.ndarray, synthetic_features: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """Share of synthetic slices within the real manifold, and of real ones within the synthetic.

    Kynkaanniemi et al. 2019, computed by torch-fidelity: a manifold is the union of balls that reach from
    each vector to its k-th nearest neighbour.

    Args:
        real_features, synthetic_features: (N, D) and (M, D).
        neighbours: k.

    Returns:
        precision, recall in [0, 1]; NaN below 10 slices in either.
    """
    if min(len(real_features), len(synthetic_features)) < max(FEWEST, neighbours + 1):
        return float("nan"), float("nan")
    # imported here: torch-fidelity brings torchvision along
    import torch
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    # doubles, because torch.cdist works through matrix products and loses small distances in float32
    synthetic, real = (
        torch.from_numpy(np.asarray(f, np.float64)) for f in (synthetic_features, real_features)
    )
    answer = prc_features_to_metric(synthetic, real, prc_neighborhood=neighbours, verbose=False)
    return answer[KEY_METRIC_PRECISION], answer[KEY_METRIC_RECALL]


def matched_pairs(
    bins_a: np.ndarray,
    bins_b: np.ndarray,
    n_pairs: int,
    seed: int,
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs of slices from the same z-bin, drawn with replacement; what LPIPS is averaged over.

    Args:
        bins_a, bins_b: (N,) and (M,) z-bin of each slice.
        n_pairs: how many pairs.
        seed: of the draws.
        groups_a, groups_b: subject (or sample id, within one set) of each slice; a pair joins no equal ones.

    Returns:
        Two (n_pairs,) index arrays; empty where no two slices fit.
    """
    bins_a, bins_b = np.asarray(bins_a), np.asarray(bins_b)
    allowed = bins_a[:, None] == bins_b[None]
    if groups_a is not None and groups_b is not None:
        allowed &= np.asarray(groups_a)[:, None] != np.asarray(groups_b)[None]
    rows = np.flatnonzero(allowed.any(axis=1))
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    generator = np.random.default_rng(seed)
    first = generator.choice(rows, n_pairs)
    return first, np.array([generator.choice(np.flatnonzero(allowed[row])) for row in first], np.int64)
