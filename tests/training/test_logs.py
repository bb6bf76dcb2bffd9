"""TensorBoard and W&B log the rows of the tables; a missing package gives a message or an error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.tiny_training import assert_same_run, fail_at, trainer_in, weights_of

from slimdiff.files import read_table
from slimdiff.training.checkpoint import Interrupted
from slimdiff.training.logs import Sinks, has_wandb_key


def scalars(folder):
    """{tag: {step: value}}, as read by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    return found, events


def assert_events_are_the_table(folder):
    found, events = scalars(folder)
    rows = read_table(folder / "history.tsv")
    for column in ("loss", "loss_image", "gradient_norm", "learning_rate", "images_per_s"):
        of_table = {int(row["step"]): float(row[column]) for row in rows}
        assert found[f"train/{column}"] == pytest.approx(of_table, rel=1e-6), column
    rows = read_table(folder / "validation.tsv")
    assert found["validation/ema_0.9/loss_image"] == pytest.approx(
        {int(row["step"]): float(row["loss_image"]) for row in rows}, rel=1e-6
    )
    assert [event.step for event in events.Images("previews")] == [4, 8, 12]


SHOWN = {"tensorboard": True, "preview_every": 4, "val_participants": ["sub-3"]}


def test_tensorboard_has_the_rows_and_the_previews(tmp_path):
    trainer_in(tmp_path / "run", **SHOWN).run()
    assert_events_are_the_table(tmp_path / "run")


def test_a_resumed_run_logs_no_duplicate_steps(tmp_path):
    trainer_in(tmp_path / "plain", **SHOWN).run()
    # Stopped after its last state, so that steps 7 to 9 run twice.
    broken = trainer_in(tmp_path / "run", log_every=1, **SHOWN)

    def crash():
        broken.outputs.close()
        raise MemoryError

    fail_at(broken, 10, crash)
    with pytest.raises(MemoryError):
        broken.run()
    # Files of events of one process and second are read in the order of their numbers as text: 10 before 9.
    time.sleep(1.1)
    trainer_in(tmp_path / "run", log_every=1, **SHOWN).run()
    assert_events_are_the_table(tmp_path / "run")
    first, second = (weights_of(tmp_path / name)[0] for name in ("plain", "run"))
    assert all((first[name] == second[name]).all() for name in first)


def test_training_without_tensorboard_continues_with_a_message(tmp_path):
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorboard":
            raise ImportError("refused")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from helpers.tiny_training import trainer_in
trainer_in(Path({str(tmp_path / "run")!r}), tensorboard=True).run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no TensorBoard: its package is not installed" in done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_missing_wandb_is_an_error_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    trainer = trainer_in(tmp_path / "run", wandb_project="p")
    with pytest.raises(
        ValueError, match=r"training\.wandb_project is 'p', but wandb is not installed: pip install"
    ):
        trainer.run()
    assert trainer.step == 0


