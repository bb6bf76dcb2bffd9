"""The score of outliers, written again from docs/metric_definitions.md ("Broken samples")."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.twin.naive import grey_levels
from evaluation.twin.test_images import spectrum
from scipy import ndimage

from slimdiff.evaluation.axes.outliers import outlier_axis
from slimdiff.evaluation.metrics.features import extract

LEAST = (0.05, 0.01, 0.5, 0.5, 0.02, 0.5, 0.5, 0.5, 0.1)


def brain_of(bright):
    pieces, count = ndimage.label(bright)
    if not count:
        return np.zeros_like(bright)
    brain = pieces == max(range(1, count + 1), key=lambda piece: (pieces == piece).sum())
    outside, _ = ndimage.label(np.pad(~brain, 1, constant_values=True))
    return (outside != outside[0, 0])[1:-1, 1:-1]


def described(image) -> list[float]:
    image = image.astype(np.float32)
    bright = image > np.float32(-0.95)
    brain = brain_of(bright)
    pixels = np.argwhere(brain if brain.any() else np.ones_like(brain))
    height, width = pixels.max(axis=0) - pixels.min(axis=0) + 1
    rings = spectrum(image)
    padded, spots = np.pad(image, 1, mode="symmetric"), 0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            around = np.delete(padded[row : row + 3, column : column + 3].ravel(), 4)
            value = image[row, column]
            spots += value > around.max() + np.float32(0.3) or value < around.min() - np.float32(0.3)
    return [
        np.log2(1 + brain.sum()),
        len(pixels) / (np.pi / 4 * height * width),
        *pixels.mean(axis=0),
        np.mean([image[row, column] for row, column in pixels]),
        np.mean(rings[len(rings) // 2 :]),
        np.log2(1 + spots),
        np.log2(1 + (bright & ~brain).sum()),
    ]


def nearest(feature, z_bin, held_out, person=None) -> float:
    others = held_out.feature[(held_out.z_bin == z_bin) & (held_out.person != person)].astype(float)
    return np.log2(np.sqrt(((others - feature.astype(float)) ** 2).sum(axis=1)).min())


def deviations(values, z_bin, reference, reference_z_bin):
    known = [z for z in np.unique(z_bin) if (reference_z_bin == z).sum() >= 10]
    sides = {}
    for z in known:
        q10, q50, q90 = np.quantile(reference[reference_z_bin == z], (0.1, 0.5, 0.9), axis=0)
        sides[z] = q50, (q50 - q10) / 1.2816, (q90 - q50) / 1.2816
    typical = np.median([np.maximum(below, above) for _, below, above in sides.values()], axis=0)
    found = np.full(values.shape, np.nan)
    for i, z in enumerate(z_bin):
        if z in sides:
            middle, below, above = sides[z]
            spread = np.where(values[i] < middle, below, above)
            found[i] = np.abs(values[i] - middle) / np.maximum(np.maximum(spread, typical / 2), LEAST)
            found[i, 8] *= values[i, 8] > middle[8]
    return found


@pytest.fixture
def judged(twin, alexnet):
    """The samples with four broken ones, as slimdiff judges them, and their features."""
    images, rng = twin.samples.image.copy(), np.random.default_rng(0)
    images[5] = rng.uniform(-1, 1, images[5].shape)
    images[20][rng.random(images[20].shape) < 0.02] = 1
    images[40] = np.roll(images[40], (9, -7), axis=(0, 1))
    images[60] = -1
    own = replace(twin.cell.samples, images=images)
    cell = replace(twin.cell, samples=own, rows=[], outliers=[])
    outlier_axis(cell)
    samples = SimpleNamespace(**vars(twin.samples) | {"image": images})
    samples.feature = extract(grey_levels(images), alexnet, progress=False)
    return cell, samples


def test_outlier_share(twin, judged):
    (cell, samples), held_out, training = judged, twin.held_out, twin.training
    values = {}
    for name, one in (("held_out", held_out), ("training", training), ("samples", samples)):
        persons = one.person if name == "held_out" else [None] * len(one.z_bin)
        distance = [
            nearest(*given, held_out, person)
            for *given, person in zip(one.feature, one.z_bin, persons, strict=True)
        ]
        values[name] = np.column_stack([[described(image) for image in one.image], distance])
    real = np.concatenate([values["held_out"], values["training"]])
    real_z_bin = np.concatenate([held_out.z_bin, training.z_bin])
    from_real = deviations(values["samples"], samples.z_bin, real, real_z_bin)
    from_others = deviations(values["samples"], samples.z_bin, values["samples"], samples.z_bin)
    score = np.sqrt((np.maximum(0, np.minimum(from_real, from_others) - 2) ** 2).sum(axis=1))
    of_real = deviations(values["held_out"], held_out.z_bin, values["training"], training.z_bin)
    floor = np.sqrt((np.maximum(0, of_real - 2) ** 2).sum(axis=1))
    written = {row["id"]: row for row in cell.outliers}
    found = [written[name]["score"] for name in samples.id]
    assert found == pytest.approx(score, rel=1e-4, abs=1e-4)
    assert sum(score > 1) >= 4
    assert [written[name]["outlier"] for name in samples.id] == (score > 3.5).tolist()
    (row,) = cell.rows
    assert row["value"] == pytest.approx(np.mean(score > 3.5)) and 0 < row["value"] < 0.2
    assert row["floor"] == pytest.approx(np.mean(floor > 3.5))
