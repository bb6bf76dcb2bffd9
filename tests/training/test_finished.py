"""A finished training is not repeated; more steps follow its own state; changed logging makes no model again."""

import os
import resource
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from helpers.tiny_training import assert_same_run, fail_at, study_with_own_models, trainer_in, weights_of

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.config.training import ValidationConfig
from slimdiff.files import read_table
from slimdiff.model.checkpoint import load_model
from slimdiff.training import trainer as trainer_module
from slimdiff.training.checkpoint import Interrupted
from slimdiff.training.optimiser import learning_rate
from slimdiff.training.trainer import Trainer


def refuse_steps(monkeypatch):
    def advance(self):
        raise AssertionError(f"step {self.step} is trained again")

    monkeypatch.setattr(Trainer, "advance", advance)


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_more_steps_are_those_of_one_training_with_two_learning_rate_schedules(
    tmp_path, monkeypatch, optimiser
):
    """Eight steps, then a study with twelve: a later step has the rate that a training of twelve steps has there."""
    settings = {"optimiser": optimiser, "warmup_steps": 2, "further_ema_decays": (0.5,)}
    trainer_in(tmp_path / "run", steps=8, **settings).run()
    resumed = trainer_in(tmp_path / "run", steps=12, **settings)
    resumed.run()
    assert resumed.step == 12

    def two_schedules(config, step):
        return learning_rate(config.model_copy(update={"steps": 8 if step < 8 else 12}), step)

    monkeypatch.setattr(trainer_module, "learning_rate", two_schedules)
    trainer_in(tmp_path / "twin", steps=12, **settings).run()
    for name in ("model", "ema-0.5"):
        found, expected = (
            dict(
                load_model(tmp_path / folder / f"{name}.safetensors", torch.device("cpu"))[
                    0
                ].named_parameters()
            )
            for folder in ("run", "twin")
        )
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    rates = [float(row["learning_rate"]) for row in read_table(tmp_path / "run" / "history.tsv")]
    # The rate rises again: at the end of eight steps it is almost 0.
    assert rates[4] > rates[3] and len(rates) == 6
    cards = [weights_of(tmp_path / folder)[1] for folder in ("run", "twin")]
    assert [card.training_run["extended_at"] for card in cards] == [[8], []]
    assert cards[0].training_run["steps"] == 12


def test_an_extension_that_is_interrupted_resumes_bit_for_bit(tmp_path):
    trainer_in(tmp_path / "whole", steps=7).run()
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    trainer_in(tmp_path / "whole", steps=13).run()
    for stop in (8, 10):
        broken = trainer_in(tmp_path / "broken", steps=13)
        fail_at(broken, stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            broken.run()
    trainer_in(tmp_path / "broken", steps=13).run()
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_files_that_were_deleted_are_written_again_from_the_kept_state(tmp_path, monkeypatch):
    """A workflow engine deletes the outputs of a job before it runs it again."""
    folder = tmp_path / "run"
    trainer_in(folder).run()
    names = ("model.safetensors", "history.tsv", "validation.tsv", "previews/final.png")
    before = [(folder / name).read_bytes() for name in names]
    for name in names:
        (folder / name).unlink()
    refuse_steps(monkeypatch)
    trainer_in(folder).run()
    assert [(folder / name).read_bytes() for name in names] == before


STOPS = {
    # Rounds at steps 2, 4, ...; the training ends at step 8, or at step 4.
    "patience": (ValidationConfig(every=2, samples=6, evaluations=3, patience=2), 8),
    "lowest_ratio": (ValidationConfig(every=2, samples=6, evaluations=3, lowest_ratio=0.8), 4),
}


@pytest.mark.parametrize("rule", STOPS)
def test_a_training_that_stopped_early_is_written_again_without_a_step(tmp_path, monkeypatch, capsys, rule):
    settings, end = STOPS[rule]
    kids = iter((3.0, 1.0, 1.5, 1.2))

    def judge(images, z_bin):
        return {"kid": next(kids), "memorisation_ratio": 0.5}

    folder = tmp_path / "run"
    common = {"val_participants": ["sub-3"], "validation": settings, "judge": judge, "preview_every": 4}
    trainer_in(folder, **common).run()
    assert f"stopped early after step {end}" in capsys.readouterr().err
    names = ("model.safetensors", "history.tsv", "validation.tsv", "previews/final.png", "state/last.pt")
    names += (f"previews/step-{end:07d}.png",)
    before = [(folder / name).read_bytes() for name in names]
    for name in names:
        if name != "state/last.pt":
            (folder / name).unlink()
    refuse_steps(monkeypatch)
    again = trainer_in(folder, **common)
    again.run()
    assert again.step == end
    assert f"writing the model again at step {end} of 12" in capsys.readouterr().err
    assert [(folder / name).read_bytes() for name in names] == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-3}, "training.learning_rate: expected 0.001, found 0.002"),
        ({"steps": 6}, "training.steps: expected 6, found 12"),
        ({"steps": 20, "ema_decay": 0.8}, "training.ema_decay: expected 0.8, found 0.9"),
        ({"snapshots": (4,)}, "no snapshot-4.safetensors"),
    ],
)
def test_a_finished_training_of_another_configuration_is_not_resumed_and_a_line_says_why(
    tmp_path, capsys, changes, named
):
    trainer_in(tmp_path / "run").run()
    capsys.readouterr()
    trainer_in(tmp_path / "run", **changes).run()
    said = capsys.readouterr().err
    assert named in said and "starting at step 0" in said
    trainer_in(tmp_path / "new", **changes).run()
    assert_same_run(tmp_path / "run", tmp_path / "new")


