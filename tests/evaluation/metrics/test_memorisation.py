import numpy as np
import pytest

from slimdiff.evaluation.metrics.memorisation import (
    bin_scales,
    by_training_subject,
    calibrated_rank,
    memorisation,
)
from slimdiff.evaluation.metrics.wasserstein import wasserstein


def distances(n=400, seed=0, low=1.0):
    generator = np.random.default_rng(seed)
    return low + generator.gamma(4, 0.25, n), np.array(
        [f"sub-{i:02d}" for i in generator.integers(10, size=n)]
    )


def test_samples_like_unseen_subjects_are_not_flagged():
    test, subjects = distances()
    found = memorisation(distances(seed=1)[0], test, subjects, seed=0)
    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.suspect_share < 0.04
    assert found.check_share < 0.04
    assert found.n_unmatched == 0


def test_copies_are_suspects():
    test, subjects = distances()
    synthetic, _ = distances(seed=1)
    synthetic[:40] = 0.01
    found = memorisation(synthetic, test, subjects, seed=0)
    assert found.suspects[:40].all()
    assert found.suspects_ref[:40].all()
    assert found.suspects[40:].mean() < 0.04
    shifted = memorisation(0.5 * distances(seed=1)[0], test, subjects, seed=0)
    assert shifted.ratio == pytest.approx(0.5, abs=0.05)
    assert shifted.w1 > found.w1


@pytest.mark.parametrize(
    ("n", "rank"), [(1, 1), (20, 1), (98, 1), (99, 1), (177, 1), (199, 2), (998, 9), (999, 10)]
)
def test_the_threshold_flags_its_expected_share_of_new_slices(n, rank):
    """An interpolated 1 % quantile of 20 distances flags 5.7 %, of 177 1.7 %."""
    assert calibrated_rank(n) == rank
    generator = np.random.default_rng(n)
    calibration = np.sort(generator.gamma(4, 0.25, (4000, n)), axis=1)
    share = (generator.gamma(4, 0.25, 4000) < calibration[:, rank - 1]).mean()
    expected = rank / (n + 1)
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000))
    assert expected <= 0.01 or n < 99


