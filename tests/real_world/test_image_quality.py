"""Image quality: each measure against its definition, what worsens it, and outliers of a cohort."""

import numpy as np
import pytest
from helpers.synthetic import head
from scipy import ndimage

from slimdiff.data.quality.image_quality import FEWEST_PARTICIPANTS, ImageQuality, image_quality, outliers

RNG = np.random.default_rng(0)
INSIDE = head(1) > 0
PLAIN = (head(1) + np.abs(RNG.normal(0, 3, INSIDE.shape))).astype(np.float32)
"""A head, and noise around it."""


def test_each_measure_is_that_of_its_definition():
    found = image_quality(PLAIN, INSIDE)
    x = PLAIN.astype(float) - PLAIN.min()
    assert found.snr == pytest.approx(x[INSIDE].mean() / x[INSIDE].std(ddof=1))
    assert found.fber == pytest.approx(np.median(x[INSIDE] ** 2) / np.median(x[~INSIDE] ** 2))
    b = x.ravel() / np.sqrt((x**2).sum())
    n = b.size
    largest = n * (1 / np.sqrt(n)) * np.log(1 / np.sqrt(n))
    assert found.efc == pytest.approx((b * np.log(b + 1e-16)).sum() / largest)


def test_the_entropy_focus_is_0_for_one_voxel_and_1_for_equal_ones():
    one = np.zeros((8, 8, 8), np.float32)
    one[3, 3, 3] = 9
    assert image_quality(one, one > 0).efc is None  # a head of one voxel
    two = one.copy()
    two[3, 3, 4] = 1e-6
    assert image_quality(two, two > 0).efc == pytest.approx(0, abs=1e-4)
    equal = np.ones((8, 8, 8), np.float32)
    equal[0, 0, 0] = 0
    inside = np.zeros(equal.shape, bool)
    inside[2:6, 2:6, 2:6] = True
    assert image_quality(equal, inside).efc == pytest.approx(1, abs=0.01)


def worse_than_plain(values):
    """The measures that are worse than those of PLAIN by more than a fifth (ghost: by 0.01)."""
    own, plain = image_quality(values, INSIDE), image_quality(PLAIN, INSIDE)
    found = set()
    if own.snr < plain.snr / 1.2:
        found.add("snr")
    if own.fber < plain.fber / 1.2:
        found.add("fber")
    if own.efc > plain.efc * 1.05:
        found.add("efc")
    if own.slice_jump > plain.slice_jump * 1.2 + 0.02:
        found.add("slice_jump")
    if own.ghost > plain.ghost + 0.01:
        found.add("ghost")
    return found


def test_what_worsens_an_image_worsens_its_measure():
    noisy = PLAIN + np.abs(RNG.normal(0, 25, PLAIN.shape)).astype(np.float32)
    assert {"snr", "fber", "efc"} <= worse_than_plain(noisy)
    interleaved = PLAIN.copy()
    interleaved[:, :, ::2] *= 1.2
    assert "slice_jump" in worse_than_plain(interleaved)
    ghosted = PLAIN + 0.1 * np.roll(PLAIN, PLAIN.shape[1] // 2, axis=1)
    assert "ghost" in worse_than_plain(ghosted)
    assert worse_than_plain(PLAIN * 7) == set()


def test_a_smooth_background_is_no_ghost():
    hazy = PLAIN + 20 * ndimage.gaussian_filter(np.ones(PLAIN.shape), 3)
    assert image_quality(hazy, INSIDE).ghost < 0.01


def test_a_stripped_image_has_no_background_to_measure():
    found = image_quality(head(1), INSIDE)
    assert found.fber is None and found.ghost is None
    assert found.snr > 0 and found.efc > 0


def cohort(count, **changes):
    rng = np.random.default_rng(1)
    return {
        f"sub-{n:02d}": ImageQuality(
            **{
                "snr": 8 + rng.normal(0, 0.3),
                "efc": 0.5 + rng.normal(0, 0.01),
                "fber": None,
                "slice_jump": 0.02,
                "ghost": rng.normal(0, 0.01),
                **(changes if n == 0 else {}),
            }
        )
        for n in range(count)
    }


def test_outliers_are_those_on_the_worse_side():
    assert outliers(cohort(12)) == {}
    assert list(outliers(cohort(12, snr=2.0))) == ["sub-00"]
    assert "snr 2, median of the cohort 7.86" in outliers(cohort(12, snr=2.0))["sub-00"][0]
    assert outliers(cohort(12, snr=20.0)) == {}
    assert len(outliers(cohort(12, snr=2.0, ghost=0.5))["sub-00"]) == 2


def test_few_participants_have_no_outliers():
    assert outliers(cohort(FEWEST_PARTICIPANTS - 1, snr=2.0)) == {}
    assert outliers(cohort(FEWEST_PARTICIPANTS, snr=2.0)) != {}
