"""The held-out mix of z-bins and classes: counts, choices of samples and of training slices."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimdiff.evaluation.axes.floor import FLOOR_DRAWS
from slimdiff.evaluation.axes.mix import cells_of, choose_rows, proportional_counts, select

CELLS = st.tuples(st.integers(0, 4), st.integers(0, 1))
NUMBERS = st.dictionaries(CELLS, st.integers(1, 40), min_size=1)


def rows_of(numbers: dict, seed: int = 0) -> list:
    """The cells of slices in random order, from the number of slices of each cell."""
    cells = [cell for cell, number in numbers.items() for _ in range(number)]
    return [cells[row] for row in np.random.default_rng(seed).permutation(len(cells))]


def counted(rows: np.ndarray, cells: list) -> Counter:
    return Counter(cells[row] for row in rows)


@given(NUMBERS, st.fractions(0, 5, max_denominator=50))
def test_counts_are_proportional_and_the_largest_remainders_are_rounded_up(held_out, factor):
    counts = proportional_counts(held_out, factor)
    assert counts.total() == math.floor(factor * sum(held_out.values()))
    remainders = {cell: factor * number % 1 for cell, number in held_out.items()}
    up = {cell for cell, number in held_out.items() if counts[cell] > factor * number}
    assert all(abs(counts[cell] - factor * number) < 1 for cell, number in held_out.items())
    lowest = min((remainders[cell] for cell in up), default=1)
    assert all(remainders[cell] <= lowest for cell in held_out if cell not in up)


def test_counts_of_an_example():
    held_out = {(0, 0): 7, (0, 1): 2, (1, 0): 4, (1, 1): 1}
    # Half of them: 3.5, 1, 2 and 0.5, in sum 7: of two equal remainders the first cell's is rounded up.
    assert proportional_counts(held_out, Fraction(1, 2)) == {(0, 0): 4, (0, 1): 1, (1, 0): 2, (1, 1): 0}
    assert proportional_counts(held_out, Fraction(3)) == {cell: 3 * n for cell, n in held_out.items()}
    assert not proportional_counts({}, Fraction(1))


@settings(max_examples=60)
@given(NUMBERS, NUMBERS, NUMBERS, st.integers(0, 9))
def test_samples_are_as_many_as_the_held_out_mix_allows(held_out, samples, training, seed):
    cells = [rows_of(numbers) for numbers in (held_out, samples, training)]
    found = select(*cells, seed)
    used, common = counted(found.samples, cells[1]), held_out.keys() & samples.keys()
    assert set(used) <= common
    assert len(set(found.samples.tolist())) == len(found.samples)
    if common:
        factor = min(samples[cell] / held_out[cell] for cell in common)
        assert all(abs(used[cell] - factor * held_out[cell]) < 1 for cell in common)
        assert any(used[cell] == samples[cell] for cell in common)
    assert counted(found.held_out, cells[0]) == {cell: held_out[cell] for cell in common}
    # FID, precision and recall use as many samples as training slices, of each z-bin and class.
    floor = counted(found.floor, cells[2])
    assert floor.total() == 0 or counted(found.matched, cells[1]) == floor
    factor = min(factor, sum(training.get(cell, 0) for cell in common) / found.held_out.size) if common else 0
    assert all(
        floor[cell] <= min(training.get(cell, 0), math.ceil(factor * held_out[cell])) for cell in floor
    )


def test_all_samples_are_used_where_they_have_the_held_out_mix():
    held_out = {(0, 0): 5, (0, 1): 1, (1, 1): 3}
    cells = [rows_of({cell: times * n for cell, n in held_out.items()}, times) for times in (1, 4, 2)]
    found = select(*cells, seed=1)
    assert len(found.samples) == 36 and found.note == ""
    # There are half as many training slices: all are used, and as many samples for FID.
    assert len(found.floor) == 18 == len(found.matched)


def test_the_floor_has_the_held_out_mix_whatever_the_number_of_samples():
    """Without a limit on the factor, many samples would give all training slices, in their own mix."""
    held_out = {(0, 0): 10, (1, 0): 20}
    training = {(0, 0): 45, (1, 0): 45}
    for per_cell, expected in ((5, (2, 5)), (20, (10, 20)), (5000, (30, 45))):
        cells = [rows_of(n) for n in (held_out, dict.fromkeys(held_out, per_cell), training)]
        floor = counted(select(*cells, seed=0).floor, cells[2])
        assert (floor[0, 0], floor[1, 0]) == expected


def test_choices_of_the_floor_differ_as_long_as_there_is_something_to_choose(store):
    cells = cells_of(store.z_bin, store.label)
    found = select(cells[::3], cells[::3], cells, seed=7, label=1, floors=FLOOR_DRAWS)
    assert len(found.floors) == FLOOR_DRAWS
    expected = Counter(cell for cell in cells[::3] if cell[1] == 1)
    assert all(counted(rows, cells) == expected for rows in found.floors)
    # Every choice takes all slices: one is enough.
    (only,) = select(cells, cells, cells, seed=7, floors=FLOOR_DRAWS).floors
    assert np.array_equal(only, np.arange(len(cells)))


def test_a_missing_z_bin_or_class_is_left_out_and_named():
    held_out, training = {(0, 0): 8, (0, 1): 4, (1, 0): 8, (1, 1): 4}, {(0, 0): 40, (0, 1): 20, (1, 1): 20}
    cells = [rows_of(numbers) for numbers in (held_out, {(0, 0): 6, (0, 1): 3, (2, 1): 9}, training)]
    found = select(*cells, seed=0)
    assert counted(found.held_out, cells[0]) == {(0, 0): 8, (0, 1): 4}
    assert counted(found.samples, cells[1]) == counted(found.floor, cells[2]) == {(0, 0): 6, (0, 1): 3}
    missing = "12 of 24 held-out slices left out: no sample of their z-bin and class"
    assert found.left_out == missing
    assert found.note == f"9 of 18 samples, in the mix of the held-out slices; {missing}"
    nothing = select(*cells, seed=0, z_bin=1)
    assert not len(nothing.samples) and not len(nothing.held_out) and not len(nothing.floor)
    assert nothing.note == "12 of 12 held-out slices left out: no sample of their z-bin and class"
    lesions = select(*cells, seed=0, label=1)
    assert lesions.note.startswith(
        "3 of 12 samples of class 1, in the mix of the held-out slices; 4 of 8 held-out"
    )


def test_within_a_z_bin_or_class_more_samples_can_be_used():
    held_out = {(0, 0): 40, (0, 1): 4, (1, 0): 10, (1, 1): 10}
    cells = [rows_of(n) for n in (held_out, dict.fromkeys(held_out, 20), {(0, 0): 1})]
    assert counted(select(*cells, seed=0).samples, cells[1]) == {(0, 0): 20, (0, 1): 2, (1, 0): 5, (1, 1): 5}
    assert counted(select(*cells, seed=0, z_bin=1).samples, cells[1]) == {(1, 0): 20, (1, 1): 20}
    assert counted(select(*cells, seed=0, label=1).samples, cells[1]) == {(0, 1): 8, (1, 1): 20}


def test_training_slices_as_samples_are_used_as_far_as_there_are_any():
    held_out, training = {(0, 1): 10, (1, 1): 10, (2, 1): 10}, {(0, 1): 1, (1, 1): 30, (2, 1): 29}
    cells = [rows_of(held_out), rows_of(training), rows_of(training)]
    found = select(*cells, seed=3, exact=False)
    assert counted(found.samples, cells[1]) == {(0, 1): 1, (1, 1): 20, (2, 1): 20}
    assert np.array_equal(found.samples, found.floor)
    assert len(select(*cells, seed=3).samples) == 3


def test_same_seed_gives_same_rows_and_every_row_can_be_drawn():
    cells = [(0, 0)] * 20 + [(1, 0)] * 3
    rows = [choose_rows({(0, 0): 5}, cells, seed) for seed in range(60)]
    assert np.array_equal(rows[3], choose_rows({(0, 0): 5}, cells, 3))
    # The first of the z-bin in the permutation of all rows.
    order = np.random.default_rng(3).permutation(23)
    assert rows[3].tolist() == sorted([row for row in order if row < 20][:5])
    assert {row for chosen in rows for row in chosen.tolist()} == set(range(20))
    assert choose_rows({(1, 0): 9}, cells, 0).tolist() == [20, 21, 22]
    assert len(choose_rows({}, cells, 0)) == 0
