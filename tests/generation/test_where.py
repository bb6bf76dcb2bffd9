"""Samples of class 1 only where training subjects have lesions; what is not drawn is said, metrics compare the rest."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_sampling import settings_in

from slimdiff import cli
from slimdiff.config import study_from_mapping
from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.data.folds import read_folds
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.evaluate import evaluate, slices_as_samples
from slimdiff.generation.requests import bins_without_lesions
from slimdiff.generation.samples import Samples, read_manifest, read_samples
from slimdiff.generation.spec import load_spec, plan
from slimdiff.model.checkpoint import load_model, read_card, save_model


@pytest.fixture
def study(study_values, trained, tmp_path):
    """The tiny study whose checkpoint of fold 0 saw lesions of 0, 1 and 2 training subjects in its three z-bins."""
    study = study_from_mapping(study_values)
    network, card = load_model(trained, torch.device("cpu"))
    folder = study.paths.model("base", 0)
    folder.mkdir(parents=True)
    changed = replace(card, data=replace(card.data, lesion_subjects=[0, 1, 2]))
    save_model(folder / "model.safetensors", network.state_dict(), changed)
    return study


def labels(folder, n_bins=3) -> list[list[int]]:
    """Classes of the samples of each z-bin."""
    samples = read_samples(folder, n_bins)
    return [samples.label[samples.z_bin == z_bin].tolist() for z_bin in range(n_bins)]


def generate(study, *arguments, **generation) -> int:
    values = json.loads(study.model_dump_json())
    values["generation"] |= generation
    return cli.run_stage("generate", ["--config", json.dumps(values), *map(str, arguments)])


def test_a_training_counts_the_subjects_with_a_lesion_of_each_z_bin(trained, store, prepared):
    train = read_folds(prepared.paths.folds, 0)["train"]
    expected = [
        len(
            {
                p
                for p, b, y in zip(store.participant, store.z_bin, store.label, strict=True)
                if y and b == n and p in train
            }
        )
        for n in range(3)
    ]
    assert read_card(trained).data.lesion_subjects == expected and min(expected) >= 2


def test_lesions_are_drawn_only_where_two_training_subjects_have_one(study, capsys):
    assert generate(study, "--fold", 0) == 0
    folder = study.paths.samples("base", 0)
    assert labels(folder) == [[0, 0], [0, 0], [0, 0, 1, 1]]
    said = capsys.readouterr().err
    assert (
        "base, fold 0, z-bin 0: no sample of class 1: 0 training subjects with a lesion in this z-bin" in said
    )
    assert "z-bin 1: no sample of class 1: 1 training subject with" in said and "z-bin 2: no" not in said
    reasons = [settings_in(folder / f"zbin-0{z_bin}")["not_drawn"] for z_bin in range(3)]
    assert (
        "0 training subjects" in reasons[0] and "generation.where: seen" in reasons[1] and reasons[2] is None
    )
    # A second run finds the folder complete.
    before = (folder / "zbin-00.npz").stat().st_mtime_ns
    assert generate(study, "--fold", 0) == 0
    assert (folder / "zbin-00.npz").stat().st_mtime_ns == before


def test_everywhere_adds_the_rest_and_keeps_the_bits(study, capsys):
    assert generate(study, "--fold", 0) == 0
    folder = study.paths.samples("base", 0)
    few = read_samples(folder, 3)
    capsys.readouterr()
    assert generate(study, "--fold", 0, where="everywhere") == 0
    assert "no sample of class 1" not in capsys.readouterr().err
    every = read_samples(folder, 3)
    assert labels(folder) == [[0, 0, 1, 1]] * 3
    kept = np.isin(every.id, few.id)
    np.testing.assert_array_equal(every.images[kept].view(np.uint16), few.images.view(np.uint16))
    assert settings_in(folder / "zbin-00")["not_drawn"] is None


def test_tables_of_counts_are_drawn_with_a_note_and_own_folders_follow_the_rule(study, tmp_path, capsys):
    table = tmp_path / "counts.tsv"
    table.write_text("z_bin\tclass\tn\n0\t1\t3\n1\t0\t1\n2\t1\t2\n")
    values = json.loads(study.model_dump_json())
    values["generation"] |= {"counts": str(table), "per_bin_and_class": 100}
    assert cli.run_stage("generate", ["--config", json.dumps(values), "--fold", "0"]) == 0
    assert labels(study.paths.samples("base", 0)) == [[1, 1, 1], [0], [1, 1]]
    said = capsys.readouterr().err
    assert "z-bin 0: generation.counts names samples of class 1: 0 training subjects with a lesion" in said
    assert "z-bin 1: generation" not in said and "z-bin 2: generation" not in said
    assert settings_in(study.paths.samples("base", 0) / "zbin-00")["not_drawn"] is None
    checkpoint = study.paths.model("base", 0) / "model.safetensors"
    own = ("--ckpt", checkpoint, "--out-dir", tmp_path / "own", "--classes", "lesion")
    assert generate(study, *own) == 0
    assert labels(tmp_path / "own") == [[], [], [1, 1]]
    capsys.readouterr()
    assert generate(study, *own[:3], tmp_path / "none", "--classes", "lesion", "--z-bins", "0") != 0
    assert "generation.where" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_know_draws_everywhere():
    config = study_from_mapping({}).generation
    assert config.where == "seen"
    assert bins_without_lesions(config, None) == {}
    assert bins_without_lesions(config, [0, 1, 2, 5]) == {0: 0, 1: 1}
    assert bins_without_lesions(config.model_copy(update={"where": "everywhere"}), [0, 1]) == {}
    assert study_from_mapping({"recipe": "published"}).generation.where == "everywhere"


def test_settings_of_before_are_read(study):
    assert generate(study, "--fold", 0) == 0
    stem = study.paths.samples("base", 0) / "zbin-02"
    values = settings_in(stem)
    del values["not_drawn"], values["generation"]["where"]
    stem.with_suffix(".json").write_text(json.dumps(values))
    rows, settings = read_manifest(stem)
    assert len(rows) == 4 and settings.not_drawn is None
    assert generate(study, "--fold", 0) == 0, "the samples fit"


def test_a_specification_draws_what_it_names_and_notes_it(study, tmp_path):
    spec = {
        "format": "detailed",
        "checkpoint_path": str(study.paths.model("base", 0) / "model.safetensors"),
        "output_dir": str(tmp_path / "out"),
        "samples": [{"zbin": 1, "control": 0, "lesion": 2}, {"zbin": 2, "control": 0, "lesion": 1}],
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    whole = plan(load_spec(tmp_path / "spec.json"), tmp_path / "spec.json")
    assert whole.total == 3
    assert [note for note in whole.notes if note.startswith("z-bins 1: fewer than two training subjects")]


AXES = ("mask", "pair", "control")


def table_of(store, test, train, samples) -> dict[tuple, dict]:
    names = {"study": "s", "variant": "v", "fold": 0}
    config = EvaluationConfig(min_component_mm2=36, bootstrap=10)
    evaluation = FoldEvaluation(store, test, train, samples, config, None, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        evaluate(evaluation, AXES)
    return {(row["metric"], row["z_bin"]): row for row in evaluation.rows}


def test_metrics_compare_the_rest_and_say_what_is_left_out(store):
    """The same values as if the held-out subjects had no lesion slice in the z-bin without samples of class 1."""
    subjects = sorted(set(store.participant))
    test, train = store.rows_of(subjects[::2]), store.rows_of(subjects[1::2])
    whole = slices_as_samples(store, train)
    kept = (whole.z_bin > 0) | (whole.label == 0)
    fewer = Samples(*(getattr(whole, name)[kept] for name in ("images", "masks", "z_bin", "label", "id")))
    found = table_of(store, test, train, fewer)
    without = test[(store.z_bin[test] > 0) | (store.label[test] == 0)]
    expected = table_of(store, without, train, fewer)
    lost = len(test) - len(without)
    assert lost > 0
    for metric in (
        "mmd_mf",
        "mmd_robust",
        "centroid_distance",
        "lesion_area_gap",
        "delta_median",
        "lesion_share_class1",
    ):
        one, other = found[metric, "all"], expected[metric, "all"]
        assert one["value"] == pytest.approx(other["value"], nan_ok=True), metric
        assert (
            f"{lost} of {lost + (store.label[without] == 1).sum()} held-out slices of class 1 left out"
            in one["reason"]
        )
        assert "left out" not in other["reason"]
    for metric in ("lesion_share_class1", "lesion_area"):
        row = found[metric, 0]
        assert np.isnan(row["value"]) and row["n"] == 0
        assert "no sample of class 1 in this z-bin (generation.where" in row["reason"]
        assert "no sample of class 1" not in found[metric, 1]["reason"]
    assert found["lesion_share_class0", 0]["n"] > 0
