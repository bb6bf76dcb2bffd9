import numpy as np
import pytest
import torch

from slimdiff.evaluation.metrics.precision_recall import precision_recall


def sets(n=40, m=30, d=8, shift=0.5, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((d, d))
    return generator.standard_normal((n, d)), generator.standard_normal((m, d)) @ mixing + shift


def pair(real, synthetic) -> tuple[float, float]:
    found = precision_recall(real, synthetic)
    return found.precision, found.recall


def test_precision_and_recall_agree_with_explicit_balls():
    def share_inside(points, centres, k=3):
        radius = [np.sort(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
        return np.mean(
            [any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radius, strict=True)) for p in points]
        )

    real, synthetic = sets(shift=1.0)
    precision, recall = pair(real, synthetic)
    assert precision == pytest.approx(share_inside(synthetic, real))
    assert recall == pytest.approx(share_inside(real, synthetic))
    assert 0 < precision < 1


def test_precision_and_recall_agree_with_torch_fidelity():
    from torch_fidelity.metric_prc import prc_features_to_metric

    for seed in range(3):
        real, synthetic = sets(300, 1500, shift=1.0, seed=seed)
        theirs = prc_features_to_metric(
            torch.from_numpy(synthetic), torch.from_numpy(real), prc_neighborhood=3, verbose=False
        )
        assert pair(real, synthetic) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_a_model_that_repeats_one_mode_has_high_precision_and_low_recall():
    real, _ = sets(200)
    precision, recall = pair(real, real[:5].repeat(10, axis=0))
    assert precision == 1
    assert recall < 0.2


def test_order_of_the_slices_does_not_matter():
    real, synthetic = sets()
    shuffled = np.random.default_rng(1).permutation(len(real))
    assert pair(real[shuffled], synthetic) == pair(real, synthetic)


def test_few_slices_give_nan():
    assert np.isnan(pair(*sets(40, 9))).all()


def test_resampling_uses_the_drawn_subjects():
    real, synthetic = sets(60, 80, shift=1.0)
    subjects = np.repeat(np.arange(6), 10)
    counts = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0], [0, 6, 0, 0, 0, 0]])
    found = precision_recall(real, synthetic, subjects=subjects, counts=counts)
    inside = [precision_recall(real[[row] * 12], synthetic).recall for row in range(60)]
    for b, weight in enumerate(counts):
        present = real[weight[subjects] > 0]
        assert found.precision_resampled[b] == pytest.approx(precision_recall(present, synthetic).precision)
        assert found.recall_resampled[b] == pytest.approx(np.average(inside, weights=weight[subjects]))
    assert found.precision_resampled[0] == found.precision
    assert found.recall_resampled[0] == found.recall
