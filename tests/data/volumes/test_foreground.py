"""Foreground and scaling, against scipy's own hole filling plane by plane and percentiles written out."""

import numpy as np
import pytest
from helpers.synthetic import ball, head
from scipy import ndimage
from skimage.filters import threshold_otsu

from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import DataError
from slimdiff.data.volumes.foreground import foreground
from slimdiff.data.volumes.preprocess import normalise

CONFIG = PreprocessConfig(spacing_mm=6.0, grid=(32, 32, 32))


def foreground_twin(volume: np.ndarray) -> np.ndarray:
    """Every plane of the whole volume, one after the other."""
    labels, _ = ndimage.label(volume > threshold_otsu(volume))
    filled = ndimage.binary_fill_holes(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    for axis in range(3):
        planes = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(filled, axis, 0)]
        filled = np.moveaxis(np.stack(planes), 0, axis)
    return filled


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 1.5, 2.5])
def test_holes_are_filled_as_plane_by_plane(sigma):
    """Blobs of noise have tunnels, caves and pieces at the border."""
    volume = ndimage.gaussian_filter(np.random.default_rng(int(10 * sigma)).normal(size=(24, 25, 26)), sigma)
    wanted = foreground_twin(volume)
    assert 0 < wanted.sum() < wanted.size
    np.testing.assert_array_equal(foreground(volume), wanted)


def test_outside_of_the_head_is_background_and_holes_are_filled():
    volume = head(3)
    ventricle = ball((16, 16, 16), 4)
    scalp = ball((2, 2, 2), 1)
    inside = foreground(np.where(ventricle, 0, np.where(scalp, 100, volume)))
    np.testing.assert_array_equal(inside, volume > 0)


def test_a_brain_mask_is_taken_as_it_is():
    """With a dark lesion and a bright scalp, which Otsu's threshold would not tell apart."""
    brain = ball((15, 15, 16), 9)
    volume = np.where(brain, head(1), 400).astype(np.float32)
    scaled, inside, (low, high) = normalise(volume, CONFIG, brain)
    np.testing.assert_array_equal(inside, brain)
    ordered = np.sort(volume[brain].astype(float))
    place = (len(ordered) - 1) * 0.995
    below = int(place)
    assert high == pytest.approx(
        ordered[below] + (place - below) * (ordered[below + 1] - ordered[below]), rel=1e-6
    )
    assert low < high < 400
    assert (scaled[~brain] == -1).all() and scaled[brain].max() == 1


def test_a_brain_mask_that_misses_the_grid_is_an_error():
    with pytest.raises(DataError, match="background"):
        normalise(head(1), CONFIG, np.zeros((32, 32, 32), bool))
