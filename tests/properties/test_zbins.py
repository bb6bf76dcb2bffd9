"""z-bins of any range, against exact fractions: every slice in one bin, bins of nearly equal size."""

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimdiff.data.zbins import bin_centres, z_bin

MANY = settings(deadline=None, derandomize=True, max_examples=300)


@st.composite
def ranges(draw) -> tuple[int, int, int]:
    """First slice, last slice, and a number of bins that they can fill."""
    first = draw(st.integers(0, 400))
    count = draw(st.integers(1, 400))
    return first, first + count - 1, draw(st.integers(1, count))


@given(ranges())
@MANY
def test_every_slice_is_in_the_bin_given_by_exact_fractions(drawn):
    first, last, n_bins = drawn
    slices = np.arange(first, last + 1)
    expected = [math.floor(Fraction(z - first, last - first + 1) * n_bins) for z in range(first, last + 1)]
    assert z_bin(slices, first, last, n_bins).tolist() == expected


@given(ranges())
@MANY
def test_bins_are_contiguous_and_their_sizes_differ_by_at_most_one_slice(drawn):
    first, last, n_bins = drawn
    bins = z_bin(np.arange(first, last + 1), first, last, n_bins).tolist()
    assert bins[0] == 0
    assert bins[-1] == n_bins - 1
    assert {after - before for before, after in pairwise(bins)} <= {0, 1}
    sizes = Counter(bins)
    assert sorted(sizes) == list(range(n_bins))
    assert sum(sizes.values()) == last - first + 1
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(ranges(), st.integers(0, 2**32 - 1))
@MANY
def test_the_bin_of_a_slice_does_not_depend_on_other_slices(drawn, seed):
    first, last, n_bins = drawn
    slices = np.random.default_rng(seed).integers(first, last + 1, 20)
    alone = [int(z_bin(z, first, last, n_bins)) for z in slices]
    assert z_bin(slices, first, last, n_bins).tolist() == alone


@given(ranges())
@MANY
def test_a_shifted_range_has_the_same_bins(drawn):
    first, last, n_bins = drawn
    here = z_bin(np.arange(first, last + 1), first, last, n_bins)
    at_zero = z_bin(np.arange(last - first + 1), 0, last - first, n_bins)
    np.testing.assert_array_equal(here, at_zero)


@given(ranges())
@MANY
def test_centres_are_in_the_middle_of_their_bins_and_differ_as_whole_slices(drawn):
    first, last, n_bins = drawn
    centres = bin_centres(first, last, n_bins)
    assert centres.shape == (n_bins,)
    count = last - first + 1
    for number, centre in enumerate(centres.tolist()):
        begin, end = (first + Fraction(edge * count, n_bins) for edge in (number, number + 1))
        assert begin < centre < end
        assert abs(Fraction(centre) - (begin + end) / 2) < Fraction(1, 10**9)
    # The network embeds the floor of a centre: two bins with the same floor would have the same embedding.
    floors = [math.floor(centre) for centre in centres]
    assert all(before < after for before, after in pairwise(floors))
