"""The memorisation axis on two known models: one replays training slices, one draws unseen subjects."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.fold_evaluation import (
    FLAGGED_COLUMNS,
    NEAREST_COLUMNS,
    TRAINING_SUBJECT_COLUMNS,
    FoldEvaluation,
)
from slimdiff.evaluation.axes.memorisation import memorisation_axis
from slimdiff.evaluation.evaluate import write_tables
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.files import read_table
from slimdiff.generation.samples import Samples

N_TRAIN, N_TEST, BINS, SIDE = 10, 12, 3, 48
EVERYWHERE = (
    "memorisation_ratio",
    "suspect_share",
    "suspect_share_check",
    "suspect_share_ref",
    "memorisation_w1",
)


def subject_slices(seed: int) -> np.ndarray:
    """float16 (BINS, SIDE, SIDE) in [-1, 1]: the textured brain of one subject, similar in neighbouring z-bins."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    brain = np.hypot(x / generator.uniform(0.75, 1), y / generator.uniform(0.9, 1)) < 0.42 * SIDE
    texture = ndimage.gaussian_filter(generator.standard_normal((BINS + 4, SIDE, SIDE)), (1, 2, 2))[2:-2]
    return np.where(brain, np.clip(0.25 * texture / texture.std() - 0.1, -0.9, 1), -1).astype(np.float16)


@pytest.fixture(scope="module")
def cohort():
    """A store with one slice per subject and z-bin; subjects train-00 ... and test-00 ..."""
    names = [f"train-{i:02d}" for i in range(N_TRAIN)] + [f"test-{i:02d}" for i in range(N_TEST)]
    images = np.concatenate([subject_slices(seed) for seed in range(len(names))])
    return SimpleNamespace(
        images=images,
        masks=np.zeros(images.shape, np.uint8),
        participant=np.repeat(names, BINS),
        person=np.repeat(names, BINS),
        z_bin=np.tile(np.arange(BINS), len(names)),
        label=np.zeros(len(images), int),
        n_bins=BINS,
        spacing_mm=3.0,
    )


@pytest.fixture(scope="module")
def evaluated(cohort, alexnet, tmp_path_factory):
    """A function (images, z-bins, held-out subjects) -> the cell after the memorisation axis."""
    cache = FeatureCache(tmp_path_factory.mktemp("features"))
    config = EvaluationConfig(bootstrap=100, device="cpu")
    of_train = np.char.startswith(cohort.participant, "train")

    def build(images: np.ndarray, z_bin: np.ndarray, n_test: int = N_TEST) -> FoldEvaluation:
        ids = np.array([f"s{i:03d}" for i in range(len(images))])
        samples = Samples(
            images.astype(np.float16),
            np.full(images.shape, -1, np.float16),
            z_bin,
            np.zeros(len(images), int),
            ids,
        )
        rows = np.arange(len(of_train))
        test = rows[~of_train][: n_test * BINS]
        names = {"study": "s", "variant": "v", "fold": 0}
        cell = FoldEvaluation(cohort, test, rows[of_train], samples, config, cache, names)
        memorisation_axis(cell)
        return cell

    return build


