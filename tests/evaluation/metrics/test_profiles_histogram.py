import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from slimdiff.evaluation.metrics.profiles import BINS, brain_histograms, histogram_distance


def test_distance_is_the_wasserstein_distance_of_the_pixels_within_one_bin(slice_pairs):
    images = slice_pairs[0]
    first, second = images[:20], np.clip(images[20:] * np.float16(0.8) + np.float16(0.1), -1, 1)
    first = np.where(images[:20] > -0.95, first, -1)
    second = np.where(images[20:] > -0.95, second, -1)
    found = histogram_distance(*(brain_histograms(x).mean(axis=0) for x in (first, second)))

    def pooled(x):
        values = [image[image > -0.95].astype(np.float64) for image in x.astype(np.float32)]
        return np.concatenate(values), np.concatenate([np.full(len(v), 1 / len(v)) for v in values])

    (u, of_u), (v, of_v) = pooled(first), pooled(second)
    expected = wasserstein_distance(u, v, of_u, of_v)
    assert expected > 0.1
    assert found == pytest.approx(expected, abs=1.95 / BINS)


def test_distance_of_a_brighter_brain_is_its_intensity_offset():
    generator = np.random.default_rng(0)
    images = np.full((10, 32, 32), -1, np.float32)
    images[:, 8:24, 8:24] = generator.uniform(-0.5, 0, (10, 16, 16))
    brighter = np.where(images > -0.95, images + 0.3, -1).astype(np.float32)
    histograms = [brain_histograms(x).mean(axis=0) for x in (images, brighter)]
    assert histogram_distance(*histograms) == pytest.approx(0.3, abs=0.01)
    # More background changes nothing.
    padded = np.pad(images, ((0, 0), (9, 9), (9, 9)), constant_values=-1)
    np.testing.assert_array_equal(brain_histograms(padded), brain_histograms(images))


def test_rows_sum_to_one_and_an_empty_slice_is_nan(slice_pairs):
    images = np.concatenate([slice_pairs[0][:3], np.full((1, 64, 64), -1, np.float16)])
    rows = brain_histograms(images)
    assert rows[:3].sum(axis=1) == pytest.approx(1)
    assert np.isnan(rows[3]).all()
