"""A few broken samples among good ones are found, good ones left alone: drawn heads as cohort and as samples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from slimdiff.config.data import AnatomyConfig
from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.data.phantom.drawn import SliceDrawer
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.outliers import OUTLIER_COLUMNS, outlier_axis
from slimdiff.evaluation.evaluate import write_tables
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.metrics.outliers import DESCRIPTORS, LIMIT, deviations, scores
from slimdiff.files import read_table
from slimdiff.generation.samples import Samples

BINS, N_TRAIN, N_TEST, N_DRAWN = 4, 80, 60, 256
BROKEN = ("noise", "spots", "shifted", "blank")


def heads(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images float16 (count, 64, 64) and z-bins of drawn heads; the empty slices below and above the brain are left
    out."""
    drawer = SliceDrawer(AnatomyConfig(), (64, 64), 3.0, 45.0, seed, torch.device("cpu"))
    drawn = drawer.draw(np.arange(2 * count), np.zeros(2 * count, bool))
    height = drawn.height.numpy()
    rows = np.flatnonzero((height > 0.2) & (height < 0.8))[:count]
    assert len(rows) == count
    z_bin = ((height[rows] - 0.2) / 0.6 * BINS).astype(int)
    return drawn.x0[rows, 0].numpy().astype(np.float16), z_bin


