"""Memory and time of the metrics for many samples: blocks instead of stacks, counts instead of tables of pairs."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.control import control_axis
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.image import outline_shares, profile_distances
from slimdiff.evaluation.axes.mask import mask_axis
from slimdiff.evaluation.axes.pair import pair_axis
from slimdiff.evaluation.metrics import binary_masks, features, lesions, mmd, outline, wasserstein
from slimdiff.evaluation.metrics.components import components_of
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.metrics.lesion_contrast import pair_features
from slimdiff.evaluation.metrics.lpips import matched_pairs
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.evaluation.metrics.robust_mmd import robust_mmd, whitened
from slimdiff.evaluation.statistics.bootstrap import (
    SAMPLES,
    Resampling,
    resampled_means,
    sample_mean_interval,
)
from slimdiff.generation.samples import Samples
from slimdiff.stored_rows import ChosenRows

BINS = 3
ROW_BYTES = 4096
"""Most memory per sample: numbers and table rows. One sample of 64 x 64 px has 16,384 bytes, 36,864 as float32."""


@pytest.fixture(scope="module")
def repeated(make_pairs):
    """A function: an evaluation of n samples, which are 100 slices again and again, so that none is in memory."""
    images, masks = make_pairs(100, 3)
    soft = np.where(masks, 1, -1).astype(np.float16)
    z_bin, label = np.arange(100) // 2 % BINS, np.arange(100) % 2
    soft[label == 0] = -1
    subject = np.array([f"sub-{number // 5:02d}" for number in range(100)])
    store = SimpleNamespace(
        images=images,
        masks=(soft > 0).astype(np.uint8),
        participant=subject,
        person=subject,
        z_bin=z_bin,
        label=label,
        acquisition=np.full(len(label), "n/a"),
        n_bins=BINS,
        spacing_mm=1.25,
        facts={"bin_centres": [1.0, 2.0, 3.0], "min_lesion_px": 5},
    )

    def of(n: int) -> FoldEvaluation:
        rows = np.arange(n) % 100
        ids = np.array([f"s{number:05d}" for number in range(n)])
        samples = Samples(ChosenRows(images, rows), ChosenRows(soft, rows), z_bin[rows], label[rows], ids)
        config = EvaluationConfig(bootstrap=20, taus=(0.0,), tau=0.0, seed=0)
        half = np.arange(100) < 50
        names = {"study": "s", "variant": "v", "fold": 0}
        rows = (np.flatnonzero(half), np.flatnonzero(~half))
        return FoldEvaluation(store, *rows, samples, config, None, names)

    return of


@pytest.mark.parametrize("axis", [mask_axis, pair_axis, control_axis, profile_distances, outline_shares])
def test_memory_grows_by_rows_of_numbers_not_by_slices(axis, repeated, monkeypatch):
    monkeypatch.setattr(outline, "_BLOCK_PX", 2**18)
    # How many blocks of several threads are in memory at once is chance.
    monkeypatch.setattr("slimdiff.evaluation.metrics.lesion_contrast.THREADS", 1)
    # Labels of the permutations, up to this number of samples.
    monkeypatch.setattr("slimdiff.evaluation.metrics.robust_mmd.LARGEST_PERMUTED", 100)
    peaks = []
    # Both are more than one block. Outlines take a millisecond each.
    sizes = (100, 300) if axis is outline_shares else (2400, 3600)
    for n in sizes:
        evaluation = repeated(n)
        tracemalloc.start()
        axis(evaluation)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < ROW_BYTES


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_matched_pairs_are_those_of_a_table_of_all_pairs(grouped, same):
    rng = np.random.default_rng(0)
    for seed in range(30):
        bins_a, bins_b = rng.integers(0, 5, 12), rng.integers(1, 7, 9)
        groups_a, groups_b = (np.array([f"p{k}" for k in rng.integers(0, 3, size)]) for size in (12, 9))
        if same:
            bins_b, groups_b = bins_a, groups_a
        groups = (groups_a, groups_b) if grouped else (None, None)
        allowed = bins_a[:, None] == bins_b
        if grouped:
            allowed &= groups_a[:, None] != groups_b
        generator, rows = np.random.default_rng(seed), np.flatnonzero(allowed.any(axis=1))
        first = generator.choice(rows, 20)
        second = [generator.choice(np.flatnonzero(allowed[row])) for row in first]
        found = matched_pairs(bins_a, bins_b, 20, seed, *groups)
        assert (found[0].tolist(), found[1].tolist()) == (first.tolist(), second)


def test_an_interval_over_samples_is_that_of_the_table_of_resamplings():
    rng = np.random.default_rng(0)
    ids, values = np.array([f"s{k}" for k in rng.integers(0, 40, 130)]), rng.random(130)
    table = Resampling.of(ids, 200, 7, SAMPLES)
    expected = table.percentile(resampled_means(values, table.index, table.counts))
    found = sample_mean_interval(values, ids, 200, 7)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-13)
    assert found.low < values.mean() < found.high
    assert sample_mean_interval(values[:4], ids[:4], 200, 7).reason == "4 samples, at least 5 are required"


def test_sums_over_all_pairs_use_a_fixed_choice_of_many_samples(monkeypatch):
    rng = np.random.default_rng(0)
    real, drawn = rng.standard_normal((60, 16)), rng.standard_normal((400, 16)) + 0.3
    subjects, counts = np.arange(60) // 5, np.ones((1, 12))
    every = mmd.resampled_mmd2(real, drawn, subjects, counts)[0]
    robust, energy = robust_mmd(real, drawn, 0), lesions.energy_distance(real[:, :2], drawn[:, :2])
    assert mmd.at_most(drawn, 400) is drawn
    monkeypatch.setattr(mmd, "LARGEST_SYNTHETIC", 150)
    few = mmd.at_most(drawn)
    chosen = np.sort(np.random.default_rng(0).permutation(400)[:150])
    np.testing.assert_array_equal(few, drawn[chosen])
    found = mmd.resampled_mmd2(real, drawn, subjects, counts)[0]
    assert found == mmd.resampled_mmd2(real, few, subjects, counts)[0] != every
    assert found == pytest.approx(every, rel=0.3)
    # Whitening and bandwidth are still those of all.
    again = robust_mmd(real, drawn, 0)
    assert (again.bandwidth, again.n_synthetic) == (robust.bandwidth, 400)
    assert again.value == pytest.approx(robust.value, rel=0.3)
    assert again.value != robust.value
    assert lesions.energy_distance(real[:, :2], drawn[:, :2]) == pytest.approx(energy, rel=0.3)
    # With few features the time is linear, and all are used.
    monkeypatch.setattr(mmd, "LARGEST_SYNTHETIC", 400)
    complete = mmd.complete_mmd2(real[:, :9], drawn[:, :9])
    monkeypatch.setattr(mmd, "LARGEST_SYNTHETIC", 150)
    assert mmd.complete_mmd2(real[:, :9], drawn[:, :9]) == complete


def test_whitened_vectors_of_many_samples_are_all_that_a_choice_is_made_of(monkeypatch):
    rng = np.random.default_rng(1)
    real, drawn = rng.standard_normal((40, 8)), rng.standard_normal((300, 8))
    monkeypatch.setattr(mmd, "LARGEST_SYNTHETIC", 100)
    x, y = whitened(real, drawn)
    found = robust_mmd(real, drawn, 0)
    d = found.bandwidth

    def kernel(a, b):
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return np.mean([np.exp(-squared / (2 * (s * d) ** 2)) for s in (0.5, 1, 2)], axis=0)

    y = mmd.at_most(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    expected = (xx.sum() - 40) / (40 * 39) + (yy.sum() - 100) / (100 * 99) - 2 * xy.mean()
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_features_are_extracted_and_written_block_by_block(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8)).astype(np.uint8)
    sizes = []

    def extract(block, extractor, **_):
        sizes.append(len(block))
        return np.repeat(block.reshape(len(block), -1)[:, :1], 2304, axis=1).astype(np.float32)

    monkeypatch.setattr(features, "extract", extract)
    whole = FeatureCache(tmp_path / "whole").extract(images, "alexnet")
    monkeypatch.setattr(features, "_BLOCK", 32)
    monkeypatch.setattr(features, "_HASHED_PX", 5 * 64)
    stored = FeatureCache(tmp_path / "blocks").stored(ChosenRows(images, np.arange(70)), "alexnet")
    assert sizes == [70, 32, 32, 6]
    np.testing.assert_array_equal(stored[:], whole)
    one, other = (next((tmp_path / name).iterdir()) for name in ("whole", "blocks"))
    assert (one.name, one.read_bytes()) == (other.name, other.read_bytes())


def test_masks_of_zero_and_one_are_refused_although_no_block_has_all_of_them(make_pairs):
    images, masks = make_pairs(6, 0)
    stack = ChosenRows(masks.astype(np.float32), np.arange(6))
    for work in (
        binary_masks.binary_components,
        binary_masks.lesion_area,
        lambda one: pair_features(images, one),
    ):
        with pytest.raises(ValueError, match="found only 0 and 1"):
            work(stack)
    # One grey pixel in the last slice: these are continuous masks.
    grey = masks.astype(np.float32)
    grey[5, 0, 0] = -0.5
    found, expected = binary_masks.binary_components(ChosenRows(grey, np.arange(6))), components_of(grey > 0)
    np.testing.assert_array_equal(found.features, expected.features)


def test_nearest_slices_do_not_depend_on_where_the_slices_are(make_pairs):
    images, _ = make_pairs(40, 2)
    bins = np.arange(40) % 3
    order = np.arange(40)[::-1]
    whole = nearest(images[order], images[:25], bins[order], bins[:25], "ncc")
    rows = nearest(
        ChosenRows(images, order), ChosenRows(images, np.arange(25)), bins[order], bins[:25], "ncc"
    )
    for one, other in zip(whole, rows, strict=True):
        np.testing.assert_array_equal(one, other)


def test_wasserstein_in_small_blocks_of_resamplings_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    real, drawn = rng.standard_normal((50, 2)), rng.standard_normal((70, 2)) + 0.5
    subjects, counts = np.arange(50) // 5, rng.integers(0, 4, (40, 10))
    whole = wasserstein.resampled_wasserstein(real, drawn, subjects, counts)
    monkeypatch.setattr(wasserstein, "_VALUES", 3 * 120)
    np.testing.assert_allclose(
        wasserstein.resampled_wasserstein(real, drawn, subjects, counts), whole, rtol=1e-13
    )
