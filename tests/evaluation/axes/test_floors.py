from collections import Counter
from types import SimpleNamespace

import numpy as np

from slimdiff.evaluation.axes.floor import FLOOR_DRAWS, floor_draws, mean_floor, same_mix, strata


def test_each_stratum_has_the_requested_count_or_all_available_rows():
    generator = np.random.default_rng(0)
    available = strata(generator.integers(4, size=300), generator.integers(2, size=300))
    requested = [(0, 0)] * 10 + [(0, 1)] * 500 + [(3, 1)] * 7
    rows = same_mix(requested, available, seed=1)
    n_available = Counter(available)
    assert Counter(available[row] for row in rows) == {(0, 0): 10, (0, 1): n_available[0, 1], (3, 1): 7}
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) > 0).all()


def test_same_seed_gives_same_rows_and_every_row_can_be_drawn():
    available = [(0, 0)] * 20
    assert np.array_equal(same_mix([(0, 0)] * 5, available, 3), same_mix([(0, 0)] * 5, available, 3))
    seen = {row for seed in range(60) for row in same_mix([(0, 0)] * 5, available, seed).tolist()}
    assert seen == set(range(20))


def test_an_empty_request_gives_no_rows():
    assert len(same_mix([], [(0, 0)], 0)) == 0


def test_choices_of_the_floor_differ_as_long_as_there_is_something_to_choose(store):
    train = np.arange(len(store))
    mix = strata(store.z_bin, store.label)
    few = SimpleNamespace(z_bin=store.z_bin[::3], label=store.label[::3])
    draws = floor_draws(store, train, few, seed=7)
    assert len(draws) == FLOOR_DRAWS
    assert np.array_equal(draws[0], same_mix(mix[::3], mix, 7))
    for chosen in draws:
        assert Counter(mix[row] for row in chosen) == Counter(mix[::3])
    # Every choice takes all slices: one is enough.
    everything = SimpleNamespace(z_bin=store.z_bin, label=store.label)
    (only,) = floor_draws(store, train, everything, seed=7)
    assert np.array_equal(only, train)


def test_the_floor_is_the_mean_over_choices_with_their_spread():
    value, note = mean_floor([1.0, 2.0, np.nan, 6.0])
    assert value == 3
    assert note == "floor: mean of 3 choices of training slices, sd 2.6"
    assert mean_floor([2.5]) == (2.5, "")
    value, note = mean_floor([np.nan])
    assert np.isnan(value) and note == ""
