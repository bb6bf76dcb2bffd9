import numpy as np
import pytest

from slimdiff.evaluation.metrics.components import components_of
from slimdiff.evaluation.metrics.kid import subset_mmd2
from slimdiff.evaluation.metrics.mmd import standardise
from slimdiff.evaluation.metrics.robust_mmd import COLUMNS, resampled_robust, robust_mmd, slice_vectors


def vectors(n, seed, shift=0.0):
    """Eight columns, some collinear or discrete, like the vectors of lesion slices."""
    generator = np.random.default_rng(seed)
    log_area = generator.normal(5, 1, n) + shift
    circularity = np.clip(1 - 0.1 * log_area + generator.normal(0, 0.1, n), 0, 1)
    solidity = np.clip(0.5 + circularity / 2 + generator.normal(0, 0.02, n), 0, 1)
    z = generator.integers(30, size=n) * 2.7
    x, y = generator.normal(80, 20, n), generator.normal(60, 10, n) + z / 5
    count = 1 + generator.poisson(0.3, n)
    return np.stack([log_area, count, circularity, solidity, np.sqrt(1 - circularity**2), x, y, z], axis=1)


def slow_kernel(real, synthetic):
    """The mean of three RBF kernels of all vectors, pair by pair, whitened by an eigenvalue decomposition."""
    pooled = np.concatenate([real, synthetic])
    z = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    correlation = np.corrcoef(z.T)
    shrunk = 0.95 * correlation + 0.05 * np.eye(len(correlation))
    values, axes = np.linalg.eigh(shrunk)
    z = z @ axes / np.sqrt(values)
    distance = np.array([[np.linalg.norm(a - b) for b in z] for a in z])
    median = np.median(distance[np.triu_indices(len(z), 1)])
    return np.mean([np.exp(-((distance / (f * median)) ** 2) / 2) for f in (0.5, 1, 2)], axis=0), median


def slow_mmd2(kernel, real, synthetic):
    """Unbiased estimate of the vectors with these indices."""
    within = [[kernel[i, j] for i in part for j in part if i != j] for part in (real, synthetic)]
    across = [kernel[i, j] for i in real for j in synthetic]
    return np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(across)


def test_value_and_bandwidth_agree_with_explicit_pairs():
    x, y = vectors(20, 1), vectors(26, 2, shift=0.5)
    kernel, median = slow_kernel(x, y)
    found = robust_mmd(x, y, permutations=0)
    assert found.value == pytest.approx(slow_mmd2(kernel, range(20), range(20, 46)), rel=1e-10)
    assert found.bandwidth == pytest.approx(median, rel=1e-10)
    assert (found.n_real, found.n_synthetic, found.n_permuted) == (20, 26, (0, 0))
    assert np.isnan(found.p)


def test_p_is_the_share_of_permutations_at_least_as_extreme():
    x, y = vectors(12, 1), vectors(14, 2, shift=0.8)
    kernel, _ = slow_kernel(x, y)
    observed = slow_mmd2(kernel, range(12), range(12, 26))
    generator = np.random.default_rng(9)
    orders = [generator.permutation(26) for _ in range(400)]
    share = np.mean([slow_mmd2(kernel, order[:12], order[12:]) >= observed for order in orders])
    assert 0.02 < share < 0.98
    found = robust_mmd(x, y, permutations=1200, seed=0)
    # two independent draws of permutations
    assert found.p == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) * (1 / 400 + 1 / 1200)))


@pytest.mark.parametrize(("n", "m"), [(12, 60), (40, 40)])
def test_p_of_equal_distributions_is_uniform(n, m):
    found = np.array([robust_mmd(vectors(n, s), vectors(m, 1000 + s), 99, s).p for s in range(60)])
    assert (found <= 0.05).mean() <= 0.1
    assert 0.35 < found.mean() < 0.65


def test_p_of_a_shift_is_small():
    assert robust_mmd(vectors(60, 1), vectors(80, 2, shift=1.0), 199).p == 1 / 200