def test_the_threshold_comes_from_half_of_the_subjects_only():
    test, subjects = distances()
    found = memorisation(test, test, subjects, seed=0)
    chosen = np.isin(subjects, np.random.default_rng(0).permutation(np.unique(subjects))[:5])
    n = int(chosen.sum())
    assert n > 150
    # The first of 100 to 198 distances, the second of 199 to 298.
    assert found.threshold == np.sort(test[chosen])[(n + 1) // 100 - 1]
    assert found.expected_share == ((n + 1) // 100) / (n + 1)
    assert found.n_calibration < len(test)


def test_f11_the_split_is_seeded():
    test, subjects = distances()
    a, b = (memorisation(test, test, subjects, seed=3) for _ in range(2))
    assert (a.threshold, a.check_share) == (b.threshold, b.check_share)
    assert len({memorisation(test, test, subjects, seed=s).threshold for s in range(8)}) > 1


def test_samples_without_a_training_slice_are_counted_and_not_flagged():
    test, subjects = distances()
    found = memorisation(np.array([np.nan, 0.01]), test, subjects, seed=0)
    assert found.suspects.tolist() == [False, True]
    assert found.suspect_share == 1
    assert found.n_unmatched == 1


def test_one_held_out_subject_gives_no_check_share():
    found = memorisation(np.array([0.5, 1.5]), np.array([1.0, 1.2]), ["sub-01"] * 2, seed=0)
    assert np.isnan(found.check_share)
    assert found.suspects.tolist() == [True, False]


def test_no_held_out_slice_gives_nan():
    found = memorisation(np.array([0.5, 1.5]), np.array([]), [], seed=0)
    numbers = (found.ratio, found.threshold, found.check_share, found.w1, found.w1_floor, found.ref_share)
    assert np.isnan(numbers).all()
    assert not found.suspects.any()
    assert not found.suspects_ref.any()


def test_shares_are_of_the_samples_that_have_a_training_slice():
    test, subjects = distances()
    found = memorisation(np.array([np.nan, 0.01, 9.0]), test, subjects, seed=0)
    assert found.suspect_share == found.ref_share == 0.5


def test_floors_come_from_the_two_halves_of_the_held_out_subjects():
    test, subjects = distances()
    found = memorisation(distances(seed=1)[0], test, subjects, seed=0)
    first = np.isin(subjects, np.random.default_rng(0).permutation(np.unique(subjects))[:5])
    assert np.array_equal(found.calibrating, first) and np.array_equal(found.checking, ~first)
    assert found.w1_floor == wasserstein(test[first], test[~first])
    assert found.ref_floor == (test[~first] < test[first].min()).mean()
    assert found.check_share == (test[~first] < found.threshold).mean()


def test_report_by_training_subject_adds_up():
    distance, index = np.array([0.1, 0.3, 0.2, np.nan]), np.array([0, 1, 3, -1])
    suspects = np.array([True, False, True, False])
    bins, train_bins = np.array([0, 0, 0, 7]), np.array([0, 0, 0, 0, 1])
    rows = by_training_subject(distance, index, suspects, bins, ["a", "a", "b", "c", "c"], train_bins)
    assert [row["participant"] for row in rows] == ["a", "c", "b"]
    first = {"participant": "a", "n_slices": 2, "n_nearest": 2, "expected_share": 0.5, "n_suspects": 1}
    assert rows[0] == first | {"closest": 0.1}
    # c's slice in z-bin 1 counts in n_slices, but no sample is in that z-bin.
    assert (rows[1]["n_slices"], rows[1]["expected_share"]) == (2, 0.25)
    assert np.isnan(rows[2]["closest"])
    assert sum(row["n_nearest"] for row in rows) == 3
    assert sum(row["expected_share"] for row in rows) == pytest.approx(1)


def test_expected_shares_are_those_of_random_neighbours():
    """If the neighbour of each sample is drawn at random from its z-bin, every subject gets its expected share."""
    generator = np.random.default_rng(0)
    owners, train_bin = generator.integers(5, size=60), generator.integers(3, size=60)
    owners[train_bin == 0] = np.maximum(owners[train_bin == 0], 3)
    query_bin = generator.choice(3, size=40_000, p=[0.7, 0.2, 0.1])
    places = [np.flatnonzero(train_bin == b) for b in range(3)]
    draws = generator.random(len(query_bin))
    index = np.array([places[b][int(u * len(places[b]))] for b, u in zip(query_bin, draws, strict=True)])
    never = np.zeros(len(index), bool)
    for row in by_training_subject(np.ones(len(index)), index, never, query_bin, owners, train_bin):
        assert row["n_nearest"] / len(index) == pytest.approx(row["expected_share"], abs=0.01)


def test_without_samples_the_expected_share_is_nan():
    none = np.array([], int)
    (row,) = by_training_subject(np.array([]), none, none.astype(bool), none, ["a"], np.array([0]))
    assert row["n_nearest"] == 0 and np.isnan(row["expected_share"])


def test_every_z_bin_can_have_suspects():
    """Distances in z-bin 0 are a tenth of those in z-bin 1: with absolute distances only copies there were found."""
    generator = np.random.default_rng(0)
    bins = np.tile([0, 1], 400)
    level = np.where(bins == 0, 0.1, 1.0)
    test = level * (1 + generator.gamma(4, 0.25, 800))
    subjects = np.repeat([f"sub-{i:02d}" for i in range(20)], 40)
    scales = bin_scales(test, bins, 2)
    assert scales[1] / scales[0] == pytest.approx(10, rel=0.15)
    # A quarter of the samples of each z-bin are far closer than any held-out slice.
    synthetic = level * (1 + generator.gamma(4, 0.25, 800))
    copies = np.arange(800) % 8 < 2
    synthetic[copies] = 0.4 * level[copies]
    absolute = memorisation(synthetic, test, subjects, 0)
    relative = memorisation(synthetic, test, subjects, 0, scales[bins], scales[bins])
    assert relative.suspects[copies].all()
    assert absolute.suspects[copies & (bins == 1)].mean() == 0
    assert relative.suspects[~copies].mean() < 0.03
    assert relative.suspects_ref.tolist() == absolute.suspects_ref.tolist()
    assert relative.ref_floor == absolute.ref_floor


def test_the_ratio_weighs_z_bins_alike_whatever_their_distances():
    bins = np.repeat([0, 1], 50)
    test, subjects = (
        np.repeat([1.0, 10.0], 50) * np.tile(np.linspace(0.9, 1.1, 50), 2),
        np.tile(np.arange(10), 10),
    )
    scales = bin_scales(test, bins, 2)
    synthetic = np.where(bins == 0, 1.5, 15.0) * np.tile(np.linspace(0.9, 1.1, 50), 2)
    assert memorisation(synthetic, test, subjects, 0, scales[bins], scales[bins]).ratio == pytest.approx(1.5)


def test_z_bins_with_few_held_out_slices_have_the_scale_of_all():
    distance = np.array([1.0, 1, 1, 1, 1, 3, 3, 3, 3, np.nan, 0, 0, 0, 0, 0])
    bins = np.array([0] * 5 + [1] * 5 + [2] * 5)
    assert bin_scales(distance, bins, 4).tolist() == [1, 1, 1, 1]
    assert bin_scales(distance[:9], bins[:9], 2).tolist() == [1, 1]
    assert np.isnan(bin_scales(np.array([]), np.array([], int), 2)).all()
