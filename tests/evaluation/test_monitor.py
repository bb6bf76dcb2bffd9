"""Samples drawn during training are compared with validation subjects and training slices, never with test subjects."""

import json

import numpy as np
import pytest
import torch

from slimdiff import cli, weights
from slimdiff.config import load_study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.features import extract
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.monitor import Monitor
from slimdiff.files import read_table
from slimdiff.model.checkpoint import load_model
from slimdiff.training.objective import Objective
from slimdiff.training.validation import PreviewSampler, Validation

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(prepared):
    return read_folds(prepared.paths.folds, 0)


@pytest.fixture(scope="module")
def monitor(alexnet_weights, store, parts, tmp_path_factory):
    return Monitor(
        store, parts["train"], parts["val"], "alexnet", CPU, tmp_path_factory.mktemp("features"), 0
    )


@pytest.fixture(scope="module")
def alexnet_weights():
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"the pretrained weights 'alexnet' are not available here: {error}")


def slices(store, names):
    rows = store.rows_of(names)
    return np.asarray(store.images[rows], np.float32), store.z_bin[rows]


def test_kid_compares_samples_with_validation_slices(monitor, store, parts):
    images, bins = slices(store, parts["test"])
    found = monitor(images, bins)
    real, _ = slices(store, parts["val"])
    features = [extract(to_uint8(part), "alexnet", progress=False) for part in (real, images)]
    assert found["kid"] == pytest.approx(kid(*features, 0, 100).value, rel=1e-6)
    assert monitor(images, bins) == found


def test_the_ratio_uses_nearest_distances_in_the_same_bin(monitor, store, parts):
    images, bins = slices(store, parts["test"])
    train, train_bins = slices(store, parts["train"])
    val, val_bins = slices(store, parts["val"])
    vectors = [
        extract(to_uint8(part), "alexnet", progress=False).astype(float) for part in (images, train, val)
    ]

    def median_of_nearest(query, of_query):
        return np.median(
            [
                min(np.linalg.norm(q - r) for r in vectors[1][train_bins == b])
                for q, b in zip(query, of_query, strict=True)
            ]
        )

    expected = median_of_nearest(vectors[0], bins) / median_of_nearest(vectors[2], val_bins)
    assert monitor(images, bins)["memorisation_ratio"] == pytest.approx(expected, rel=1e-4)


def test_copies_of_training_slices_have_a_ratio_near_zero_and_noise_a_high_kid(monitor, store, parts):
    train, bins = slices(store, parts["train"])
    assert monitor(train, bins)["memorisation_ratio"] < 0.01
    noise = np.random.default_rng(0).uniform(-1, 1, train.shape).astype(np.float32)
    assert monitor(noise, bins)["kid"] > 10 * abs(monitor(train, bins)["kid"])


@pytest.fixture
def study_on_disk(prepared, tmp_path):
    def write(**validation):
        values = json.loads(prepared.model_dump_json(exclude_defaults=True))
        values["training"]["validation"] = {"every": 3, "samples": 12, "evaluations": 3, **validation}
        values["results_dir"] = str(tmp_path / "results")
        root = tmp_path / "results" / prepared.study
        root.mkdir(parents=True, exist_ok=True)
        for name in ("slices", "folds.tsv"):
            if not (root / name).exists():
                (root / name).symlink_to(prepared.paths.root / name)
        path = tmp_path / "study.json"
        path.write_text(json.dumps(values))
        return path

    return write


def test_the_training_command_validates_with_the_monitor(alexnet_weights, study_on_disk, tmp_path):
    path = study_on_disk(select="kid")
    assert cli.train(["--config", str(path), "--fold", "0"]) == 0
    study = load_study(path)
    folder = study.paths.model("base", 0)
    rows = read_table(folder / "validation.tsv")
    assert [row["step"] for row in rows] == ["3", "6"]
    assert all(float(row["kid"]) > 0 and float(row["memorisation_ratio"]) > 0 for row in rows)
    best = min(rows, key=lambda row: float(row["kid"]))
    network, card = load_model(folder / "model.safetensors", CPU)
    assert card.step == int(best["step"])
    # The saved model gives the same values again, with newly drawn samples.
    parts, store = read_folds(study.paths.folds, 0), SliceStore.open(study.paths.store)
    part = study.variant("base")
    judge = Monitor(store, parts["train"], parts["val"], "alexnet", CPU, tmp_path / "features", 0)
    preview = PreviewSampler(network, part.diffusion, store.size, part.training.seed)
    objective = Objective(part.diffusion, part.training.self_conditioning, gaussian=True)
    again = Validation(part.training, store, parts["val"], objective, preview, CPU, [], judge)
    row = again.round(card.step, network, {0.9: dict(network.named_parameters())}, torch.float32)[0]
    for name in ("kid", "memorisation_ratio", "loss_image"):
        assert row[name] == pytest.approx(float(best[name]), rel=1e-5)


def test_without_weights_the_monitor_is_off_with_a_message_unless_early_stopping_needs_it(
    study_on_disk, monkeypatch, capsys
):
    def unavailable(name):
        raise weights.WeightsUnavailable("put alexnet.safetensors there")

    monkeypatch.setattr(weights, "load", unavailable)
    path = study_on_disk()
    assert cli.train(["--config", str(path), "--fold", "0"]) == 0
    assert "validation without KID and memorisation ratio: put alexnet" in capsys.readouterr().err
    rows = read_table(load_study(path).paths.model("base", 0) / "validation.tsv")
    assert [row["kid"] for row in rows] == ["n/a", "n/a"]
    assert all(float(row["loss_image"]) > 0 for row in rows)
    path = study_on_disk(patience=1)
    assert cli.train(["--config", str(path), "--fold", "1"]) == 2
    assert "put alexnet.safetensors there" in capsys.readouterr().err
    assert not (load_study(path).paths.model("base", 1) / "model.safetensors").exists()