@pytest.fixture(scope="module")
def replayed(evaluated, cohort):
    """Training slices with noise of 0.01 and of 0.02."""
    rows = np.tile(np.arange(N_TRAIN * BINS), 2)
    noise = np.random.default_rng(0).normal(0, 1, (len(rows), SIDE, SIDE))
    noise *= np.repeat([0.01, 0.02], len(rows) // 2)[:, None, None]
    return evaluated(np.clip(cohort.images[rows] + noise, -1, 1), cohort.z_bin[rows])


@pytest.fixture(scope="module")
def unseen(evaluated):
    """Slices of subjects that are in neither the training nor the test set."""
    images = np.concatenate([subject_slices(1000 + seed) for seed in range(12)])
    return evaluated(images, np.tile(np.arange(BINS), 12))


def row_of(cell: FoldEvaluation, metric: str, space: str, z_bin="all") -> dict:
    key = (metric, space, z_bin)
    (row,) = [row for row in cell.rows if (row["metric"], row["extractor"], row["z_bin"]) == key]
    return row


@pytest.mark.parametrize("space", ["alexnet", "pixels"])
def test_a_model_that_replays_training_slices_is_detected(replayed, space):
    assert row_of(replayed, "suspect_share", space)["value"] >= 0.99
    assert row_of(replayed, "suspect_share_ref", space)["value"] >= 0.99
    assert row_of(replayed, "memorisation_ratio", space)["ci_high"] < 0.5
    for z_bin in range(BINS):
        assert row_of(replayed, "suspect_share", space, z_bin)["value"] >= 0.99
    own = [row for row in replayed.nearest if row["space"] == space]
    assert [row["train_row"] for row in own] == list(range(N_TRAIN * BINS)) * 2


@pytest.mark.parametrize("space", ["alexnet", "pixels"])
def test_a_model_of_unseen_subjects_is_not_flagged(unseen, space):
    assert row_of(unseen, "suspect_share", space)["value"] <= 0.06
    ratio = row_of(unseen, "memorisation_ratio", space)
    assert ratio["ci_low"] <= 1 <= ratio["ci_high"] and ratio["floor"] == 1
    w1 = row_of(unseen, "memorisation_w1", space)
    assert w1["value"] < 2 * w1["floor"]


def test_every_value_has_a_floor_and_an_interval_or_a_reason(replayed, unseen):
    for cell in (replayed, unseen):
        for space in ("alexnet", "pixels"):
            for metric in EVERYWHERE:
                row = row_of(cell, metric, space)
                assert math.isfinite(row["value"]) and math.isfinite(row["floor"]), row
                assert math.isfinite(row["ci_low"]) or row["interval_reason"], row
            for metric in EVERYWHERE[:2]:
                for z_bin in range(BINS):
                    row = row_of(cell, metric, space, z_bin)
                    assert row["n"] == (cell.samples.z_bin == z_bin).sum()
                    assert math.isfinite(row["value"]) and row["ci_low"] <= row["ci_high"], row


def test_values_of_a_z_bin_use_its_slices_only(unseen):
    """Against a loop over the held-out and training slices of that z-bin."""
    for z_bin in range(BINS):
        own = [row for row in unseen.nearest if row["space"] == "pixels" and row["z_bin"] == z_bin]
        store = unseen.store
        test, train = (rows[store.z_bin[rows] == z_bin] for rows in (unseen.test, unseen.train))
        images = store.images.reshape(len(store.images), -1).astype(np.float64)
        closest = np.array([min(1 - np.corrcoef(images[t], images[r])[0, 1] for r in train) for t in test])
        ratio = np.median([row["distance"] for row in own]) / np.median(closest)
        assert row_of(unseen, "memorisation_ratio", "pixels", z_bin)["value"] == pytest.approx(ratio)
        flagged = np.mean([row["flagged"] for row in own])
        assert row_of(unseen, "suspect_share", "pixels", z_bin)["value"] == pytest.approx(flagged)


@pytest.mark.parametrize(("n_test", "reason"), [(1, "1 held-out subjects"), (4, "4 held-out subjects")])
def test_few_held_out_subjects_give_values_without_intervals_and_a_reason(evaluated, cohort, n_test, reason):
    cell = evaluated(cohort.images[:6], cohort.z_bin[:6], n_test)
    for row in cell.rows:
        if row["extractor"] == "lesions":
            continue
        assert math.isnan(row["ci_low"]) and row["interval_reason"], row
        assert math.isfinite(row["value"]) or (n_test == 1 and row["metric"] == "suspect_share_check"), row
    assert reason in row_of(cell, "memorisation_ratio", "pixels")["interval_reason"]
    check = row_of(cell, "suspect_share_check", "pixels")
    assert ("no second half" in check["reason"]) == (n_test == 1)


def test_a_sample_without_training_slices_in_its_bin_is_counted_and_not_flagged(evaluated, cohort):
    cell = evaluated(cohort.images[:4], np.array([0, 1, 9, 2]))
    row = row_of(cell, "suspect_share", "pixels")
    assert (row["value"], row["n"]) == (1.0, 3)
    assert "samples without a training slice in their z-bin: 1" in row["reason"]
    lost = cell.nearest[2]
    assert lost["train_row"] is None and math.isnan(lost["distance"]) and lost["flagged"] == 0


def test_the_tables_contain_the_computed_rows(replayed, tmp_path):
    write_tables(tmp_path, replayed, ("memorisation",))
    tables = {
        name: read_table(tmp_path / f"{name}-memorisation.tsv", columns)
        for name, columns in (
            ("nearest", NEAREST_COLUMNS),
            ("flagged", FLAGGED_COLUMNS),
            ("memorisation_subjects", TRAINING_SUBJECT_COLUMNS),
        )
    }
    flagged, near = tables["flagged"], tables["nearest"]
    assert [(row["id"], row["space"]) for row in flagged] == sorted(
        (row["id"], row["space"]) for row in near if row["flagged"] == "1"
    )
    assert all(float(row["distance"]) < float(row["threshold"]) for row in flagged)
    for space in ("alexnet", "pixels"):
        rows = [row for row in tables["memorisation_subjects"] if row["space"] == space]
        assert len(rows) == N_TRAIN
        # Every slice was replayed twice.
        assert {(row["n_slices"], row["n_nearest"]) for row in rows} == {(str(BINS), str(2 * BINS))}
        assert all(float(row["expected_share"]) == pytest.approx(1 / N_TRAIN) for row in rows)


def test_the_table_has_only_a_header_if_no_sample_is_flagged(evaluated, tmp_path):
    far = np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE))
    write_tables(tmp_path, evaluated(far, np.arange(3)), ("memorisation",))
    assert (tmp_path / "flagged-memorisation.tsv").read_text() == "\t".join(FLAGGED_COLUMNS) + "\n"
