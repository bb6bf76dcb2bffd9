import numpy as np
import pytest
import torch

from slimdiff.evaluation.image import fid, kid, matched_pairs, precision_recall


def sets(n=40, m=30, d=8, shift=0.5, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((d, d))
    return generator.standard_normal((n, d)), generator.standard_normal((m, d)) @ mixing + shift


def test_kid_of_two_points_is_the_closed_form():
    # every real vector is a, every synthetic one b: k(a, a) + k(b, b) - 2 k(a, b)
    real, synthetic = np.tile([1.0, 0.0], (12, 1)), np.tile([0.0, 2.0], (15, 1))
    assert kid(real, synthetic, seed=0).value == pytest.approx(1.5**3 + 3**3 - 2, rel=1e-12)


@pytest.mark.parametrize("n", [40, 300])
def test_fid_agrees_with_torch_fidelity(n):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    for shift in (0.0, 2.0):
        real, synthetic = sets(n, n - 10, shift=shift)
        both = [fid_features_to_statistics(torch.from_numpy(f)) for f in (real, synthetic)]
        theirs = fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
        assert fid(real, synthetic) == pytest.approx(theirs, rel=1e-8)


def test_fid_with_fewer_slices_than_features_agrees_with_the_covariances():
    from scipy.linalg import sqrtm

    real, synthetic = sets(20, 15, d=30)
    s1, s2 = np.cov(real, rowvar=False), np.cov(synthetic, rowvar=False)
    # a tiny ridge, since the square root of a singular matrix is ill-defined numerically
    root = sqrtm((s1 + 1e-9 * np.eye(30)) @ (s2 + 1e-9 * np.eye(30))).real
    slow = np.sum((real.mean(0) - synthetic.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * root)
    assert fid(real, synthetic) == pytest.approx(slow, rel=1e-3)


def test_fid_of_a_shifted_copy_is_the_squared_shift():
    real, _ = sets(50)
    assert fid(real, real + 0.5) == pytest.approx(8 * 0.25)
    assert fid(real, real) == pytest.approx(0, abs=1e-9)


def test_order_of_the_slices_does_not_matter():
    real, synthetic = sets()
    shuffled = np.random.default_rng(1).permutation(len(real))
    assert fid(real[shuffled], synthetic) == pytest.approx(fid(real, synthetic))
    assert precision_recall(real[shuffled], synthetic) == precision_recall(real, synthetic)


def test_precision_and_recall_agree_with_balls_drawn_by_hand():
    def share_inside(points, centres, k=3):
        radius = [np.sort(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
        return np.mean(
            [any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radius, strict=True)) for p in points]
        )

    real, synthetic = sets(shift=1.0)
    precision, recall = precision_recall(real, synthetic)
    assert precision == pytest.approx(share_inside(synthetic, real))
    assert recall == pytest.approx(share_inside(real, synthetic))
    assert 0 < precision < 1


def test_a_model_that_repeats_one_mode_is_precise_and_recalls_little():
    real, _ = sets(200)
    repeats = real[:5].repeat(10, axis=0)
    precision, recall = precision_recall(real, repeats)
    assert precision == 1
    assert recall < 0.2


def test_few_slices_give_nan():
    real, synthetic = sets(40, 9)
    assert np.isnan(fid(real, synthetic))
    assert np.isnan(kid(real, synthetic, seed=0).value)
    assert np.isnan(precision_recall(real, synthetic)).all()


def test_f11_image_metrics_repeat_bit_for_bit():
    real, synthetic = sets()
    for metric in (lambda: kid(real, synthetic, seed=1, subset_size=20), lambda: fid(real, synthetic)):
        assert metric() == metric()


def test_matched_pairs_share_the_z_bin_and_never_the_subject():
    generator = np.random.default_rng(0)
    bins, subjects = generator.integers(6, size=80), generator.integers(4, size=80)
    a, b = matched_pairs(bins, bins, 200, seed=3, groups_a=subjects, groups_b=subjects)
    assert len(a) == len(b) == 200
    assert np.array_equal(bins[a], bins[b])
    assert (subjects[a] != subjects[b]).all()
    again = matched_pairs(bins, bins, 200, seed=3, groups_a=subjects, groups_b=subjects)
    assert np.array_equal(a, again[0])
    assert np.array_equal(b, again[1])


def test_no_common_z_bin_gives_no_pair():
    a, b = matched_pairs(np.zeros(5), np.ones(5), 10, seed=0)
    assert len(a) == len(b) == 0
