import numpy as np
import pytest

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.metrics.lesions import component_features, lesions_of, mmd_mf, tau_sweep
from slimdiff.evaluation.metrics.robust_mmd import robust_mmd

TAUS = EvaluationConfig().taus


@pytest.fixture(scope="module")
def real(slice_pairs):
    return lesions_of(slice_pairs[1][:20], np.arange(20) // 4)


def sweep(real, masks, taus=TAUS):
    return tau_sweep(real, masks, np.arange(len(masks)) // 4, taus)


def test_f11_sweep_repeats_and_changes_only_where_tau_crosses_a_mask_value(real, slice_pairs):
    _, masks = slice_pairs
    sharp = np.where(masks[20:], 0.9, -0.9).astype(np.float16)
    rows = sweep(real, sharp)
    assert rows == sweep(real, sharp)
    assert [row["tau"] for row in rows] == [-0.3, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.3]
    drawn, slices = component_features(sharp)
    expected = mmd_mf(component_features(masks[:20])[0], drawn)
    for row in rows:
        assert (row["mmd_mf"], row["mmd_mf_w1"]) == (expected.mmd, expected.w1_geometric_mean)
        assert (row["n_components"], row["n_slices"]) == (len(drawn), len(set(slices.tolist())))
    ramp = np.clip(np.where(masks[20:], 0.15, -0.9), -1, 1)
    counts = {row["tau"]: row["n_components"] for row in sweep(real, ramp)}
    assert counts[0.1] == counts[-0.3] > 0
    assert counts[0.2] == 0


def test_sweep_finds_a_higher_threshold_at_which_masks_have_their_true_size(real, slice_pairs):
    """Every metric has its minimum at the threshold that gives the lesions their true size."""
    from scipy import ndimage

    to_border = [
        ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        for mask in slice_pairs[1][:20]
    ]
    # 0.2 at the true border, which is half a pixel from the adjacent pixel centres; slope 0.2 per pixel.
    masks = np.array([0.2 * (d - 0.5 * np.sign(d)) + 0.2 for d in to_border])
    masks = np.clip(masks, -1, 1).astype(np.float32)
    rows = sweep(real, masks, taus=(-0.4, -0.2, 0.0, 0.2, 0.5))
    for metric in ("mmd_mf", "mmd_mf_w1", "mmd_robust"):
        values = [row[metric] for row in rows]
        assert np.argmin(values) == 3, (metric, values)
        assert values[0] > values[1] > values[2] > values[3] < values[4], (metric, values)


def test_sweep_uses_the_vectors_of_the_robust_mmd(real, slice_pairs):
    sharp = np.where(slice_pairs[1][20:], 0.9, -0.9)
    drawn = lesions_of(sharp, np.arange(20) // 4)
    assert len(drawn.vectors) == len(drawn.slices) == len(set(drawn.components.slices.tolist()))
    (row,) = sweep(real, sharp, taus=(0.0,))
    assert row["mmd_robust"] == robust_mmd(real.vectors, drawn.vectors, 0, 0).value
