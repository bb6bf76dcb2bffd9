from collections import Counter

import numpy as np

from slimdiff.evaluation.axes.floor import same_mix, strata


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
