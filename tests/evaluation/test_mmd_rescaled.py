"""The MMD of lesion features in a resampling: its z-scores, its interval's coverage, and when it means nothing."""

import numpy as np
import pytest

from slimdiff.evaluation.metrics import mmd
from slimdiff.evaluation.statistics.bootstrap import Resampling


def patients(n, seed, per_patient=8, tail=1.0):
    """Features (n * per_patient, 3) with an effect of the patient; the first has a long tail. And the patients."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(n), per_patient)
    own = rng.normal(0, 1, (n, 3))[index]
    table = own + rng.normal(0, 0.7, (len(index), 3))
    table[:, 0] = np.exp(tail * table[:, 0])
    return table, np.array([f"sub-{one:03d}" for one in index])


def plain_mmd(x, y):
    """Squared MMD with the cubic kernel, pair by pair."""

    def k(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(z):
        kernel = k(z, z)
        return (kernel.sum() - np.trace(kernel)) / (len(z) * (len(z) - 1))

    return within(x) + within(y) - 2 * k(x, y).mean()


@pytest.mark.parametrize("scores", [mmd.standardise, mmd.clipped_scores])
def test_a_resampling_has_the_scores_of_its_own_patients(scores):
    real, subjects = patients(8, 0)
    synthetic, _ = patients(5, 1)
    names, index = np.unique(subjects, return_inverse=True)
    # Patients drawn once at most: the resampling is a set of its own.
    counts = np.array([[1, 1, 0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0, 1]])
    found = mmd.rescaled_mmd2(scores, real, synthetic, index, counts)
    for value, count in zip(found, counts, strict=True):
        own = real[np.isin(subjects, names[count > 0])]
        if scores is mmd.standardise:
            middle, spread = own.mean(axis=0), own.std(axis=0)
            x, y = ((table - middle) / spread for table in (own, synthetic))
        else:
            middle = np.median(own, axis=0)
            spread = 1.4826 * np.median(np.abs(own - middle), axis=0)
            x, y = (np.clip((table - middle) / spread, -5, 5) for table in (own, synthetic))
        assert value == pytest.approx(plain_mmd(x, y), rel=1e-9)


def test_too_few_vectors_give_no_number():
    real, subjects = patients(8, 0)
    index = np.unique(subjects, return_inverse=True)[1]
    found = mmd.rescaled_mmd2(mmd.standardise, real, real[:9], index, np.ones((3, 8), np.int64))
    assert np.isnan(found).all() and found.shape == (3,)


def test_the_interval_covers_the_value_of_many_patients():
    """With the z-scores of all patients kept, the interval covers it in about half of the draws."""
    synthetic, _ = patients(40, 99, tail=0.3)
    synthetic = 1.5 * synthetic + 0.5
    population, _ = patients(1500, 98, tail=0.7)
    truth = mmd.complete_mmd2(*mmd.standardise(population, synthetic))
    covered, kept = [], []
    for seed in range(40):
        real, subjects = patients(27, seed, tail=0.7)
        resampling = Resampling.of(subjects, 100, 0)
        value = mmd.complete_mmd2(*mmd.standardise(real, synthetic))
        index, counts = resampling.index, resampling.counts
        interval = resampling.centred(
            value, mmd.rescaled_mmd2(mmd.standardise, real, synthetic, index, counts)
        )
        covered.append(interval.low <= truth <= interval.high)
        frozen = mmd.resampled_mmd2(*mmd.standardise(real, synthetic), index, counts)
        interval = resampling.percentile(frozen)
        kept.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) >= 0.9
    assert np.mean(kept) <= 0.6


def test_it_means_nothing_with_the_lesions_of_one_patient():
    real, subjects = patients(2, 0, per_patient=30)
    few = np.concatenate([real[:30], real[30:39]]), np.concatenate([subjects[:30], subjects[30:39]])
    why = mmd.rests_on_one(*few)
    assert "30 of 39 components are of one held-out subject (sub-000)" in why
    assert "at least 10 of others" in why
    assert mmd.rests_on_one(real, subjects) == ""
    assert mmd.rests_on_one(real[:30], subjects[:30]) != ""
    # With fewer than 10 vectors there is no number anyway.
    assert mmd.rests_on_one(real[:9], subjects[:9]) == ""


@pytest.mark.parametrize(("factor", "expected"), [(1.0, False), (200.0, True), (1 / 200.0, False)])
def test_it_means_nothing_where_one_patient_sets_the_scale(factor, expected):
    real, subjects = patients(10, 3, tail=0.3)
    real[subjects == "sub-004", 1] *= factor
    why = mmd.rests_on_one(real, subjects, mmd.mean_and_sd, "abc")
    assert bool(why) == expected
    if expected:
        assert "(sub-004) the scale of b changes by a factor of" in why
    assert mmd.rests_on_one(real, subjects) == ""
    # The median of ten patients does not depend on one.
    assert mmd.rests_on_one(real, subjects, mmd.median_and_mad, "abc") == ""
