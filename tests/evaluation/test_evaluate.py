"""The whole evaluation stage: known sample sets give known values, and a repeated run gives the same values."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage

from slimdiff.data.folds import read_folds
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.pair import swap_onto_clean
from slimdiff.evaluation.compare import summarise
from slimdiff.evaluation.evaluate import evaluate
from slimdiff.evaluation.metrics import as_published
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.registry import COLUMNS
from slimdiff.files import write_table
from slimdiff.generation.samples import Samples


@pytest.fixture(scope="module")
def cell_of(prepared, store, alexnet, tmp_path_factory):
    """A function (rows of the store, noise sd) -> evaluated cell whose samples are those slices."""
    parts = read_folds(prepared.paths.folds, 0)
    test, train = store.rows_of(parts["test"]), store.rows_of(parts["train"])
    config = prepared.evaluation.model_copy(update={"bootstrap": 50, "lpips_pairs": 20})
    cache = FeatureCache(tmp_path_factory.mktemp("features"))

    def build(source: str, noise: float = 0.0, order=None) -> FoldEvaluation:
        rows = {"test": test, "train": train}[source]
        rows = rows if order is None else rows[order]
        images = np.asarray(store.images[rows], np.float32)
        images = np.clip(images + np.random.default_rng(1).normal(0, noise, images.shape), -1, 1)
        samples = Samples(
            images.astype(np.float16),
            (np.asarray(store.masks[rows], np.float32) * 2 - 1).astype(np.float16),
            store.z_bin[rows],
            store.label[rows],
            np.array([f"s{row}" for row in rows]),
        )
        names = {"study": "tiny", "variant": source, "fold": 0}
        return evaluate(FoldEvaluation(store, test, train, samples, config, cache, names))

    return build


def value(cell: FoldEvaluation, metric: str, extractor: str | None = None, column: str = "value") -> float:
    found = [
        row
        for row in cell.rows
        if row["metric"] == metric and row["z_bin"] == "all" and extractor in (None, row["extractor"])
    ]
    assert len(found) == 1, (metric, len(found))
    return found[0][column]


def test_replayed_training_slices_are_detected(cell_of):
    cell = cell_of("train", noise=0.01)
    assert value(cell, "memorisation_ratio", "pixels") < 0.5
    assert value(cell, "suspect_share", "pixels") > 0.9
    closest = {row["sample"]: row for row in cell.nearest if row["space"] == "pixels"}
    own = sum(int(cell.train[i]) == row["train_row"] for i, row in closest.items())
    assert own == len(closest)


def test_held_out_slices_as_samples_score_better_than_the_floor(cell_of):
    cell = cell_of("test")
    assert value(cell, "kid") < value(cell, "kid", column="floor") + 1e-6
    # FID uses as many samples as the floor uses training slices, so only a part of the held-out slices.
    assert value(cell, "fid") < value(cell, "fid", column="floor")
    assert value(cell, "memorisation_ratio", "pixels") == pytest.approx(1)
    assert value(cell, "lesion_share_class1") == 1 and value(cell, "lesion_share_class0") == 0
    assert value(cell, "delta_median") == pytest.approx(value(cell, "delta_median", column="floor"))


def test_f11_the_same_input_gives_the_same_bits(cell_of):
    first, second = cell_of("train", noise=0.1), cell_of("train", noise=0.1)
    for a, b in zip(first.rows, second.rows, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            same = a[key] == b[key] or (
                isinstance(a[key], float) and math.isnan(a[key]) and math.isnan(b[key])
            )
            assert same, (a, b)


def test_every_value_has_a_floor_and_an_interval_or_a_reason(cell_of):
    cell = cell_of("train", noise=0.1)
    for row in cell.rows:
        if math.isnan(row["value"]):
            assert row["reason"], row
            continue
        assert math.isfinite(row["floor"]) or row["metric"] == "kid_blurred" or row["z_bin"] != "all", row
        assert math.isfinite(row["ci_low"]) == math.isfinite(row["ci_high"]), row
        assert math.isfinite(row["ci_low"]) or row["interval_reason"], row
    few = len(set(cell.store.participant[cell.test])) < 5
    kid = next(row for row in cell.rows if row["metric"] == "kid" and row["z_bin"] == "all")
    assert few and kid["interval_reason"] and math.isnan(kid["ci_low"])


def test_with_enough_subjects_every_value_has_an_interval(cell_of, store):
    """The same slices, with every participant split into eight subjects."""
    plain = cell_of("train", noise=0.1)
    subjects = np.array([f"{name}-{row % 8}" for row, name in enumerate(store.participant)])
    many = dataclasses.replace(store, participant=subjects)
    cell = evaluate(
        FoldEvaluation(many, plain.test, plain.train, plain.samples, plain.config, plain.cache, plain.names)
    )
    without = {
        row["metric"] for row in cell.rows if row["z_bin"] == "all" and not math.isfinite(row["ci_low"])
    }
    assert without <= {"kid_blurred", "mmd_robust_p", "suspect_share_ref"}
    for row in cell.rows:
        if math.isfinite(row["ci_low"]):
            assert row["ci_low"] <= row["ci_high"], row
    # Metrics that do not use subjects keep their value.
    for metric in ("kid", "fid", "spectrum", "mmd_mf", "mmd_pl", "lesion_area_gap", "centroid_distance"):
        assert value(cell, metric) == pytest.approx(value(plain, metric), nan_ok=True), metric


def test_the_published_procedures_are_added_on_request(cell_of, vgg16, monkeypatch):
    monkeypatch.setattr(as_published, "PAIRS", 8)
    cell = cell_of("train", noise=0.1)
    assert not any(row["metric"].endswith(("kid_ref", "lpips_ref")) for row in cell.rows)
    with_reference = dataclasses.replace(
        cell, config=cell.config.model_copy(update={"reference": True}), rows=[], tau_sweep=[], lesions=[]
    )
    evaluate(with_reference, ("image",))
    for metric in ("kid_ref", "lpips_ref"):
        assert math.isfinite(value(with_reference, metric)) and math.isfinite(
            value(with_reference, metric, column="floor")
        )


def test_larger_masks_show_in_the_area_gap_and_in_the_tau_sweep(cell_of):
    """Masks that have the true lesion size only at a higher threshold."""
    cell = cell_of("test")
    soft = np.stack([ndimage.gaussian_filter(mask.astype(np.float32), 1.0) for mask in cell.samples.masks])
    larger = np.clip(soft + 0.6, -1, 1).astype(np.float16)
    swollen = dataclasses.replace(
        cell, samples=dataclasses.replace(cell.samples, masks=larger), rows=[], tau_sweep=[], lesions=[]
    )
    evaluate(swollen, ("mask", "control"))
    assert value(cell, "lesion_area_gap") == 0
    assert value(swollen, "lesion_area_gap") > 0.3
    assert [row["tau"] for row in swollen.tau_sweep] == list(cell.config.taus)
    slices = [row["n_slices"] for row in swollen.tau_sweep]
    assert slices == sorted(slices, reverse=True) and slices[-1] > 0
    assert {row["set"] for row in swollen.lesions} == {"held-out", "training", "synthetic"}
    counted = sum(row["set"] == "synthetic" for row in swollen.lesions)
    assert counted == next(row["n_components"] for row in swollen.tau_sweep if row["tau"] == 0)


def test_swapped_masks_lie_on_lesion_free_slices_of_their_bin():
    bins, labels = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 1])
    images = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 2, 2), np.float32)
    masks = 10 + images
    moved, kept = swap_onto_clean(images, masks, bins, labels, seed=0)
    # Bin 2 has no lesion-free slice.
    assert [(int(i[0, 0]), int(m[0, 0])) for i, m in zip(moved, kept, strict=True)] == [(0, 11), (3, 12)]


def test_summary_is_mean_and_sd_over_folds(prepared, tmp_path):
    from slimdiff.config import StudyPaths
    from slimdiff.files import read_table

    paths = StudyPaths(tmp_path)
    for fold, number in enumerate((1.0, 2.0, 4.0)):
        row = dict.fromkeys(COLUMNS) | {
            "study": "s",
            "variant": "v",
            "fold": fold,
            "z_bin": "all",
            "metric": "kid",
            "extractor": "alexnet",
            "value": number,
            "floor": 0.5,
        }
        write_table(paths.metrics("v", fold) / "metrics.tsv", [row], COLUMNS)
    summarise(paths, ["v"], 3)
    (row,) = read_table(paths.summary)
    assert float(row["mean"]) == pytest.approx(7 / 3)
    # sqrt(((4/3)^2 + (1/3)^2 + (5/3)^2) / 2)
    assert float(row["sd"]) == pytest.approx(math.sqrt(42 / 18))
    assert (row["folds"], float(row["floor_mean"])) == ("3", 0.5)
