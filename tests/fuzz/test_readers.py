"""Thousands of damaged files: each is read, or refused by a message with its name; no traceback, no hang, no file left.

    pytest -n 0 -m slow tests/fuzz

ends with a table of all cases. The environment variables SLIMDIFF_FUZZ_CASES (10000) and SLIMDIFF_FUZZ_SEED (0) choose
other ones.
"""

import os
from collections import Counter

import numpy as np
import pytest
from fuzz.cases import Tally, outcome_of, tried
from fuzz.mutations import changed, changes_of, damaged, headers, json_text
from fuzz.targets import TARGETS, Target, put_text, values_in
from hypothesis import HealthCheck, Phase, given, seed, settings

from slimdiff.files import CHECKSUM

CASES = int(os.environ.get("SLIMDIFF_FUZZ_CASES", "10000"))
SEED = int(os.environ.get("SLIMDIFF_FUZZ_SEED", "0"))
WAYS = sum(1 + target.values + (target.path == "small/image.nii") for target in TARGETS)
EACH = -(-CASES // WAYS)
"""Cases of each file, by bytes and by values."""


def name_of(target: Target) -> str:
    return target.path


@pytest.mark.parametrize("target", TARGETS, ids=name_of)
def test_good_files_are_accepted(target, place):
    assert outcome_of(target, place) == ("accepted", "")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=name_of)
def test_damaged_bytes(target, place, tally):
    own = Tally()
    for number in range(EACH):
        rng = np.random.default_rng([SEED, TARGETS.index(target), number])
        tried(target, place, lambda path, rng=rng: path.write_bytes(damaged(path.read_bytes(), rng)), own)
    finish(own, tally)


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target in TARGETS if target.values], ids=name_of)
def test_other_values(target, place, tally):
    own = Tally()
    good = values_in(place / target.path)
    # With its checksum every change is refused in the same way; files of earlier versions have none.
    good.pop(CHECKSUM, None)

    @cases
    @given(changes_of(good))
    def each(changes):
        values = good
        for where, what, value in changes:
            # An earlier change may have removed this place.
            try:
                values = changed(values, where, what, value)
            except (LookupError, TypeError, AttributeError):
                continue
        tried(target, place, lambda path: put_text(path, json_text(values)), own)

    each()
    finish(own, tally)


@pytest.mark.slow
def test_other_header_fields(place, tally):
    own = Tally()
    target = next(target for target in TARGETS if target.path == "small/image.nii")

    @cases
    @given(headers((place / target.path).read_bytes()))
    def each(content):
        tried(target, place, lambda path: path.write_bytes(content), own)

    each()
    finish(own, tally)


def cases(test):
    """Hypothesis with EACH examples that follow from SEED, all of them tried whatever comes of the first."""
    fixed = settings(
        max_examples=EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return seed(SEED)(fixed(test))


def finish(own: Tally, tally: Tally) -> None:
    tally.kinds += Counter(own.kinds)
    assert not own.faults, own.report
