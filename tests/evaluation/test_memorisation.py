import numpy as np
import pytest

from slimdiff.evaluation.memorisation import by_training_subject, closest_pairs, memorisation, nearest


def cohort(n, seed, bins=4, d=12):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)), generator.integers(bins, size=n)


def slow_nearest(query, reference, query_bin, reference_bin, metric):
    found = []
    for q, b in zip(query, query_bin, strict=True):
        best = (np.nan, -1)
        for j, r in enumerate(reference):
            if reference_bin[j] != b:
                continue
            distance = (
                np.linalg.norm(q - r)
                if metric == "euclidean"
                else 1 - np.corrcoef(q.ravel(), r.ravel())[0, 1]
            )
            if not best[0] <= distance:
                best = (distance, j)
        found.append(best)
    return np.array([f[0] for f in found]), np.array([f[1] for f in found])


@pytest.mark.parametrize("metric", ["euclidean", "ncc"])
@pytest.mark.parametrize("block", [1024, 3])
def test_nearest_agrees_with_a_loop(metric, block):
    (query, query_bin), (reference, reference_bin) = cohort(30, 0), cohort(40, 1)
    distance, index = nearest(query, reference, query_bin, reference_bin, metric, block)
    slow_distance, slow_index = slow_nearest(query, reference, query_bin, reference_bin, metric)
    assert np.array_equal(index, slow_index)
    assert distance == pytest.approx(slow_distance, rel=1e-9)


@pytest.mark.parametrize("metric", ["euclidean", "ncc"])
def test_a_copy_is_found_at_distance_zero(metric, slice_pairs):
    images, _ = slice_pairs
    bins = np.zeros(40, int)
    distance, index = nearest(images[[7, 3]], images, bins[:2], bins, metric)
    assert index.tolist() == [7, 3]
    assert distance == pytest.approx(0, abs=1e-12)


def test_correlation_ignores_gain_and_offset(slice_pairs):
    images = slice_pairs[0].astype(np.float64)
    bins = np.zeros(40, int)
    distance, index = nearest(0.5 * images[:5] + 0.2, images, bins[:5], bins, "ncc")
    assert index.tolist() == [0, 1, 2, 3, 4]
    assert distance == pytest.approx(0, abs=1e-9)


def test_a_constant_image_correlates_with_nothing(slice_pairs):
    images, _ = slice_pairs
    distance, _ = nearest(np.full((1, 64, 64), 0.1), images, [0], np.zeros(40), "ncc")
    assert distance.tolist() == [1.0]


def test_only_the_same_z_bin_is_searched():
    query, _ = cohort(2, 0)
    reference = np.concatenate([query, query + 1])
    distance, index = nearest(query, reference, [5, 6], [0, 0, 5, 0])
    assert index.tolist() == [2, -1]
    assert np.isnan(distance[1])


def test_unknown_metric_and_missing_bins_are_refused():
    query, bins = cohort(4, 0)
    with pytest.raises(ValueError, match="cosine"):
        nearest(query, query, bins, bins, "cosine")
    with pytest.raises(ValueError, match="z-bin"):
        nearest(query, query, bins[:2], bins)


def distances(n=400, seed=0, low=1.0):
    generator = np.random.default_rng(seed)
    return low + generator.gamma(4, 0.25, n), np.array(
        [f"sub-{i:02d}" for i in generator.integers(10, size=n)]
    )


def test_a_model_like_unseen_subjects_is_clear():
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


def test_the_threshold_comes_from_half_of_the_subjects_only():
    test, subjects = distances()
    found = memorisation(test, test, subjects, seed=0)
    halves = [
        np.quantile(test[np.isin(subjects, chosen)], 0.01)
        for chosen in (np.random.default_rng(0).permutation(np.unique(subjects))[:5],)
    ]
    assert found.threshold == pytest.approx(halves[0])
    assert found.n_calibration < len(test)


def test_f11_the_split_is_seeded():
    test, subjects = distances()
    a, b = (memorisation(test, test, subjects, seed=3) for _ in range(2))
    assert (a.threshold, a.check_share) == (b.threshold, b.check_share)
    assert len({memorisation(test, test, subjects, seed=s).threshold for s in range(8)}) > 1


def test_samples_without_a_training_slice_are_counted_and_clear():
    test, subjects = distances()
    found = memorisation(np.array([np.nan, 0.01]), test, subjects, seed=0)
    assert found.suspects.tolist() == [False, True]
    assert found.suspect_share == 1
    assert found.n_unmatched == 1


def test_one_held_out_subject_leaves_nothing_to_check():
    found = memorisation(np.array([0.5, 1.5]), np.array([1.0, 1.2]), ["sub-01"] * 2, seed=0)
    assert np.isnan(found.check_share)
    assert found.suspects.tolist() == [True, False]


def test_no_held_out_slice_gives_nan():
    found = memorisation(np.array([0.5, 1.5]), np.array([]), [], seed=0)
    assert np.isnan([found.ratio, found.threshold, found.check_share, found.w1]).all()
    assert not found.suspects.any()
    assert not found.suspects_ref.any()


def test_report_by_training_subject_adds_up():
    distance, index = np.array([0.1, 0.3, 0.2, np.nan]), np.array([0, 1, 3, -1])
    suspects = np.array([True, False, True, False])
    rows = by_training_subject(distance, index, suspects, ["a", "a", "b", "c"])
    assert [row["participant"] for row in rows] == ["a", "c", "b"]
    assert rows[0] == {"participant": "a", "n_nearest": 2, "n_suspects": 1, "closest": 0.1}
    assert np.isnan(rows[2]["closest"])
    assert sum(row["n_nearest"] for row in rows) == 3


def test_closest_pairs_come_in_order():
    distance, index = np.array([0.4, np.nan, 0.1, 0.2]), np.array([5, -1, 6, 7])
    assert closest_pairs(distance, index, 2) == [(2, 6, 0.1), (3, 7, 0.2)]
    assert len(closest_pairs(distance, index, 10)) == 3
