"""Lesions and their features, one by one, from the text of docs/metric_definitions.md alone."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops

CROSS = ndimage.generate_binary_structure(2, 1)


@dataclass
class Lesions:
    """Features of all components of a set. `slice_of_*` has the slice of each row, in the order of the set."""

    shapes: np.ndarray
    positions: np.ndarray
    slice_of_shapes: np.ndarray
    contrasts: np.ndarray
    slice_of_contrasts: np.ndarray
    vectors: np.ndarray
    slice_of_vectors: np.ndarray
    area: np.ndarray
    """Lesion area of each slice, 0 without a component."""


def components(mask, fewest_in_component: int, fewest_in_slice: int) -> list[np.ndarray]:
    if mask.sum() < fewest_in_slice:
        return []
    numbers = label(mask, connectivity=1)
    every = [numbers == i for i in range(1, numbers.max() + 1)]
    return [one for one in every if one.sum() >= fewest_in_component]


def shape(component) -> list[float]:
    """The nine shape features."""
    found = regionprops(component.astype(int))[0]
    area, perimeter = float(component.sum()), found.perimeter
    pixels = np.argwhere(component).astype(float)
    small, large = np.clip(np.linalg.eigvalsh(np.cov(pixels.T, ddof=0)), 0, None)
    return [
        area,
        perimeter,
        min(1.0, 4 * np.pi * area / perimeter**2) if perimeter > 0 else 0.0,
        area / found.area_convex,
        area / (np.ptp(pixels, axis=0) + 1).prod(),
        np.sqrt(1 - small / large) if large > 0 else 0.0,
        4 * np.sqrt(large),
        4 * np.sqrt(small),
        np.sqrt(4 * area / np.pi),
    ]


def contrast(image, component, ring_pixels: int) -> list[float] | None:
    """The five contrast features, or None if one is not finite."""
    brain = image.astype(np.float32) > np.float32(-0.95)
    brain = ndimage.binary_erosion(brain, CROSS, border_value=0)
    ring = ndimage.binary_dilation(component, CROSS, iterations=ring_pixels) & ~component & brain
    edge = ndimage.binary_dilation(component, CROSS) & ~component & brain
    inside = component & brain
    if not (ring.any() and edge.any() and inside.any()):
        return None
    image = image.astype(float)
    gradient = np.hypot(*(ndimage.sobel(image, axis, mode="reflect") for axis in (0, 1)))
    mean, sd = image[brain].mean(), image[brain].std()
    features = [
        image[inside].mean() - image[ring].mean(),
        (image[inside].mean() - mean) / sd,
        image[inside].std() / sd,
        gradient[edge].mean() / gradient[brain].mean(),
        (image[inside] > mean + sd).mean(),
    ]
    return features if np.isfinite(features).all() else None


def position(image, component, spacing: float) -> list[float]:
    """Centroid relative to the middle of the brain's box, in mm: x to the right, y to the back."""
    brain = np.argwhere(image.astype(np.float32) > np.float32(-0.95))
    middle = (brain.min(axis=0) + brain.max(axis=0)) / 2
    row, column = (np.argwhere(component).mean(axis=0) - middle) * spacing
    return [column, row]


def lesions_of(images, masks, z_bins, twin) -> Lesions:
    """All lesions of some slices."""
    rows = {name: [] for name in ("shape", "position", "contrast", "vector", "area")}
    origin = {name: [] for name in ("shape", "contrast", "vector")}
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        found = components(mask, twin.fewest_in_component, twin.fewest_pixels)
        rows["area"].append(sum(int(one.sum()) for one in found))
        for one in found:
            rows["shape"].append(shape(one))
            rows["position"].append(position(image, one, twin.spacing))
            origin["shape"].append(i)
            features = contrast(image, one, twin.ring_pixels)
            if features is not None:
                rows["contrast"].append(features)
                origin["contrast"].append(i)
        if found:
            largest = max(found, key=lambda one: one.sum())
            _, _, circularity, solidity, _, eccentricity, *_ = shape(largest)
            row, column = np.argwhere(largest).mean(axis=0)
            vector = [np.log(rows["area"][-1]), len(found), circularity, solidity, eccentricity, column, row]
            rows["vector"].append([*vector, z_bins[i]])
            origin["vector"].append(i)
    values = {name: np.array(found, float) for name, found in rows.items()}
    of = {name: np.array(found, int) for name, found in origin.items()}
    return Lesions(
        values["shape"],
        values["position"],
        of["shape"],
        values["contrast"],
        of["contrast"],
        values["vector"],
        of["vector"],
        values["area"],
    )
