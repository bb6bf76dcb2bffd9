"""Plain implementations of the metrics: one mask, subset or query at a time."""

import warnings

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops

SUBSETS, SUBSET_SIZE = 100, 500


def subset_mmd2(real: np.ndarray, synthetic: np.ndarray, seed: int) -> float:
    """Mean unbiased squared MMD over subsets; kernels are computed for each subset."""
    rng = np.random.RandomState(seed)
    size, values = min(SUBSET_SIZE, len(real), len(synthetic)), []
    real, synthetic = real.astype(np.float64), synthetic.astype(np.float64)
    for _ in range(SUBSETS):
        x = real[rng.choice(len(real), size, replace=False)]
        y = synthetic[rng.choice(len(synthetic), size, replace=False)]
        xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
        values.append(within / (size * (size - 1)) - 2 * xy.mean())
    return float(np.mean(values))


def table_mmd2(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Squared MMD of all component features, z-scored as in `lesions.feature_distance`."""
    mean, sd = real.mean(axis=0), real.std(axis=0)
    x, y = (real - mean) / sd, (synthetic - mean) / sd
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = [(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in (xx, yy)]
    return float(sum(within) - 2 * xy.mean())


def shapes(masks: np.ndarray, tau: float, min_px: int) -> np.ndarray:
    """Nine shape features of every component, by scikit-image."""
    rows = []
    for mask in masks:
        for region in regionprops(label(mask > tau, connectivity=1)):
            if region.area < min_px:
                continue
            perimeter = region.perimeter
            circularity = min(4 * np.pi * region.area / perimeter**2, 1) if perimeter else 0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                solidity = region.solidity
            sizes = (region.axis_major_length, region.axis_minor_length, region.equivalent_diameter_area)
            rows.append(
                (region.area, perimeter, circularity, solidity, region.extent, region.eccentricity, *sizes)
            )
    return np.array(rows, np.float64)


def contrasts(images: np.ndarray, masks: np.ndarray, tau: float, min_px: int, ring_px: int) -> np.ndarray:
    """Five contrast features of every component, by scipy.ndimage on whole slices."""
    rows = []
    for image, mask in zip(images.astype(np.float64), masks > tau, strict=True):
        brain = ndimage.binary_erosion(image > -0.95)
        gradient = np.hypot(*(ndimage.sobel(image, axis, mode="reflect") for axis in (0, 1)))
        labels = label(mask, connectivity=1)
        for one in range(1, labels.max() + 1):
            component = labels == one
            ring = ndimage.binary_dilation(component, iterations=ring_px) & ~component & brain
            inside = image[component & brain]
            if component.sum() < min_px or not ring.any() or not len(inside):
                continue
            edge = ndimage.binary_dilation(component) & ~component & brain
            mean, sd = image[brain].mean(), image[brain].std()
            rows.append(
                (
                    inside.mean() - image[ring].mean(),
                    (inside.mean() - mean) / sd,
                    inside.std() / sd,
                    gradient[edge].mean() / gradient[brain].mean(),
                    (inside > mean + sd).mean(),
                )
            )
    return np.array(rows, np.float64)


def nearest(
    query: np.ndarray, reference: np.ndarray, query_bin: np.ndarray, reference_bin: np.ndarray, ncc: bool
) -> np.ndarray:
    """Distance to the nearest reference of the same z-bin, one query at a time, in float64."""
    flat = [np.reshape(values, (len(values), -1)) for values in (query, reference)]
    distances = []
    for row, z_bin in zip(flat[0], query_bin, strict=True):
        q, r = row.astype(np.float64), flat[1][reference_bin == z_bin].astype(np.float64)
        if ncc:
            q, r = q - q.mean(), r - r.mean(axis=1, keepdims=True)
            correlation = r @ q / (np.linalg.norm(q) * np.linalg.norm(r, axis=1))
            distances.append(1 - correlation.max())
        else:
            distances.append(np.linalg.norm(r - q, axis=1).min())
    return np.array(distances)


def rbf_mmd2(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of three RBF kernels (N, N) of all whitened vectors, and the unbiased squared MMD."""
    pooled, n = np.concatenate([x, y]), len(x)
    squares = (pooled**2).sum(axis=1)
    squared = np.maximum(squares[:, None] + squares - 2 * pooled @ pooled.T, 0)
    median = np.median(np.sqrt(squared[np.triu_indices(len(pooled), 1)]))
    kernel = sum(np.exp(-squared / (2 * (factor * median) ** 2)) for factor in (0.5, 1, 2)) / 3
    return kernel, _mmd2(kernel, np.arange(n), np.arange(n, len(kernel)))


def permutation_p(kernel: np.ndarray, n_real: int, permutations: int, seed: int) -> float:
    """Permutation p of the MMD; each labelling indexes the kernel (N, N) separately."""
    rng = np.random.default_rng(seed)
    everything = np.arange(len(kernel))
    observed = _mmd2(kernel, everything[:n_real], everything[n_real:])
    at_least = 0
    for _ in range(permutations):
        order = rng.permutation(everything)
        at_least += _mmd2(kernel, order[:n_real], order[n_real:]) >= observed
    return (1 + at_least) / (1 + permutations)


def _mmd2(kernel: np.ndarray, real: np.ndarray, synthetic: np.ndarray) -> float:
    total = -2 * kernel[np.ix_(real, synthetic)].mean()
    for part in (real, synthetic):
        within = kernel[np.ix_(part, part)]
        total += (within.sum() - np.trace(within)) / (len(part) * (len(part) - 1))
    return float(total)
