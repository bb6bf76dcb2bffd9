"""Image metrics against a naive computation from docs/metric_definitions.md."""

import numpy as np
import pytest
from evaluation.twin.naive import (
    frechet_distance,
    grey_levels,
    kernel_inception_distance,
    precision_and_recall,
)
from scipy import ndimage
from skimage.measure import regionprops

from slimdiff.evaluation.metrics.features import extract
from slimdiff.evaluation.metrics.lpips import lpips_distance

Z_BINS = ("all", 0, 1, 2)


def spectrum(image):
    image = image.astype(float) + 1
    power = np.abs(np.fft.fft2(image)) ** 2 / image.size
    radius = min(image.shape) // 2
    rows, columns = np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None]
    ring = np.rint(2 * radius * np.hypot(rows, columns)).astype(int)
    rounding = (2 / 255) ** 2 / 12
    return np.array([10 * np.log10(power[ring == r].mean() + rounding) for r in range(1, radius + 1)])


def histogram(image):
    values = image.astype(np.float32)
    values = values[values > np.float32(-0.95)].astype(float)
    return np.histogram(values, 128, (-0.95, 1))[0] / len(values)


def decibels(a, b):
    return np.abs(a.mean(axis=0) - b.mean(axis=0)).mean()


def histogram_distance(a, b):
    return 1.95 / 128 * np.abs(np.cumsum(a.mean(axis=0) - b.mean(axis=0))).sum()


def outline(image):
    pieces, count = ndimage.label(image.astype(np.float32) > np.float32(-0.95))
    if not count:
        return 0, 0, 0
    brain = pieces == max(range(1, count + 1), key=lambda piece: (pieces == piece).sum())
    outside, _ = ndimage.label(np.pad(~brain, 1, constant_values=True))
    brain = (outside != outside[0, 0])[1:-1, 1:-1]
    pixels = set(map(tuple, np.argwhere(brain)))
    double = int(np.rint(2 * np.mean([column for _, column in pixels])))
    mirrored = sum((row, double - column) in pixels for row, column in pixels)
    hull = regionprops(brain.astype(int))[0].area_convex
    return len(pixels), len(pixels) / hull, mirrored / len(pixels)


@pytest.mark.parametrize("z_bin", Z_BINS)
def test_outline_share(twin, z_bin):
    choice, found = twin.choice(z_bin), {}
    for name in ("held_out", "training", "samples"):
        one = getattr(twin, name)
        found[name] = [(z, outline(image)) for z, image in zip(one.z_bin, one.image, strict=True)]
    real = found["held_out"] + found["training"]
    limits = {z: np.quantile([f for own, f in real if own == z], (0.01, 0.99), axis=0) for z in (0, 1, 2)}

    def share(slices):
        return np.mean([np.all((limits[z][0] <= f) & (np.array(f) <= limits[z][1])) for z, f in slices])

    naive = (
        share([found[name][i] for i in rows])
        for name, rows in (("samples", choice.samples), ("training", choice.floors[0]))
    )
    twin.check("outline_share", *naive, z_bin)


def test_the_choice_of_slices_is_not_trivial(twin):
    choice = twin.choice()
    for chosen, of_set in (
        (choice.held_out, twin.held_out),
        (choice.samples, twin.samples),
        (choice.floors[0], twin.training),
    ):
        assert 10 <= len(chosen) < len(of_set.z_bin)
    assert len(choice.matched) < len(choice.samples)


@pytest.mark.parametrize("z_bin", Z_BINS)
@pytest.mark.parametrize(
    ("metric", "profile", "distance"),
    [("spectrum", spectrum, decibels), ("brain_histogram", histogram, histogram_distance)],
)
def test_profiles(twin, metric, profile, distance, z_bin):
    choice = twin.choice(z_bin)
    real, fake, floor = (
        np.array([profile(image) for image in images])
        for images in (
            twin.held_out.image[choice.held_out],
            twin.samples.image[choice.samples],
            twin.training.image[choice.floors[0]],
        )
    )
    twin.check(metric, distance(real, fake), distance(real, floor), z_bin, tolerance=1e-5)


