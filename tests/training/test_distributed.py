"""Training with several processes equals training with one: two gloo processes started by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.tiny_training import trainer_in, weights_of

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.files import read_table
from slimdiff.training.distributed import Processes
from slimdiff.training.trainer import Trainer

HERE = Path(__file__).parent
SCRIPT = """
import json, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from slimdiff.config.diffusion import DiffusionConfig, FocalFrequencyConfig, LossConfig
from slimdiff.config.training import ValidationConfig
from slimdiff.training.distributed import Processes
from slimdiff.training.trainer import Trainer
from helpers.tiny_training import EVERYTHING, MODEL, PARTICIPANTS, TRAINING, tiny_store

def train(folder, settings):
    kids = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    extra = EVERYTHING if settings.pop("everything", False) else dict()
    model, diffusion, priors = (extra.get(key) for key in ("model", "diffusion", "priors"))
    loss = LossConfig(uncertainty="each", focal_frequency=FocalFrequencyConfig(weight=0.5, below=0.4))
    training = {{key: value for key, value in extra.items() if key not in ("model", "diffusion", "priors")}} | settings
    if "validation" in training:
        training["validation"] = ValidationConfig(**training["validation"])
    Trainer(
        model or MODEL, diffusion or DiffusionConfig(loss=loss), TRAINING.model_copy(update=training),
        tiny_store(folder.parent), PARTICIPANTS, folder, dict(study="tiny", variant="base", fold=0), priors,
        val_participants=["sub-3"], judge=lambda images, z_bin: dict(kid=next(kids), memorisation_ratio=1.0),
        processes=processes,
    ).run()

processes = Processes.join("gloo")
for folder, settings in json.loads(Path(sys.argv[1]).read_text()).items():
    train(Path(folder), settings)
processes.leave()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of all TRAININGS, each run with one process and with two: {name}/{processes}."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(paths=[str(HERE.parent)]))
    for processes in (1, 2):
        runs = {str(folder / name / str(processes)): settings for name, (settings, _) in TRAININGS.items()}
        (folder / "runs.json").write_text(json.dumps(runs))
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [*command, str(script), str(folder / "runs.json")],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
    return folder


# Early stopping after step 8; the best round is at step 4.
VALIDATED = {
    "validation": {"every": 2, "samples": 6, "evaluations": 3, "patience": 2, "select": "kid"},
    "preview_every": 4,
    "save_every": 3,
}


# {name: (settings, number of rows of the history)}
TRAININGS = {
    "plain": ({}, 6),
    "uneven parts": ({"batch_size": 5, "accumulate": 2, "log_every": 3}, 4),
    "everything": ({"everything": True, "self_conditioning": 0.3}, 6),
    "validated": (VALIDATED, 4),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_follow_the_loss_curve_of_one(trained, name):
    """The global batch is the same: loss terms over part of the samples, learned weights, random draws, and validation
    rounds that stop the training and select its weights."""
    folders, (_, rows) = [trained / name / str(count) for count in (1, 2)], TRAININGS[name]
    one, two = (read_table(folder / "history.tsv") for folder in folders)
    assert len(one) == len(two) == rows
    columns = [key for key in one[0] if key not in ("images_per_s", "memory_mb")]
    assert "loss_focal_frequency" in columns and "log_variance_2" in columns
    for first, second in zip(one, two, strict=True):
        for column in columns:
            if first[column] == "n/a":
                assert second[column] == "n/a"
            else:
                assert float(second[column]) == pytest.approx(float(first[column]), rel=1e-5, abs=1e-5), (
                    column
                )
    assert [float(row["loss"]) for row in one] != [float(one[0]["loss"])] * len(one)
    (a, first), (b, second) = map(weights_of, folders)
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-4
    assert first.step == second.step == (4 if name == "validated" else 12)
    tables = [read_table(folder / "validation.tsv") for folder in folders]
    assert [row["step"] for row in tables[0]] == [row["step"] for row in tables[1]]
    assert len(tables[0]) == (4 if name == "validated" else 1)


def test_a_batch_too_small_for_the_processes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="4: 2 processes with training.accumulate 3"):
        trainer_in(tmp_path / "run", processes=Processes(0, 2), accumulate=3)


@pytest.fixture
def study_on_disk(prepared, tmp_path):
    """The configuration of the prepared study, with a training long enough to be stopped and a new model folder."""
    values = json.loads(prepared.model_dump_json(exclude_defaults=True))
    values["training"] |= {"steps": 4000, "save_every": 50, "log_every": 10}
    values["results_dir"] = str(tmp_path / "results")
    root = tmp_path / "results" / prepared.study
    root.mkdir(parents=True)
    for name in ("slices", "folds.tsv"):
        (root / name).symlink_to(prepared.paths.root / name)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(values))
    return path


def test_the_command_stops_all_processes_together_and_resumes(study_on_disk, monkeypatch):
    """A signal stops all processes at the same step; a single process resumes from the state."""
    study = load_study(study_on_disk)
    folder = study.paths.model("base", 0)
    command = [sys.executable, "-m", "slimdiff", "train", f"--config={study_on_disk}", "--fold=0"]
    child = subprocess.Popen(
        [*command, "--processes=2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(1200):
        if (folder / "state" / "last.pt").is_file() or child.poll() is not None:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGUSR1)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGUSR1, err
    stopped = [line for line in err.splitlines() if "stopped at step" in line]
    # One sentence for all processes, which have to stop at the same step: the state is of all of them.
    assert len(stopped) == 1 and "Traceback" not in err, err
    step = int(stopped[0].split("step ")[1].split(";")[0])
    assert step >= 50 and not (folder / "model.safetensors").exists()

    def stop_at_once(self):
        raise MemoryError(self.step)

    monkeypatch.setattr(Trainer, "advance", stop_at_once)
    with pytest.raises(MemoryError) as caught:
        cli.train(["--config", str(study_on_disk), "--fold", "0"])
    assert caught.value.args == (step,)


@pytest.mark.parametrize("killed", ["command", "torchrun"])
def test_processes_end_with_the_one_that_started_them(study_on_disk, killed):
    """Killed with SIGKILL, command or torchrun leave no process that holds their pipes; its step is saved."""
    folder = load_study(study_on_disk).paths.model("base", 0)
    command = [
        sys.executable,
        "-m",
        "slimdiff",
        "train",
        f"--config={study_on_disk}",
        "--fold=0",
        "--processes=2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        while not (folder / "state" / "last.pt").is_file():
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.05)
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        if not children.is_file():
            pytest.skip("this system does not list the children of a process")
        os.kill(child.pid if killed == "command" else int(children.read_text().split()[0]), signal.SIGKILL)
        # Ends as soon as no process has the pipe open.
        _, err = child.communicate(timeout=200)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert "stopped at step" in err and "its state is saved" in err, err
    assert not (folder / "model.safetensors").exists() and not (folder / "state" / "lock").exists()


def test_if_one_process_fails_all_processes_end(study_on_disk, tmp_path):
    """Only the first process fails to write its state; the other would wait for it."""
    study = load_study(study_on_disk)
    state = study.paths.model("base", 0) / "state"
    state.parent.mkdir(parents=True)
    # A file instead of the folder.
    state.write_text("")
    command = [
        sys.executable,
        "-m",
        "slimdiff",
        "train",
        f"--config={study_on_disk}",
        "--fold=0",
        "--processes=2",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode not in (0, None)
    assert f"slimdiff-train: error: {state}" in done.stderr or "File exists" in done.stderr
    assert not (state.parent / "model.safetensors").exists()
