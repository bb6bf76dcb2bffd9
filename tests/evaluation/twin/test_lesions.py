"""Lesion metrics against a naive computation from docs/metric_definitions.md."""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.twin.lesions import components, contrast, lesions_of
from evaluation.twin.naive import (
    each_wasserstein,
    geometric_mean,
    robust_z_scores,
    unbiased_mmd,
    unequal_pairs,
    z_scores,
)
from scipy.spatial.distance import cdist

SHAPES = (
    *("area", "perimeter", "circularity", "solidity", "extent"),
    *("eccentricity", "major_axis", "minor_axis", "equivalent_diameter"),
)
CONTRASTS = ("delta", "z_in", "sigma_norm", "edge_align", "frac_bright")
NAMES = {"mmd_mf": SHAPES, "mmd_pl": CONTRASTS}


@pytest.fixture(scope="module")
def chosen(twin) -> SimpleNamespace:
    """Lesions of the chosen slices of class 1: held-out, samples, and each choice of training slices."""
    choice = twin.choice(label=1, floor_draws=20)

    def of(part, rows):
        return lesions_of(part.image[rows], part.mask[rows], part.z_bin[rows], twin)

    return SimpleNamespace(
        held_out=of(twin.held_out, choice.held_out),
        samples=of(twin.samples, choice.samples),
        floors=[of(twin.training, rows) for rows in choice.floors],
    )


def of_all(chosen, name):
    return (
        getattr(chosen.held_out, name),
        getattr(chosen.samples, name),
        [getattr(floor, name) for floor in chosen.floors],
    )


def features_of(chosen, metric):
    return of_all(chosen, "shapes" if metric == "mmd_mf" else "contrasts")


def test_the_floor_is_a_mean_over_different_choices(chosen, twin):
    assert len(chosen.floors) > 1
    assert len(chosen.samples.shapes) > 10


@pytest.mark.parametrize("metric", NAMES)
@pytest.mark.parametrize(("suffix", "scores"), [("", z_scores), ("_clipped", robust_z_scores)])
def test_mmd_of_features(twin, chosen, metric, suffix, scores):
    real, fake, floors = features_of(chosen, metric)
    floor = np.mean([unbiased_mmd(*scores(real, one)) for one in floors])
    twin.check(metric + suffix, unbiased_mmd(*scores(real, fake)), floor)


@pytest.mark.parametrize("metric", NAMES)
def test_wasserstein_distances_of_features(twin, chosen, metric):
    real, fake, floors = features_of(chosen, metric)
    distances, of_floors = each_wasserstein(real, fake), [each_wasserstein(real, one) for one in floors]
    for i, feature in enumerate(NAMES[metric]):
        twin.check(f"{metric}_w1_{feature}", distances[i], np.mean([floor[i] for floor in of_floors]))
    floor = np.mean([geometric_mean(one) for one in of_floors])
    twin.check(f"{metric}_w1", geometric_mean(distances), floor)


def whitened(real, fake):
    """Both sets after pooled whitening, and the kernel of three bandwidths."""
    pooled = np.concatenate([real, fake])
    sd = pooled.std(axis=0)
    pooled = (pooled - pooled.mean(axis=0)) / np.where(sd > 1e-12, sd, 1)
    covariance = 0.95 * (pooled.T @ pooled / len(pooled)) + 0.05 * np.eye(8)
    pooled = np.linalg.solve(np.linalg.cholesky(covariance), pooled.T).T
    median = np.median(cdist(pooled, pooled)[np.triu_indices(len(pooled), 1)])

    def kernel(a, b):
        squared = cdist(a, b) ** 2
        return np.mean([np.exp(-squared / 2 / (factor * median) ** 2) for factor in (0.5, 1, 2)], axis=0)

    return pooled[: len(real)], pooled[len(real) :], kernel


def test_robust_mmd(twin, chosen):
    real, fake, floors = of_all(chosen, "vectors")
    floor = np.mean([unbiased_mmd(*whitened(real, one)) for one in floors])
    twin.check("mmd_robust", unbiased_mmd(*whitened(real, fake)), floor)


def permutation_p(seed, real, fake) -> float:
    real, fake, kernel = whitened(real, fake)
    pooled = np.concatenate([real, fake])
    kernel_values = kernel(pooled, pooled)

    def mmd(is_real):
        n, m = is_real.sum(), (~is_real).sum()
        within = (
            unequal_pairs(kernel_values[np.ix_(one, one)]) / (size * (size - 1))
            for one, size in ((is_real, n), (~is_real, m))
        )
        return sum(within) - 2 * kernel_values[np.ix_(is_real, ~is_real)].mean()

    generator = np.random.default_rng(seed)
    generator.permutation(len(real)), generator.permutation(len(fake))
    observed = np.arange(len(pooled)) < len(real)
    permuted = generator.permuted(np.tile(observed, (500, 1)), axis=1)
    return (1 + sum(mmd(one) > mmd(observed) - 1e-12 for one in permuted)) / 501


