"""Memorisation metrics against a naive computation from docs/metric_definitions.md."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance


def one_minus_correlation(a, b) -> float:
    return 1 - np.corrcoef(a, b)[0, 1]


def nearest(part, training, space) -> np.ndarray:
    """Distance of every slice to the closest training slice of its z-bin."""
    found = []
    for i in range(len(part.z_bin)):
        same = training.z_bin == part.z_bin[i]
        if space == "pixels":
            pixels = part.image[i].astype(float).ravel()
            others = training.image[same].astype(float).reshape(same.sum(), -1)
            found.append(min(one_minus_correlation(pixels, other) for other in others))
        else:
            found.append(
                cdist(part.feature[i : i + 1].astype(float), training.feature[same].astype(float)).min()
            )
    return np.array(found)


def rank(n: int) -> int:
    return max(1, (n + 1) // 100)


@pytest.fixture(scope="module", params=["alexnet", "pixels"])
def distances(twin, request) -> SimpleNamespace:
    """Absolute and relative distances of samples and held-out slices, the halves and the threshold."""
    fake, real = (nearest(part, twin.training, request.param) for part in (twin.samples, twin.held_out))
    z_real, z_fake = twin.held_out.z_bin, twin.samples.z_bin
    scale = np.full(twin.bins, np.median(real))
    for z_bin in range(twin.bins):
        if (z_real == z_bin).sum() >= 5:
            scale[z_bin] = np.median(real[z_real == z_bin])
    names = np.random.default_rng(twin.seed).permutation(np.unique(twin.held_out.person))
    first = np.isin(twin.held_out.person, names[: (len(names) + 1) // 2])
    relative = real / scale[z_real]
    return SimpleNamespace(
        space=request.param,
        fake=fake,
        real=real,
        relative_fake=fake / scale[z_fake],
        relative_real=relative,
        first=first,
        threshold=np.sort(relative[first])[rank(first.sum()) - 1],
    )


@pytest.mark.parametrize("z_bin", ["all", 0, 1, 2])
def test_ratio_and_suspect_share(twin, distances, z_bin):
    in_fake, in_real = ((part.z_bin == z_bin) | (z_bin == "all") for part in (twin.samples, twin.held_out))
    fake, real = distances.relative_fake[in_fake], distances.relative_real
    ratio = np.median(fake) / np.median(real[in_real])
    twin.check("memorisation_ratio", ratio, 1, z_bin, distances.space)
    expected = (real[in_real & ~distances.first] < distances.threshold).mean()
    suspect = (fake < distances.threshold).mean()
    twin.check("suspect_share", suspect, expected, z_bin, distances.space)


def test_check_of_the_suspect_share(twin, distances):
    n = int(distances.first.sum())
    suspect = (distances.relative_real[~distances.first] < distances.threshold).mean()
    twin.check("suspect_share_check", suspect, rank(n) / (n + 1), extractor=distances.space)


def test_published_suspect_share(twin, distances):
    floor = (distances.real[~distances.first] < distances.real[distances.first].min()).mean()
    suspect = (distances.fake < distances.real.min()).mean()
    twin.check("suspect_share_ref", suspect, floor, extractor=distances.space)


def test_wasserstein_distance_of_relative_distances(twin, distances):
    real = distances.relative_real
    floor = wasserstein_distance(real[distances.first], real[~distances.first])
    value = wasserstein_distance(distances.relative_fake, real)
    twin.check("memorisation_w1", value, floor, extractor=distances.space)
