"""The searches for copies against slow computations from docs/metric_definitions.md."""

import numpy as np
import pytest
from scipy.optimize import nnls

from slimdiff.evaluation.copies.distinct import distinct
from slimdiff.evaluation.copies.mixtures import closest_mixture
from slimdiff.evaluation.copies.spaces import joint, units


def test_the_ratio_is_that_of_the_closest_slices_of_two_persons():
    rng = np.random.default_rng(0)
    query, reference = rng.standard_normal((30, 5)), rng.standard_normal((40, 5))
    query_bin, reference_bin = rng.integers(3, size=30), rng.integers(3, size=40)
    persons = np.array([f"p{i}" for i in rng.integers(6, size=40)])
    ratio, index = distinct(query, reference, query_bin, reference_bin, persons)
    for i in range(30):
        own = [j for j in range(40) if reference_bin[j] == query_bin[i]]
        length = {j: np.linalg.norm(query[i] - reference[j]) for j in own}
        best = min(own, key=length.get)
        second = min(length[j] for j in own if persons[j] != persons[best])
        assert index[i] == best and ratio[i] == pytest.approx((length[best] + 0.01) / (second + 0.01))


def test_views_of_one_object_share_their_smallest_distances():
    reference, persons = np.array([[0.0, 0], [4, 0]]), np.array(["a", "b"])
    query = np.array([[1.0, 0], [3, 0], [0, 3]])
    ratio, index = distinct(query, reference, np.zeros(3), np.zeros(2), persons, np.array([0, 0, 1]))
    assert index.tolist() == [0, 0]
    assert ratio == pytest.approx([1, 3.01 / 5.01])


def test_a_z_bin_without_references_and_one_with_one_person():
    ratio, index = distinct(
        np.ones((2, 2)), np.zeros((1, 2)), np.array([0, 1]), np.array([1]), np.array(["a"])
    )
    assert index.tolist() == [-1, 0] and np.isnan(ratio[0])
    assert ratio[1] == pytest.approx(1)


def test_the_mixture_is_the_best_of_all_pairs():
    """Against non-negative least squares for every pair."""
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((12, 4, 5)) + rng.standard_normal((1, 4, 5))
    persons = np.array([f"p{i // 2}" for i in range(12)])
    query = np.concatenate([rng.standard_normal((6, 4, 5)), (reference[2] + reference[7])[None] / 2])
    distance, index = closest_mixture(query, reference, np.zeros(7), np.zeros(12), persons)

    def centred(image):
        flat = image.ravel() - image.mean()
        return flat / np.linalg.norm(flat)

    for i, image in enumerate(query):
        left = {}
        for a in range(12):
            for b in range(a + 1, 12):
                columns = np.stack([centred(reference[a]), centred(reference[b])], axis=1)
                left[a, b] = nnls(columns, centred(image))[1] ** 2
        pair = min(left, key=left.get)
        taken = {persons[pair[0]], persons[pair[1]]}
        second = min(value for key, value in left.items() if not taken & {persons[key[0]], persons[key[1]]})
        assert distance[i] == pytest.approx(left[pair] / second, rel=1e-4, abs=1e-5)
        assert index[i] in pair
    assert distance[-1] < 1e-5


def test_the_joint_distance_is_the_smallest_in_units_of_the_held_out_slices():
    rng = np.random.default_rng(2)
    of_test = {"a": rng.random(101), "b": 10 * rng.random(101)}
    unit = units(of_test)
    assert unit == {name: pytest.approx(np.sort(values)[5]) for name, values in of_test.items()}
    found = {"a": (np.array([1.0, np.nan, np.nan]), np.array([4, -1, -1]))}
    found["b"] = (np.array([2.0, 3.0, np.nan]), np.array([5, 6, -1]))
    distance, index = joint(found, unit)
    assert distance == pytest.approx([min(1 / unit["a"], 2 / unit["b"]), 3 / unit["b"], np.nan], nan_ok=True)
    assert index.tolist() == [4 if 1 / unit["a"] <= 2 / unit["b"] else 5, 6, -1]