def test_wandb_offline_resumes_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = {"wandb_project": "slimdiff-test", "val_participants": ["sub-3"]}
    trainer_in(tmp_path / "plain", val_participants=["sub-3"]).run()
    broken = trainer_in(tmp_path / "run", **run)
    fail_at(broken, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        broken.run()
    trainer_in(tmp_path / "run", **run).run()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    names = {path.name for path in files}
    # Both parts of the training have the same run id.
    assert len(files) == 2 and len(names) == 1
    assert all(b"train/loss_image" in path.read_bytes() for path in files)
    assert_same_run(tmp_path / "plain", tmp_path / "run", but={"wandb_project"})


def test_non_numeric_values_are_not_logged(tmp_path):
    class Spy:
        def __init__(self):
            self.seen = {}

        def numbers(self, step, values):
            self.seen[step] = values

    sinks, spy = Sinks(tmp_path, 0, tensorboard=False, wandb_project=None), Spy()
    sinks.all.append(spy)
    sinks.numbers(
        3, {"step": 3, "loss": 0.5, "kid": float("nan"), "slices": 4, "name": "x", "none": None}, "g"
    )
    assert spy.seen == {3: {"g/loss": 0.5, "g/slices": 4.0}}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A user without a key of W&B."""
    pytest.importorskip("wandb", reason="wandb is an extra")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def offline_runs(folder):
    return list((folder / "wandb").glob("offline-run-*"))


def test_a_key_is_found_in_the_environment_or_for_the_server(stranger, monkeypatch):
    assert not has_wandb_key()
    (stranger / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert has_wandb_key()
    monkeypatch.delenv("WANDB_API_KEY")
    (stranger / ".netrc").write_text("not a netrc file")
    assert not has_wandb_key()


def test_without_a_key_wandb_is_offline_and_the_command_to_send_it_is_printed(tmp_path, stranger, capsys):
    trainer_in(tmp_path / "run", wandb_project="slimdiff-test").run()
    (run,) = offline_runs(tmp_path / "run")
    err = capsys.readouterr().err
    assert (
        f"W&B is offline: no key found (WANDB_API_KEY, or wandb login). To send the run later: wandb sync {run}"
        in err
    )
    assert b"train/loss_image" in next(run.glob("run-*.wandb")).read_bytes()


def test_without_network_wandb_is_offline(tmp_path, stranger):
    """A key, and a server that does not answer: no server listens on port 9."""
    # In a process of its own, because wandb keeps the mode and the limits of its first run.
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from helpers.tiny_training import trainer_in
trainer_in(Path({str(tmp_path / "run")!r}), wandb_project="slimdiff-test").run()
"""
    environment = {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_INIT_TIMEOUT": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    (run,) = offline_runs(tmp_path / "run")
    assert "W&B is offline: http://127.0.0.1:9 does not answer" in done.stderr
    assert f"wandb sync {run}" in done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_server_that_refuses_the_run_is_replaced_by_the_folder(tmp_path, stranger, monkeypatch, capsys):
    """For example a wrong key: the server answers, the run cannot start."""
    import wandb

    started, init = [], wandb.init

    def refuse(**options):
        started.append(options.get("mode"))
        if options.get("mode") != "offline":
            raise wandb.errors.CommError("API key is invalid")
        return init(**options)

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("slimdiff.training.logs.wandb_unreachable", lambda: None)
    monkeypatch.setattr(wandb, "init", refuse)
    trainer_in(tmp_path / "run", wandb_project="slimdiff-test").run()
    assert started == [None, "offline"] and len(offline_runs(tmp_path / "run")) == 1
    assert "its server cannot be used (API key is invalid)" in capsys.readouterr().err


class FullDisk:
    """A logger that fails from its second call on."""

    def __init__(self):
        self.calls = 0

    def numbers(self, step, values):
        self.calls += 1
        if self.calls > 1:
            raise OSError(28, "No space left on device")

    def picture(self, step, name, picture):
        raise ConnectionError

    def close(self):
        raise RuntimeError("lost")


@pytest.mark.parametrize("method", ["numbers", "picture", "close"])
def test_a_logger_that_fails_never_ends_a_training(tmp_path, capsys, method):
    trainer = trainer_in(tmp_path / "run", preview_every=4)
    broken = FullDisk()
    if method != "numbers":
        broken.numbers = lambda step, values: None
    if method == "close":
        broken.picture = lambda step, name, picture: None
    opened = trainer.outputs.open

    def open_with_broken(step):
        opened(step)
        trainer.outputs.sinks.all.append(broken)

    trainer.outputs.open = open_with_broken
    trainer.run()
    told = [line for line in capsys.readouterr().err.splitlines() if "stopped logging" in line]
    assert len(told) == 1 and "the numbers are in history.tsv" in told[0]
    trainer_in(tmp_path / "plain", preview_every=4).run()
    assert_same_run(tmp_path / "plain", tmp_path / "run")


def test_a_logger_that_cannot_start_never_ends_a_training(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    trainer_in(tmp_path / "run", tensorboard=True).run()
    assert "TensorBoard stopped logging" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").is_file()