def test_p_of_the_robust_mmd(twin, chosen):
    real, fake, floors = of_all(chosen, "vectors")
    twin.check(
        "mmd_robust_p", permutation_p(twin.seed, real, fake), permutation_p(twin.seed, real, floors[0])
    )


def test_undecided_pixels(twin):
    undecided = np.abs(twin.samples.raw_mask.astype(np.float32)) < 0.5
    twin.check("mask_undecided", undecided.mean(axis=(1, 2)).mean(), 0)


# Image and mask together ------------------------------------------------------------------------------------------


def test_median_contrast(twin, chosen):
    real, fake, _ = of_all(chosen, "contrasts")
    twin.check("delta_median", np.median(fake[:, 0]), np.median(real[:, 0]))


def test_median_contrast_of_moved_masks(twin):
    choice, medians = twin.choice(label=1), []
    for part, rows in ((twin.samples, choice.samples), (twin.held_out, choice.held_out)):
        generator, deltas = np.random.default_rng(twin.seed), []
        for i in rows:
            clean = np.flatnonzero((part.label == 0) & (part.z_bin == part.z_bin[i]))
            if len(clean) == 0:
                continue
            image = part.image[generator.choice(clean)]
            for one in components(part.mask[i], twin.fewest_in_component, twin.fewest_pixels):
                features = contrast(image, one, twin.ring_pixels)
                deltas.extend([] if features is None else [features[0]])
        medians.append(np.median(deltas))
    twin.check("delta_median_shuffled", *medians)


def test_bright_share(twin, chosen):
    real, fake, floors = of_all(chosen, "contrasts")
    twin.check("frac_bright", fake[:, 4].mean(), real[:, 4].mean())
    floor = np.mean([one[:, 4].mean() for one in floors]) - real[:, 4].mean()
    twin.check("frac_bright_gap", fake[:, 4].mean() - real[:, 4].mean(), floor)


# Class fidelity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z_bin", ["all", 0, 1, 2])
@pytest.mark.parametrize("label", [0, 1])
def test_share_of_samples_with_a_lesion(twin, label, z_bin):
    rows = (twin.samples.label == label) & ((twin.samples.z_bin == z_bin) | (z_bin == "all"))
    found = [len(components(mask, twin.fewest_in_component, 0)) > 0 for mask in twin.samples.mask[rows]]
    if found:
        twin.check(f"lesion_share_class{label}", np.mean(found), label, z_bin)


def areas(twin, part):
    """Lesion areas of all slices of class 1 that have a lesion, and their z-bins."""
    rows = part.label == 1
    area = lesions_of(part.image[rows], part.mask[rows], part.z_bin[rows], twin).area
    return area[area > 0], part.z_bin[rows][area > 0]


@pytest.mark.parametrize("z_bin", [0, 1, 2])
def test_lesion_area(twin, z_bin):
    (real, z_real), (fake, z_fake) = (areas(twin, part) for part in (twin.held_out, twin.samples))
    twin.check("lesion_area", np.median(fake[z_fake == z_bin]), np.median(real[z_real == z_bin]), z_bin)


def test_gap_of_lesion_area(twin):
    (real, z_real), fake, training = (
        areas(twin, one) for one in (twin.held_out, twin.samples, twin.training)
    )
    naive = []
    for area, z_bins in (fake, training):
        ratios, weights = [], []
        for z_bin in set(z_real) & set(z_bins):
            ratios.append(np.log2(np.median(area[z_bins == z_bin]) / np.median(real[z_real == z_bin])))
            weights.append((z_real == z_bin).sum())
        naive.append(np.average(ratios, weights=weights))
    twin.check("lesion_area_gap", *naive)


def test_centroid_distance(twin, chosen):
    def energy_distance(real, other):
        return unbiased_mmd(real, other, lambda a, b: -cdist(a, b))

    real, fake, floors = of_all(chosen, "positions")
    floor = np.mean([energy_distance(real, one) for one in floors])
    twin.check("centroid_distance", energy_distance(real, fake), floor)


def test_gap_of_lesions_on_the_left(twin, chosen):
    real, fake, floors = of_all(chosen, "positions")
    left = (real[:, 0] < 0).mean()
    floor = np.mean([(one[:, 0] < 0).mean() for one in floors])
    twin.check("lesion_left_gap", (fake[:, 0] < 0).mean() - left, floor - left)
