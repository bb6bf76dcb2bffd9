import numpy as np

from slimdiff.evaluation.axes.floor import mean_floor


def test_the_floor_is_the_mean_over_choices_with_their_spread():
    value, note = mean_floor([1.0, 2.0, np.nan, 6.0])
    assert value == 3
    assert note == "floor: mean of 3 choices of training slices, sd 2.6"
    assert mean_floor([2.5]) == (2.5, "")
    value, note = mean_floor([np.nan])
    assert np.isnan(value) and note == ""
