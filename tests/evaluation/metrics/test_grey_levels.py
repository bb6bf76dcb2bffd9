"""F2: images are converted to uint8 once, from [-1, 1]. F12: the precision of an image does not reveal its source."""

import numpy as np
import pytest

from slimdiff.evaluation.metrics.grey_levels import store_precision, to_uint8


def test_f2_grey_levels_do_not_wrap():
    levels = np.array([-1, -0.5, 0, 0.5, 1], np.float32).reshape(1, 1, 5)
    assert to_uint8(levels).ravel().tolist() == [0, 64, 128, 191, 255]
    assert to_uint8(levels).dtype == np.uint8


def test_f2_grey_levels_increase_with_the_intensity():
    ramp = np.linspace(-1, 1, 5001).reshape(1, 1, -1)
    levels = to_uint8(ramp).ravel().astype(int)
    assert (np.diff(levels) >= 0).all()
    assert set(levels) == set(range(256))
    assert np.abs(levels - (ramp.ravel() + 1) * 127.5).max() <= 0.5 + 0.07  # half a level and float16's step


def test_every_grey_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(to_uint8(levels / 127.5 - 1), levels)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (np.zeros((1, 4, 4), np.uint8), TypeError, "uint8"),
        (np.zeros((1, 4, 4), np.int64), TypeError, "int64"),
        (np.full((1, 4, 4), 255.0), ValueError, "255"),
        (np.full((1, 4, 4), -1.01), ValueError, "-1.01"),
        (np.array([[[0.0, np.nan]]]), ValueError, "found 1 that are NaN"),
        (np.array([[[0.0, np.inf]]]), ValueError, "NaN or infinite"),
        (np.zeros((4, 4)), ValueError, r"\(4, 4\)"),
    ],
)
def test_f2_other_types_ranges_and_shapes_are_refused(images, error, says):
    with pytest.raises(error, match=says):
        to_uint8(images)


def test_overshoot_within_the_tolerance_is_clipped():
    assert to_uint8(np.array([[[-1.0009, 1.0009]]])).ravel().tolist() == [0, 255]


def test_f12_float16_and_float32_of_the_same_slices_give_the_same_result():
    single = np.random.default_rng(0).uniform(-1, 1, (20, 32, 32)).astype(np.float32)
    half = single.astype(np.float16)
    for convert in (store_precision, to_uint8):
        assert np.array_equal(convert(single), convert(half))
        assert np.array_equal(convert(single.astype(np.float64)), convert(half))


def test_f12_values_are_rounded_to_the_precision_of_the_store():
    images = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16)).astype(np.float32)
    passed = store_precision(images)
    assert passed.dtype == np.float32
    assert np.array_equal(passed, passed.astype(np.float16))
    assert not np.array_equal(images, images.astype(np.float16))