def test_without_a_kept_state_more_steps_start_at_step_0(tmp_path):
    trainer_in(tmp_path / "run", steps=6, keep_state=False).run()
    trainer_in(tmp_path / "run", steps=12, keep_state=False).run()
    trainer_in(tmp_path / "new", steps=12, keep_state=False).run()
    assert_same_run(tmp_path / "run", tmp_path / "new")


def test_a_state_that_does_not_fit_on_the_disk_at_the_end_costs_no_model(tmp_path, capsys):
    trainer_in(tmp_path / "whole").run()
    size = (tmp_path / "whole" / "model.safetensors").stat().st_size
    assert (tmp_path / "whole" / "state" / "last.pt").stat().st_size > 1.5 * size
    trainer = trainer_in(tmp_path / "run", save_every=1000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    fail_at(trainer, 11, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (int(1.2 * size), limit[1])))
    try:
        trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "no state of the finished training is kept" in capsys.readouterr().err
    assert list((tmp_path / "run" / "state").iterdir()) == []
    assert_same_run(tmp_path / "whole", tmp_path / "run", but={"save_every"})


class Cell:
    """The command `slimdiff train` for fold 0 of a prepared study, with results of its own."""

    def __init__(self, prepared, folder, capsys):
        self.prepared, self.place, self.capsys = prepared, folder, capsys
        self.file = study_with_own_models(prepared, folder)
        self.folder = load_study(self.file).paths.model("base", 0)

    def train(self, *arguments: str, **training) -> str:
        """What the command prints, without its bar."""
        study_with_own_models(self.prepared, self.place, **training)
        self.capsys.readouterr()
        assert cli.run_stage("train", ["--config", str(self.file), "--fold", "0", *arguments]) == 0
        lines = self.capsys.readouterr().err.splitlines()
        return "\n".join(line for line in lines if not line.startswith(("train:", "\rtrain:")))


@pytest.fixture
def cell(prepared, tmp_path, capsys):
    return Cell(prepared, tmp_path, capsys)


LINE = "base, fold 0: trained: 6 of 6 steps, same configuration; nothing to do (--again starts over)"


def test_the_command_does_not_touch_a_trained_model(cell, monkeypatch):
    cell.train()
    before = contents(cell.folder)
    refuse_steps(monkeypatch)
    assert cell.train() == LINE
    assert contents(cell.folder) == before
    logging = {"preview_every": 2, "log_every": 1, "save_every": 2, "tensorboard": True, "keep_state": False}
    assert cell.train(**logging, wandb_project="none") == LINE
    assert contents(cell.folder) == before
    # Also in a folder that cannot be written.
    cell.folder.chmod(0o555)
    try:
        assert cell.train() == LINE
    finally:
        cell.folder.chmod(0o755)


