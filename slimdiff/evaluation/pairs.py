"""Whether a mask sits on tissue that looks like a lesion: its contrast to its ring and to the brain."""

import numpy as np
from scipy import ndimage

from slimdiff.evaluation.masks import FeatureDistance, binarise, components, feature_distance
from slimdiff.evaluation.ranges import store_precision

FEATURES = ("delta", "z_in", "sigma_norm", "edge_align", "frac_bright")


def pair_features(
    images: np.ndarray,
    masks: np.ndarray,
    tau: float = 0.0,
    min_px: int = 5,
    min_slice_px: int = 0,
    ring_px: int = 5,
    brain_threshold: float = -0.95,
    erode_px: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Five intensity features of every lesion component M in brain B, with ring R around M.

    B is the image above `brain_threshold`, eroded; R is M dilated `ring_px` times by a cross, less M, within
    B; the edge dM is one such dilation less M, within B. mu and sigma (ddof 0) are taken over M within B, R
    and B; grad is the Sobel magnitude, unscaled, with a reflecting border.

    - `delta` = mu_M - mu_R, in units of the image
    - `z_in` = (mu_M - mu_B) / sigma_B
    - `sigma_norm` = sigma_M / sigma_B
    - `edge_align` = mean grad on dM / mean grad on B
    - `frac_bright` = share of M above mu_B + sigma_B

    A component without a ring is skipped, and so is one with a feature that is not finite (M outside the
    brain, a brain of one value).

    Args:
        images: (N, H, W) float, in [-1, 1].
        masks: (N, H, W), see `masks.binarise`.
        tau: threshold of continuous masks.
        min_px: components with fewer pixels are left out.
        min_slice_px: slices with fewer lesion pixels are left out.
        ring_px: width of the ring, px.
        brain_threshold: in units of the image.
        erode_px: erosion of the brain, px.

    Returns:
        (M, 5) float64, columns as `FEATURES`; and (M,) the slice of each component.

    Raises:
        ValueError: images and masks of different shapes, or out of range.
    """
    images, binary = store_precision(images), binarise(masks, tau)
    if images.shape != binary.shape:
        raise ValueError(f"images {images.shape} and masks {binary.shape} differ in shape")
    rows, slices = [], []
    for i, (image, mask) in enumerate(zip(images.astype(np.float64), binary, strict=True)):
        if not mask.any() or mask.sum() < min_slice_px:
            continue
        brain = image > brain_threshold
        if erode_px:
            brain = ndimage.binary_erosion(brain, iterations=erode_px)
        if not brain.any():
            continue
        gradient = np.hypot(ndimage.sobel(image, 0, mode="reflect"), ndimage.sobel(image, 1, mode="reflect"))
        mean, sd, mean_gradient = image[brain].mean(), image[brain].std(), gradient[brain].mean()
        for component in components(mask, min_px):
            window = _around(component, ring_px + 1)
            row = _contrast(
                image[window],
                gradient[window],
                component[window],
                brain[window],
                (mean, sd, mean_gradient),
                ring_px,
            )
            if row is not None and np.isfinite(row).all():
                rows.append(row)
                slices.append(i)
    return np.array(rows, np.float64).reshape(-1, len(FEATURES)), np.array(slices, np.int64)


def _around(component: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The component's bounding box with a margin, cut at the border of the image."""
    box = ndimage.find_objects(component.astype(np.int8))[0]
    return tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)


def _contrast(
    image: np.ndarray,
    gradient: np.ndarray,
    component: np.ndarray,
    brain: np.ndarray,
    of_brain: tuple[float, float, float],
    ring_px: int,
) -> tuple[float, ...] | None:
    ring = ndimage.binary_dilation(component, iterations=ring_px) & ~component & brain
    edge = ndimage.binary_dilation(component) & ~component & brain
    inside = component & brain
    if not ring.any() or not edge.any() or not inside.any():
        return None
    mean, sd, mean_gradient = of_brain
    values = image[inside]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            values.mean() - image[ring].mean(),
            np.divide(values.mean() - mean, sd),
            np.divide(values.std(), sd),
            np.divide(gradient[edge].mean(), mean_gradient),
            float(np.mean(values > mean + sd)),
        )


def mmd_pl(real: np.ndarray, synthetic: np.ndarray, seed: int, subsets: int = 100) -> FeatureDistance:
    """MMD-PL: distance between the lesion contrasts of two tables from `pair_features`."""
    return feature_distance(real, synthetic, FEATURES, seed, subsets)


def mean_frac_bright(table: np.ndarray) -> float:
    """Mean `frac_bright` over the components of a table from `pair_features`; NaN where it is empty."""
    return float(table[:, FEATURES.index("frac_bright")].mean()) if len(table) else float("nan")
