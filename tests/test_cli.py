"""The commands on the tiny study, in order, and their error messages."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kills import partials
from helpers.tiny_sampling import settings_in

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_participants
from slimdiff.data.priors import read_priors
from slimdiff.data.store import SliceStore
from slimdiff.files import read_table, sha256
from slimdiff.generation.samples import read_samples
from slimdiff.model.checkpoint import load_model, read_card
from slimdiff.stages import config_of

COMMANDS = {
    "phantom": [],
    "participants": [],
    "preprocess": [],
    "kfold": [],
    "cache": [],
    "priors": ["--fold", "0"],
    "train": [],
    "generate": [],
    "metrics": [],
    "figures": [],
}


def call(command: str, config, *arguments: str) -> int:
    return getattr(cli, command)(["--config", str(config), *arguments])


def prepare(config) -> None:
    for command in ("participants", "preprocess", "kfold", "cache"):
        assert call(command, config) == 0, command


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_study_from_volumes_to_samples(study_file):
    study = load_study(study_file)
    paths = study.paths
    prepare(study_file)
    for fold in ("0", "1"):
        assert call("priors", study_file, "--fold", fold) == 0
    assert call("train", study_file) == 0
    assert call("generate", study_file) == 0

    rows = read_participants(paths.participants)
    assert [row.participant_id for row in rows] == [f"sub-{n:02d}" for n in range(1, 9)]
    assert [row.is_patient for row in rows] == [True] * 6 + [False] * 2
    store = SliceStore.open(paths.store)
    assert set(store.participant) == {row.participant_id for row in rows}
    assert set(store.participant[store.label == 1]) == {row.participant_id for row in rows if row.is_patient}
    tested = [name for fold in (0, 1) for name in read_folds(paths.folds, fold)["test"]]
    assert sorted(tested) == [row.participant_id for row in rows]
    for fold in (0, 1):
        assert read_priors(paths.prior(fold)).shape == (3, 32, 32)
        checkpoint = paths.model("base", fold) / "model.safetensors"
        card = read_card(checkpoint)
        assert (card.study, card.variant, card.fold, card.step) == ("tiny", "base", fold, 6)
        assert card.data_hash == store.data_hash
        assert [row["step"] for row in read_table(paths.model("base", fold) / "history.tsv")] == [
            "2",
            "4",
            "6",
        ]
        samples = read_samples(paths.samples("base", fold))
        assert samples.z_bin.tolist() == [b for b in range(3) for _ in range(4)]
        assert samples.label.tolist() == [0, 0, 1, 1] * 3
        assert samples.images.dtype == store.images.dtype
        settings = settings_in(paths.samples("base", fold) / "zbin-01")
        assert settings["checkpoint_sha256"] == sha256(checkpoint)
    assert partials(paths.root) == []


def test_stages_run_from_their_own_sections_of_the_study(study_file):
    """As called by Snakemake: inline JSON with the sections of the stage only, one variant and fold at a time."""
    study = load_study(study_file)
    for stage in ("participants", "preprocess", "kfold", "cache"):
        assert call(stage, config_of(stage, study)) == 0
    assert call("train", config_of("train", study, "base"), "--variant", "base", "--fold", "1") == 0
    one = config_of("generate", study, "base")
    assert call("generate", one, "--variant", "base", "--fold", "1", "--z_bins", "2") == 0
    assert written(study.paths.root / "samples") == {
        f"base/fold-1/zbin-02.{ending}" for ending in ("npz", "tsv", "json")
    }
    assert not study.paths.model("base", 0).exists()
    # A z-bin drawn alone equals the same z-bin of a whole run.
    alone = np.load(study.paths.samples_stem("base", 1, 2).with_suffix(".npz"))["images"]
    assert call("generate", study_file, "--fold", "1") == 0
    again = np.load(study.paths.samples_stem("base", 1, 2).with_suffix(".npz"))["images"]
    np.testing.assert_array_equal(alone, again)


def test_one_participant_is_preprocessed_alone(study_file, capsys):
    study = load_study(study_file)
    assert call("participants", study_file) == 0
    assert call("preprocess", study_file, "--participant", "sub-02") == 0
    assert written(study.paths.root / "volumes") == {
        "sub-02_FLAIR.nii.gz",
        "sub-02_mask.nii.gz",
        "sub-02.json",
    }
    assert call("preprocess", study_file, "--participant", "sub-99") == 2
    assert "sub-99" in capsys.readouterr().err


def test_auto_range_uses_the_folds(study_values, tmp_path):
    study_values["slices"]["z_range"] = "auto"
    path = tmp_path / "auto.yaml"
    path.write_text(json.dumps(study_values))
    prepare(path)
    first, last = SliceStore.open(load_study(path).paths.store).facts["z_range"]
    assert 0 < first < 10
    assert 21 < last < 31


def test_samples_of_a_given_checkpoint(study_file, trained, tmp_path):
    out = tmp_path / "mine"
    assert call("generate", study_file, "--ckpt", str(trained), "--out_dir", str(out), "--z_bins", "1") == 0
    assert written(out) == {"zbin-01.npz", "zbin-01.tsv", "zbin-01.json"}
    assert len(read_samples(out).images) == 4


def test_the_phantom_is_written_where_the_study_expects_it(tmp_path):
    study = {
        "study": "p",
        "results_dir": str(tmp_path / "results"),
        "data": {"phantom": {"patients": 2, "controls": 0}},
        "quality": {"max_spacing_mm": 7},
        "preprocess": {"grid": [32, 32, 32], "spacing_mm": 6.0},
        "slices": {"z_range": [11, 20], "n_bins": 3},
        "folds": {"k": 2},
    }
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(study))
    assert call("phantom", path) == 0
    assert call("participants", path) == 0
    rows = read_participants(load_study(path).paths.participants)
    assert len(rows) == 2
    assert all(row.image.is_file() and row.mask.is_file() for row in rows)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_invalid_configuration_stops_every_command(command, study_values, tmp_path, capsys):
    study_values["training"]["stepps"] = 3
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(study_values))
    assert call(command, path, *COMMANDS[command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"slimdiff-{command}: error: ")
    assert "training.stepps" in err
    assert "steps" in err
    assert str(path) in err
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_called_twice(command):
    """A second call in the same process parses its arguments as the first."""
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            getattr(cli, command)(["--help"])
        assert caught.value.code == 0


def test_metrics_takes_its_positional_argument_in_every_call(study_values, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text("study: 3\n")
    for _ in range(2):
        assert call("metrics", path, "summary") == 2
        assert "study" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["preprocess", "kfold", "cache", "priors", "train", "generate"])
def test_a_stage_without_its_inputs_names_them(command, study_file, tmp_path, capsys):
    assert call(command, study_file, *COMMANDS[command]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "results" / "tiny") in err
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_errors_in_the_data_are_reported_and_nothing_is_written(study_values, tmp_path, capsys):
    study_values["data"]["mask_suffix"] = "lesion"
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(study_values))
    assert call("participants", path) == 2
    assert "no subject with a lesion mask" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ckpt", "{trained}"], "--out-dir"),
        (["--out_dir", "{out}"], "--ckpt"),
        (["--ckpt", "{out}/absent.safetensors", "--out_dir", "{out}"], "absent.safetensors"),
        (["--ckpt", "{trained}", "--out_dir", "{out}", "--z_bins", "3"], "0 to 2"),
        (["--ckpt", "{trained}", "--out_dir", "{out}", "--z_bins", "-1"], "found '-1'"),
        (["--fold", "0"], "model.safetensors"),
        (["--variant", "absent"], "absent"),
    ],
)
def test_generate_refuses_invalid_arguments(arguments, named, study_file, trained, tmp_path, capsys):
    out = tmp_path / "out"
    filled = [text.format(trained=trained, out=out) for text in arguments]
    assert call("generate", study_file, *filled) == 2
    assert named in capsys.readouterr().err
    assert not out.exists()
    assert not (tmp_path / "results").exists()


def test_train_refuses_a_missing_fold(study_file, capsys):
    prepare(study_file)
    capsys.readouterr()
    assert call("train", study_file, "--fold", "5") == 2
    assert "no fold 5" in capsys.readouterr().err
    assert not (load_study(study_file).paths.root / "models").exists()


@pytest.mark.parametrize("prior", ["concat", "cross_attention"])
def test_f9_a_network_with_priors_is_not_trained_without_them(study_values, tmp_path, capsys, prior):
    study_values["model"] = {**study_values["model"], "prior": prior}
    config = tmp_path / "prior.json"
    config.write_text(json.dumps(study_values))
    prepare(config)
    before = written(tmp_path)
    assert call("train", config, "--fold", "0") == 2
    message = capsys.readouterr().err
    assert "fold-0.npz" in message and prior in message and "slimdiff-priors" in message
    assert written(tmp_path) == before
    assert call("priors", config, "--fold", "0") == 0
    assert call("train", config, "--fold", "0") == 0
    checkpoint = load_study(config).paths.model("base", 0) / "model.safetensors"
    network, _ = load_model(checkpoint, torch.device("cpu"))
    assert (network.priors.maps.numpy() == read_priors(load_study(config).paths.prior(0))).all()
    assert call("generate", config, "--fold", "0", "--z_bins", "1") == 0


def test_all_conditions_together_train_and_sample(study_values, tmp_path):
    """Null token, acquisition, augmentation, learned weights and the frequency term, with guidance when sampling."""
    root = tmp_path / "bids"
    shutil.copytree(study_values["data"]["root"], root)
    for image in sorted(root.glob("sub-*/anat/*_FLAIR.nii.gz")):
        name, number = image.name.split("_")[0], int(image.name[4:6])
        image.rename(image.with_name(f"{name}_acq-{'T2sel' if number % 2 else 'tse'}_FLAIR.nii.gz"))
    study_values["data"]["root"] = str(root)
    study_values["model"] = {**study_values["model"], "null_token": True, "acquisition": True}
    study_values["training"] |= {"condition_dropout": 0.2, "augmentation": {"probability": 0.5}}
    loss = {"uncertainty": "groups", "focal_frequency": {"weight": 0.5, "patches": 2}, "min_snr_gamma": 5}
    study_values["diffusion"] = {"loss": loss}
    study_values["generation"] |= {"guidance": 1.5, "guidance_interval": [0.1, 10]}
    config = tmp_path / "all.json"
    config.write_text(json.dumps(study_values))
    prepare(config)
    assert call("train", config, "--fold", "0") == 0
    assert call("generate", config, "--fold", "0", "--z_bins", "0") == 0
    paths = load_study(config).paths
    history = read_table(paths.model("base", 0) / "history.tsv")
    assert {"loss_focal_frequency", "log_variance_0", "log_variance_1"} <= set(history[0])
    manifest = read_table(paths.samples_stem("base", 0, 0).with_suffix(".tsv"))
    settings = settings_in(paths.samples_stem("base", 0, 0))["generation"]
    assert (settings["guidance"], settings["guidance_interval"]) == (1.5, [0.1, 10.0])
    assert {row["acquisition"] for row in manifest} <= {"T2sel", "tse"}


def test_model_acquisition_requires_the_protocol_of_every_slice(study_values, tmp_path, capsys):
    study_values["model"] = {**study_values["model"], "acquisition": True}
    config = tmp_path / "acquisition.json"
    config.write_text(json.dumps(study_values))
    prepare(config)
    assert call("train", config, "--fold", "0") == 2
    message = capsys.readouterr().err
    assert "model.acquisition" in message and "n/a" in message


def test_generation_settings_are_checked_against_the_checkpoint(study_values, trained, tmp_path, capsys):
    """With --ckpt the model section of the checkpoint applies, not that of the study."""
    study_values["generation"] |= {"guidance": 2.0}
    config = tmp_path / "guided.json"
    config.write_text(json.dumps(study_values))
    arguments = ["--ckpt", str(trained), "--out_dir", str(tmp_path / "out"), "--z_bins", "0"]
    assert call("generate", config, *arguments) == 2
    assert "was trained without model.null_token" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_terminated_training_resumes_where_it_stopped(study_values, tmp_path):
    """F5, F13 with the real command in a separate process: SIGTERM, exit 143, resume, identical model."""
    study_values["training"].update(steps=40, log_every=5, save_every=1000)
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study_values))
    study = load_study(path)
    prepare(path)
    assert call("train", path, "--fold", "0") == 0
    checkpoint = study.paths.model("base", 0) / "model.safetensors"
    expected = checkpoint.read_bytes()
    shutil.rmtree(checkpoint.parent)
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from slimdiff.training.trainer import Trainer\n"
        "advance = Trainer.advance\n"
        "def slow_advance(self):\n"
        "    if self.step == 10: print('ready', flush=True); import time; time.sleep(2)\n"
        "    return advance(self)\n"
        "Trainer.advance = slow_advance\n"
        "from slimdiff.cli import train\n"
        "sys.exit(train(sys.argv[1:]))\n"
    )
    arguments = [sys.executable, "-c", script, "--config", str(path), "--fold", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        # The sleep continues after the signal handler; the run ends after the next step.
        _, err = process.communicate(timeout=90)
    assert process.returncode == 143, err
    assert b"stopped at step 11" in err
    assert not checkpoint.exists()
    assert call("train", path, "--fold", "0") == 0
    assert checkpoint.read_bytes() == expected
