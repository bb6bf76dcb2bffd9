"""Trainings on drawn heads: the slices of a step, exact resume, and the file of `slimdiff pretrain`."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from helpers.tiny_training import CPU, MODEL, TRAINING, assert_same_run, fail_at, trainer_in
from safetensors.torch import load_file

from slimdiff.cli import run_stage
from slimdiff.config.data import AnatomyConfig
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.data.phantom.drawn import SliceDrawer
from slimdiff.model.checkpoint import load_model
from slimdiff.training import drawn_set
from slimdiff.training.checkpoint import Interrupted
from slimdiff.training.data import step_rng
from slimdiff.training.drawn_set import DrawnSet, drawn_store, z_bins_of
from slimdiff.training.trainer import Trainer

STUDY = {
    "study": "anatomy",
    "preprocess": {"spacing_mm": 6.0, "grid": [32, 32, 32]},
    "slices": {"height": "relative", "n_bins": 4, "min_lesion_mm2": 72},
    "model": {"channels": [16], "res_blocks": 1, "attention": [False], "norm_groups": 8, "head_channels": 16},
    "training": {
        "steps": 3,
        "batch_size": 4,
        "tensorboard": False,
        "preview_every": 0,
        "precision": "float32",
        "device": "cpu",
    },
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(drawn_set, "KNOWN", 64)


@pytest.fixture
def drawer():
    return SliceDrawer(AnatomyConfig(), (16, 16), 12.0, 144.0, 0, CPU)


@pytest.fixture
def slices(drawer):
    store = drawn_store(drawer, 4, {"seed": 0})
    return DrawnSet(drawer, store, store.participant.tolist(), CPU)


def test_the_slices_of_a_step_follow_from_its_number(slices):
    rows = [slices.choose(8, 0.5, step_rng(3, step)) for step in (0, 1, 0)]
    assert np.array_equal(rows[0], rows[2])
    assert not set(rows[0]) & set(rows[1]), "every step has new heads"
    assert sorted(rows[0] % 2) == [0] * 4 + [1] * 4
    batch = slices.take(0, lambda step: rows[0])
    again = slices.take(0, lambda step: rows[0][2:4])
    torch.testing.assert_close(again.x0, batch.x0[2:4], atol=1e-5, rtol=0)
    has_lesion = (batch.x0[:, 1] > 0).flatten(1).any(dim=1)
    assert torch.equal(batch.condition.label, has_lesion.long())
    assert not has_lesion[torch.from_numpy(rows[0] % 2 == 0)].any() and has_lesion.sum() >= 2


def test_z_bins_are_quarters_of_the_height(drawer, slices):
    drawn = drawer.draw(np.arange(32), np.zeros(32, bool))
    assert torch.equal(z_bins_of(drawn, 4), (4 * drawn.height).floor().long())
    assert slices.z_bin.min() == 0 and slices.z_bin.max() == 3


def test_the_known_slices_are_none_of_a_step(slices):
    numbers = np.concatenate([slices.choose(100, 0.5, step_rng(0, step)) // 2 for step in range(50)])
    assert numbers.max() < drawn_set.FIRST_KNOWN
    assert len(set(numbers)) == len(numbers)
    assert len(slices) == 64 and slices.label.mean() > 0.3


def trainer_of(folder, drawer, store):
    names = {"study": "anatomy", "variant": "base", "fold": 0}
    made = (MODEL, DiffusionConfig(), TRAINING, store, store.participant.tolist(), folder, names)
    return Trainer(*made, training_set=partial(DrawnSet, drawer))


def test_a_resumed_training_is_that_of_one_run(tmp_path, drawer):
    store = drawn_store(drawer, 4, {"seed": 0})
    trainer_of(tmp_path / "whole", drawer, store).run()
    halted = trainer_of(tmp_path / "halted", drawer, store)
    fail_at(halted, 5, lambda: halted._ask_to_stop(15, None))
    with pytest.raises(Interrupted):
        halted.run()
    trainer_of(tmp_path / "halted", drawer, store).run()
    assert_same_run(tmp_path / "whole", tmp_path / "halted")


def pretrained(folder, name, **changes):
    folder.mkdir(exist_ok=True)
    config = folder / f"{name}.json"
    config.write_text(json.dumps({**STUDY, "results_dir": str(folder / name), **changes}))
    out = folder / f"{name}.safetensors"
    return run_stage("pretrain", ["--config", str(config), "--out", str(out)]), out


def test_one_command_builds_the_start_bit_for_bit(tmp_path):
    (status, one), (_, two) = (pretrained(tmp_path, name) for name in ("one", "two"))
    assert status == 0
    weights, others = load_file(one), load_file(two)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    network, card = load_model(one, CPU)
    assert card.height == "relative" and card.n_bins == 4 and card.step == 3
    assert next(network.parameters()).dtype == torch.float32
    _, other = pretrained(tmp_path, "other", data={"anatomy": {"contrast": "any"}})
    assert any(not torch.equal(weights[name], value) for name, value in load_file(other).items())


def test_it_replaces_no_training_of_the_study(tmp_path):
    model = tmp_path / "one" / "anatomy" / "models" / "base" / "fold-0" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"of patients")
    assert pretrained(tmp_path, "one")[0] == 0
    assert model.read_bytes() == b"of patients"
    assert (tmp_path / "one" / "anatomy" / "pretrained" / "model.safetensors").is_file()


def test_a_folder_as_file_is_refused_before_the_training(tmp_path, capfd):
    (tmp_path / "one.safetensors").mkdir()
    assert pretrained(tmp_path, "one")[0] == 2
    assert "found a folder" in capfd.readouterr().err
    assert not (tmp_path / "one").exists()


def test_a_study_starts_from_it(tmp_path):
    model = {**MODEL.model_dump(mode="json"), "self_conditioning": False}
    _, path = pretrained(tmp_path, "start", model=model)
    trainer = trainer_in(tmp_path / "run", init=str(path))
    assert "3 z-bins by height from 4" in trainer.init["notes"]
    assert trainer.init["study"] == "anatomy"


def test_a_finished_pretraining_is_only_written_again(tmp_path, capfd):
    pretrained(tmp_path, "one")
    before = (tmp_path / "one.safetensors").read_bytes()
    capfd.readouterr()
    assert pretrained(tmp_path, "one")[0] == 0
    assert "nothing to do" in capfd.readouterr().err
    assert (tmp_path / "one.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("model", {**STUDY["model"], "prior": "concat"}, "model.prior"),
        ("model", {**STUDY["model"], "acquisition": True}, "model.acquisition"),
        ("diffusion", {"loss": {"perceptual": {"weight": 1.0}}}, "diffusion.loss.perceptual.weight"),
        ("preprocess", {"spacing_mm": [3, 3, "native"], "grid": [32, 32, 32]}, "preprocess.spacing_mm"),
    ],
)
def test_what_drawn_heads_do_not_have_is_refused_by_its_key(tmp_path, capfd, section, value, said):
    status, out = pretrained(tmp_path, "bad", **{section: value})
    error = capfd.readouterr().err
    assert status == 2 and said in error and "expected" in error
    assert not out.exists() and not list(tmp_path.rglob("model.safetensors"))


def test_again_on_a_study_that_is_refused_keeps_the_state(tmp_path):
    pretrained(tmp_path, "one")
    state = tmp_path / "one" / "anatomy" / "pretrained" / "state" / "last.pt"
    before = state.read_bytes()
    config = tmp_path / "one.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "model": {**STUDY["model"], "prior": "concat"}}))
    assert run_stage("pretrain", ["--config", str(config), "--again"]) == 2
    assert state.read_bytes() == before
    config.write_text(json.dumps(values))
    assert run_stage("pretrain", ["--config", str(config), "--again"]) == 0