def broken(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    image = image.astype(np.float32)
    if kind == "noise":
        return np.clip(rng.normal(0, 0.5, image.shape), -1, 1)
    if kind == "spots":
        return np.where(rng.random(image.shape) < 0.02, 1, image)
    if kind == "shifted":
        return np.roll(image, (13, -11), axis=(0, 1))
    return np.full_like(image, -1)


@pytest.fixture(scope="module")
def store():
    images, z_bin = heads(N_TRAIN + N_TEST, 0)
    names = np.array([f"sub-{i:03d}" for i in range(len(images))])
    return SimpleNamespace(
        images=images,
        masks=np.zeros(images.shape, np.uint8),
        participant=names,
        person=names,
        z_bin=z_bin,
        label=np.zeros(len(images), int),
        n_bins=BINS,
    )


@pytest.fixture(scope="module")
def judge(store, alexnet, tmp_path_factory):
    cache = FeatureCache(tmp_path_factory.mktemp("features"))

    def judged(images: np.ndarray, z_bin: np.ndarray) -> FoldEvaluation:
        ids = np.array([f"s{i:03d}" for i in range(len(images))])
        masks = np.full(images.shape, -1, np.float16)
        samples = Samples(images.astype(np.float16), masks, z_bin, np.zeros(len(images), int), ids)
        test, train = np.arange(N_TRAIN, N_TRAIN + N_TEST), np.arange(N_TRAIN)
        config = EvaluationConfig(bootstrap=100, device="cpu")
        names = {"study": "s", "variant": "v", "fold": 0}
        found = FoldEvaluation(store, test, train, samples, config, cache, names)
        outlier_axis(found)
        return found

    return judged


@pytest.fixture(scope="module")
def samples():
    """As a model draws them: a little smoother than real slices."""
    images, z_bin = heads(N_DRAWN, 1)
    smooth = [ndimage.gaussian_filter(image.astype(np.float32), 0.4) for image in images]
    return np.stack(smooth).astype(np.float16), z_bin


def outliers_of(found: FoldEvaluation) -> set[int]:
    return {int(row["id"][1:]) for row in found.outliers if row["outlier"]}


def test_every_broken_sample_is_named_and_few_good_ones(judge, samples):
    images, z_bin = samples
    images = images.copy()
    rng = np.random.default_rng(0)
    # 3 % of the samples, two of each kind.
    rows = rng.choice(N_DRAWN, 8, replace=False)
    for place, row in enumerate(rows):
        images[row] = broken(images[row], BROKEN[place % 4], rng)
    found = judge(images, z_bin)
    assert set(rows) <= outliers_of(found)
    false_alarms = len(outliers_of(found) - set(rows))
    assert false_alarms <= 0.02 * N_DRAWN
    (row,) = found.rows
    assert row["metric"] == "outlier_share" and row["n"] == N_DRAWN
    assert row["value"] == pytest.approx((8 + false_alarms) / N_DRAWN)
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["floor"] <= 0.05
    assert [one["score"] for one in found.outliers] == sorted(
        (one["score"] for one in found.outliers), reverse=True
    )
    reasons = {int(one["id"][1:]): one["why"] for one in found.outliers if one["outlier"]}
    assert {reasons[row] for row in rows[3::4]} == {"brain_area"}, "blank slices"


def test_good_samples_have_no_outliers_and_real_slices_few(judge, samples):
    found = judge(*samples)
    assert len(outliers_of(found)) <= 0.02 * N_DRAWN
    assert all(row["why"] == "" for row in found.outliers if not row["outlier"])


def test_a_model_that_is_wrong_everywhere_has_no_outliers(judge, samples):
    """All of its slices are too smooth and too bright: the image metrics say so, this score does not."""
    images, z_bin = samples
    flat = np.stack([ndimage.gaussian_filter(image.astype(np.float32), 2) for image in images])
    assert len(outliers_of(judge(np.clip(flat + 0.1, -1, 1), z_bin))) <= 0.03 * N_DRAWN


def test_a_z_bin_with_few_slices_has_no_score_and_says_so(judge, samples):
    images, z_bin = samples
    some = np.concatenate([np.flatnonzero(z_bin != 2), np.flatnonzero(z_bin == 2)[:5]])
    found = judge(images[some], z_bin[some])
    without = [row for row in found.outliers if row["z_bin"] == 2]
    assert len(without) == 5
    assert all(
        np.isnan(row["score"]) and row["outlier"] == 0 and "fewer than 10" in row["why"] for row in without
    )
    assert "5 samples left out" in found.rows[0]["reason"]


def test_the_table_has_every_sample_once(judge, samples, tmp_path):
    found = judge(*samples)
    write_tables(tmp_path, found, ("outliers",), ending="")
    rows = read_table(tmp_path / "outliers.tsv", OUTLIER_COLUMNS)
    assert len({row["id"] for row in rows}) == len(rows) == N_DRAWN


def test_deviations_are_in_standard_deviations_of_each_side():
    """One descriptor, two z-bins: 0 to 100, and 0 to 1000 with a long side above."""
    low, high = np.arange(101.0), np.concatenate([np.arange(51.0), 50 + 19 * np.arange(1, 51.0)])
    real, z_bin = np.concatenate([low, high])[:, None], np.repeat([0, 1], 101)
    # The 10 %, 50 % and 90 % quantiles are 10, 50, 90, and 10, 50, 810.
    side, long_side = 40 / 1.2816, 760 / 1.2816
    drawn = np.array([50 + 3 * side, 50 - 2 * side, 50 + 3 * long_side, 50 - 2 * side])[:, None]
    of = deviations(
        np.tile(drawn, (1, len(DESCRIPTORS))),
        np.array([0, 0, 1, 1]),
        np.tile(real, (1, len(DESCRIPTORS))),
        z_bin,
        others=False,
    )
    # The least spread is half of the median of both z-bins' larger sides: it widens the smaller ones.
    least = (side + long_side) / 4
    assert of[:, 0] == pytest.approx([3 * side / least, 2 * side / least, 3, 2 * side / least], rel=1e-4)
    # Nearer than usual is no deviation of the distance.
    assert of[:, -1] == pytest.approx([3 * side / least, 0, 3, 0], rel=1e-4)
    assert scores(np.array([[1.9, 2.0, 0.0], [5.0, 6.0, 2.0]])) == pytest.approx([0, 5])
    assert np.isnan(scores(np.full((1, 3), np.nan))[0]) and LIMIT > 0