def test_unbiased_under_equality():
    found = [robust_mmd(vectors(30, s), vectors(40, 500 + s), 0).value for s in range(60)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(60)


def test_units_do_not_matter():
    x, y = vectors(30, 1), vectors(40, 2, shift=0.5)
    scale, offset = np.array([3, 1, 7, 100, 0.01, 5, 2, 1e3]), np.arange(8.0)
    found = robust_mmd(x * scale + offset, y * scale + offset, 0)
    assert found.value == pytest.approx(robust_mmd(x, y, 0).value, rel=1e-8)


def test_constant_and_collinear_columns_are_harmless():
    x, y = vectors(40, 1), vectors(50, 2, shift=0.3)
    for z in (x, y):
        z[:, 1] = 1
        z[:, 4] = 2 * z[:, 3] + 1
    found = robust_mmd(x, y, 99)
    assert abs(found.value) < 0.2 and 0 < found.bandwidth < 10
    same = np.full((15, 8), 3.3)
    found = robust_mmd(same, same, 99)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.p == 1


def test_f11_same_inputs_same_bits():
    x, y = vectors(30, 1), vectors(40, 2, shift=0.3)
    assert robust_mmd(x, y, 50, seed=3) == robust_mmd(x.copy(), y.copy(), 50, seed=3)
    assert len({robust_mmd(x, y, 50, seed=seed).p for seed in range(5)}) > 1


def test_too_few_slices_give_nan():
    found = robust_mmd(vectors(9, 1), vectors(40, 2), 50)
    assert np.isnan([found.value, found.p]).all()
    assert np.isnan(
        resampled_robust(vectors(40, 1), np.empty((0, 8)), np.zeros(40, int), np.ones((2, 1)))
    ).all()
    assert np.isnan(robust_mmd(np.empty((0, 8)), np.empty((0, 8)), 50).value)


def test_a_subset_of_many_slices_is_permuted(monkeypatch):
    monkeypatch.setattr("slimdiff.evaluation.metrics.robust_mmd.LARGEST_PERMUTED", 100)
    x, y = vectors(80, 1), vectors(200, 2)
    # only the last samples are shifted: p must use rows from the whole set
    y[100:, 0] += 8
    found = robust_mmd(x, y, 99)
    assert found.n_permuted == (80, 100)
    assert found.n_synthetic == 200
    assert found.value == robust_mmd(x, y, 0).value
    assert found.p == 0.01


def test_permutations_in_several_rounds_give_the_same_p(monkeypatch):
    x, y = vectors(20, 1), vectors(26, 2, shift=0.5)
    at_once = robust_mmd(x, y, 90).p
    monkeypatch.setattr("slimdiff.evaluation.metrics.robust_mmd._PERMUTED_AT_ONCE", 40)
    assert robust_mmd(x, y, 90).p == at_once


def test_median_distance_of_a_subset_is_close_to_that_of_all_slices(monkeypatch):
    x, y = vectors(150, 1), vectors(250, 2)
    everything = robust_mmd(x, y, 0).bandwidth
    monkeypatch.setattr("slimdiff.evaluation.metrics.robust_mmd._LARGEST_MEDIAN", 100)
    assert robust_mmd(x, y, 0).bandwidth == pytest.approx(everything, rel=0.05)


def test_drawing_every_subject_once_gives_the_value():
    x, y = vectors(30, 1), vectors(40, 2, shift=0.4)
    found = resampled_robust(x, y, np.arange(30) % 6, np.ones((1, 6)))
    assert found[0] == pytest.approx(robust_mmd(x, y, 0).value, rel=1e-9)


def test_resampling_agrees_with_explicit_pairs():
    x, y = vectors(18, 1), vectors(14, 2, shift=0.4)
    subjects, counts = np.arange(18) % 6, np.array([[2, 0, 1, 1, 2, 0]])
    kernel, _ = slow_kernel(x, y)
    copies = [(s, c) for s in range(6) for c in range(counts[0, s])]
    # pairs within a copy and between subjects, never between copies of one subject
    toward = kernel[:18, 18:].mean(axis=1)
    real = [
        kernel[i, j] - toward[i] - toward[j]
        for s, c in copies
        for t, d in copies
        for i in np.flatnonzero(subjects == s)
        for j in np.flatnonzero(subjects == t)
        if i != j and (s != t or c == d)
    ]
    of_synthetic = [kernel[i, j] for i in range(18, 32) for j in range(18, 32) if i != j]
    expected = np.mean(real) + np.mean(of_synthetic)
    assert resampled_robust(x, y, subjects, counts)[0] == pytest.approx(expected, rel=1e-9)


def disc(radius, row=40, column=40, side=120):
    rows, columns = np.ogrid[:side, :side]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_vectors_of_slices():
    masks = np.zeros((4, 120, 120), bool)
    masks[1] = disc(8, 40, 70) | disc(3, 90, 20)
    masks[2, 0, :4] = True  # too small for a component
    masks[3, 10:20, 30:70] = True
    masks[3, 80:90, 50:90] = True  # as large as the first
    z = np.array([3.0, 5.0, 7.0, 9.0])
    found, slices = slice_vectors(components_of(masks, min_px=5), z)
    assert slices.tolist() == [1, 3]
    row = dict(zip(COLUMNS, found[0], strict=True))
    assert row["log_lesion_area"] == pytest.approx(np.log(masks[1].sum()))
    assert (row["n_components"], row["z"]) == (2, 5)
    assert (row["centroid_x"], row["centroid_y"]) == pytest.approx((70, 40))
    assert row["circularity"] > 0.85 and row["solidity"] > 0.85 and row["eccentricity"] < 0.05
    row = dict(zip(COLUMNS, found[1], strict=True))
    assert row["log_lesion_area"] == pytest.approx(np.log(800))
    assert (row["n_components"], row["z"], row["solidity"]) == (2, 9, 1)
    assert (row["centroid_x"], row["centroid_y"]) == pytest.approx((49.5, 14.5))
    # a rectangle's moments are (side^2 - 1) / 12; skimage adds 1 / 12 for the pixel itself
    assert row["eccentricity"] == pytest.approx(np.sqrt(1 - 10**2 / 40**2), abs=0.01)


def test_slices_without_lesion_have_no_vector():
    found, slices = slice_vectors(components_of(np.zeros((3, 20, 20), bool)), np.zeros(3))
    assert found.shape == (0, 8) and len(slices) == 0


def test_one_huge_lesion_dominates_the_cubic_mmd_and_not_the_robust_mmd():
    generator = np.random.default_rng(0)

    def draw(n):
        return np.stack(
            [disc(radius, *generator.uniform(35, 85, 2)) for radius in generator.uniform(3, 9, n)]
        )

    real, synthetic = draw(80), draw(80)
    heavy = synthetic.copy()
    heavy[0] = disc(55, 60, 60)
    z = np.zeros(80)
    tables = [components_of(masks) for masks in (real, synthetic, heavy)]
    cubic = [
        subset_mmd2(*standardise(tables[0].features, other.features), seed=0, subsets=1).value
        for other in tables[1:]
    ]
    vectors_of = [slice_vectors(table, z)[0] for table in tables]
    found = [robust_mmd(vectors_of[0], other, 199) for other in vectors_of[1:]]
    subjects, counts = np.arange(80) % 20, generator.multinomial(20, np.ones(20) / 20, size=200)
    noise = resampled_robust(vectors_of[0], vectors_of[1], subjects, counts).std()
    # one lesion of 80 changes the robust MMD by less than its noise, the cubic MMD by orders of magnitude
    assert abs(found[1].value - found[0].value) < noise
    assert min(found[0].p, found[1].p) > 0.05
    assert cubic[1] > 1000 * abs(cubic[0])