@pytest.mark.parametrize("z_bin", Z_BINS)
def test_kid(twin, z_bin):
    choice = twin.choice(z_bin)
    real, fake = twin.held_out.feature[choice.held_out], twin.samples.feature[choice.samples]
    floor = twin.training.feature[choice.floors[0]]
    naive = (kernel_inception_distance(real, other, twin.seed) for other in (fake, floor))
    twin.check("kid", *naive, z_bin, tolerance=1e-5)


def test_kid_blurred(twin):
    images = twin.held_out.image[twin.choice().held_out]
    blurred = [ndimage.gaussian_filter(image.astype(np.float32), 2.0) for image in images]
    features = extract(grey_levels(np.array(blurred).astype(np.float16)), "alexnet", progress=False)
    real = twin.held_out.feature[twin.choice().held_out]
    twin.check("kid_blurred", kernel_inception_distance(real, features, twin.seed), tolerance=1e-5)


@pytest.mark.parametrize("z_bin", Z_BINS)
def test_fid_precision_and_recall(twin, z_bin):
    choice = twin.choice(z_bin)
    real, fake = twin.held_out.feature[choice.held_out], twin.samples.feature[choice.matched]
    floor = twin.training.feature[choice.floors[0]]
    naive = (frechet_distance(real, other) for other in (fake, floor))
    twin.check("fid", *naive, z_bin, tolerance=1e-5)
    naive = (precision_and_recall(real, other) for other in (fake, floor))
    for metric, pair in zip(("precision", "recall"), zip(*naive, strict=True), strict=True):
        twin.check(metric, *pair, z_bin)


def drawn_pairs(seed, rows, partners):
    """40 first slices, and a random partner of each."""
    generator = np.random.default_rng(seed)
    first = generator.choice(rows, 40)
    return first, np.array([generator.choice(partners(i)) for i in first])


@pytest.mark.parametrize("z_bin", Z_BINS)
def test_lpips(twin, z_bin):
    choice = twin.choice()
    real, z_real = twin.held_out.image[choice.held_out], twin.held_out.z_bin[choice.held_out]
    naive = []
    for others, chosen in ((twin.samples, choice.samples), (twin.training, choice.floors[0])):
        images, z_other = others.image[chosen], others.z_bin[chosen]
        rows = np.flatnonzero(np.isin(z_real, z_other))
        first, second = drawn_pairs(twin.seed, rows, lambda i, z=z_other: np.flatnonzero(z == z_real[i]))
        distance = lpips_distance(real[first].astype(float), images[second].astype(float))
        naive.append(distance[np.isin(z_real[first], Z_BINS[1:] if z_bin == "all" else [z_bin])].mean())
    twin.check("lpips", *naive, z_bin, tolerance=1e-5)


def test_lpips_diversity(twin):
    choice = twin.choice()
    fake, z_fake = twin.samples.image[choice.samples], twin.samples.z_bin[choice.samples]
    real, z_real = twin.held_out.image[choice.held_out], twin.held_out.z_bin[choice.held_out]
    person = twin.held_out.person[choice.held_out]
    naive = []
    for images, partners in (
        (fake, lambda i: np.setdiff1d(np.flatnonzero(z_fake == z_fake[i]), [i])),
        (real, lambda i: np.flatnonzero((z_real == z_real[i]) & (person != person[i]))),
    ):
        rows = np.array([i for i in range(len(images)) if len(partners(i))])
        first, second = drawn_pairs(twin.seed, rows, partners)
        naive.append(lpips_distance(images[first].astype(float), images[second].astype(float)).mean())
    twin.check("lpips_diversity", *naive, tolerance=1e-5)
