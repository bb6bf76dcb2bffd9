import numpy as np
import pytest
import torch

from slimdiff.evaluation.metrics.fid import fid, resampled_fid


def sets(n=40, m=30, d=8, shift=0.5, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((d, d))
    return generator.standard_normal((n, d)), generator.standard_normal((m, d)) @ mixing + shift


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


def test_few_slices_give_nan():
    real, synthetic = sets(40, 9)
    assert np.isnan(fid(real, synthetic))
    assert np.isnan(resampled_fid(real, synthetic, np.zeros(40, int), np.ones((3, 1)))).all()


@pytest.mark.parametrize("d", [6, 60])
def test_resampled_fid_equals_fid_of_repeated_rows(d):
    real, synthetic = sets(40, 50, d=d)
    subjects = np.repeat(np.arange(8), 5)
    counts = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), size=6)
    slow = [fid(np.repeat(real, weight[subjects], axis=0), synthetic) for weight in counts]
    assert resampled_fid(real, synthetic, subjects, counts) == pytest.approx(slow, rel=1e-5)
    assert len(set(np.round(slow, 6))) == 6