def test_the_command_extends_and_repeats_a_training(cell, monkeypatch):
    cell.train()
    first = (cell.folder / "model.safetensors").read_bytes()
    assert "resuming at step 6 of 9" in cell.train(steps=9)
    assert load_model(cell.folder / "model.safetensors", torch.device("cpu"))[1].step == 9
    assert "trained: 9 of 9 steps" in cell.train(steps=9)
    # A smaller number of steps is another training.
    assert "training.steps: expected 6, found 9" in cell.train()
    assert (cell.folder / "model.safetensors").read_bytes() == first
    steps, advance = [], Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self: steps.append(self.step) or advance(self))
    cell.train("--again")
    assert steps == list(range(6))
    assert (cell.folder / "model.safetensors").read_bytes() == first


def test_a_repetition_that_was_interrupted_resumes(cell, monkeypatch):
    cell.train()
    first = (cell.folder / "model.safetensors").read_bytes()
    advance = Trainer.advance

    def stop(self):
        if self.step == 4:
            raise MemoryError
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop)
    with pytest.raises(MemoryError):
        cell.train("--again")
    assert (cell.folder / "model.safetensors").read_bytes() == first
    monkeypatch.setattr(Trainer, "advance", advance)
    assert "resuming at step 3 of 6" in cell.train()
    assert (cell.folder / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("how", ["cut", "missing table"])
def test_a_trained_cell_that_is_not_whole_is_made_again_from_its_state(cell, monkeypatch, how):
    cell.train()
    model, table = cell.folder / "model.safetensors", cell.folder / "history.tsv"
    before = (model.read_bytes(), table.read_bytes())
    if how == "cut":
        os.truncate(model, 1000)
    else:
        table.unlink()
    refuse_steps(monkeypatch)
    assert "writing the model again at step 6 of 6" in cell.train()
    assert (model.read_bytes(), table.read_bytes()) == before


def flip_a_digit(table):
    content = bytearray(table.read_bytes())
    content[-3] ^= 1
    table.write_bytes(bytes(content))


def test_a_damaged_table_is_named_and_costs_no_sound_model(cell, monkeypatch):
    cell.train(keep_state=False)
    table = cell.folder / "history.tsv"
    good = table.read_bytes()
    flip_a_digit(table)
    before = contents(cell.folder)
    refuse_steps(monkeypatch)
    assert cli.run_stage("train", ["--config", str(cell.file), "--fold", "0"]) == 2
    said = cell.capsys.readouterr().err
    assert f"error: {table}: its content is not what was written" in said
    assert "restore the table" in said and "--again" in said
    assert contents(cell.folder) == before
    # The advice is true: restored, or without its seal.
    table.write_bytes(good)
    assert cell.train(keep_state=False) == LINE
    flip_a_digit(table)
    table.with_name(".history.tsv.sha256").unlink()
    assert cell.train(keep_state=False) == LINE


def test_a_damaged_table_is_named_and_written_again_from_the_state(cell, monkeypatch):
    cell.train()
    table = cell.folder / "history.tsv"
    good = table.read_bytes()
    flip_a_digit(table)
    refuse_steps(monkeypatch)
    said = cell.train()
    assert f"{table}: its content is not what was written" in said and "again from the kept state" in said
    assert table.read_bytes() == good


def test_a_model_of_an_earlier_version_is_trained_as_before(cell):
    from slimdiff.model.checkpoint import read_card, save_model

    cell.train(keep_state=False)
    path = cell.folder / "model.safetensors"
    network, card = load_model(path, torch.device("cpu"))
    save_model(path, network.state_dict(), replace(card, training_run=None))
    assert "nothing to do" not in cell.train(keep_state=False)
    assert read_card(path).training_run["steps"] == 6


def test_the_state_of_a_study_is_counted_in_its_storage(cell):
    from slimdiff.preflight.estimate import estimate

    sizes = []
    for keep_state in (True, False):
        study_with_own_models(cell.prepared, cell.place, keep_state=keep_state)
        sizes.append(estimate(load_study(cell.file), 8).storage_gb)
    assert sizes[0] > sizes[1]
