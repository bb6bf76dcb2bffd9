"""Two trainings of one cell at the same time: the second waits, and then has nothing to do or takes over."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
from helpers.tiny_training import study_with_own_models

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.data.store import SliceStore
from slimdiff.stages import train
from slimdiff.training.distributed import Processes

# Before step 4, behind a saved state, the training waits for the file `go`; at once in a process that may go on.
WAITS = """
import sys, time
from pathlib import Path
from slimdiff.cli import train
from slimdiff.training.trainer import Trainer

advance, go = Trainer.advance, Path(sys.argv[1])

def waits(self):
    if self.step == 4 and not go.exists():
        print("waits", flush=True)
        while not go.exists():
            time.sleep(0.02)
    return advance(self)

Trainer.advance = waits
sys.exit(train(sys.argv[2:]))
"""


@pytest.fixture
def start(prepared, tmp_path):
    study = study_with_own_models(prepared, tmp_path)
    running = []

    def process(go):
        command = [sys.executable, "-c", WAITS, str(go), "--config", str(study), "--fold", "0"]
        running.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        return running[-1]

    yield process
    for child in running:
        with suppress(ProcessLookupError):
            child.kill()
        child.communicate()


def line_with(stream, part: str) -> str:
    for line in stream:
        if part in line:
            return line
    raise AssertionError(f"no line with {part!r}")


@pytest.fixture
def model(prepared, tmp_path):
    return load_study(study_with_own_models(prepared, tmp_path)).paths.model("base", 0)


@pytest.fixture
def expected(prepared, tmp_path):
    (tmp_path / "alone").mkdir()
    study = study_with_own_models(prepared, tmp_path / "alone")
    assert cli.train(["--config", str(study), "--fold", "0"]) == 0
    return (load_study(study).paths.model("base", 0) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_training_of_one_cell_waits_for_the_first(start, model, expected, tmp_path, killed):
    """As after SIGKILL of a workflow engine, whose jobs live on, and a restart."""
    go, always = tmp_path / "go", tmp_path / "always"
    always.touch()
    first = start(go)
    assert first.stdout.readline() == "waits\n"
    second = start(always)
    line = line_with(second.stderr, "waiting for its end")
    assert f"training of base, fold 0 by process {first.pid}" in line
    state = model / "state"
    assert sorted(path.name for path in state.iterdir()) == ["last.pt", "lock"]
    if killed:
        first.kill()
    else:
        go.touch()
    _, said = second.communicate(timeout=300)
    _, err = first.communicate(timeout=300)
    assert second.returncode == 0, said
    if killed:
        assert "resuming at step 3 of 6" in said
    else:
        assert first.returncode == 0, err
        assert "trained: 6 of 6 steps, same configuration; nothing to do" in said
    assert (model / "model.safetensors").read_bytes() == expected
    assert [path.name for path in state.iterdir()] == ["last.pt"]


def test_the_others_of_a_group_take_part_in_every_look_at_the_lock(prepared, tmp_path):
    """In one exchange they would wait at most for its time limit, and not as long as another training lasts."""
    study = load_study(study_with_own_models(prepared, tmp_path))
    # Not finished; three looks of the first process at the lock; it has the lock; the model is there now.
    answers, said = [0, 0, 0, 0, 1, 1], []

    class Second(Processes):
        def largest(self, number: int) -> int:
            said.append(int(number))
            return answers[len(said) - 1]

    store = SliceStore.open(study.paths.store)
    with train._trainer(study.variant("base"), "base", 0, store, Second(1, 2), False) as trainer:
        assert trainer is None
    assert said == [0] * len(answers)


def test_the_first_of_a_group_exchanges_while_it_waits(start, prepared, tmp_path):
    study = load_study(study_with_own_models(prepared, tmp_path))
    go, said = tmp_path / "go", []
    first = start(go)
    assert first.stdout.readline() == "waits\n"

    class First(Processes):
        def largest(self, number: int) -> int:
            said.append(int(number))
            if len(said) == 4:
                go.touch()
                first.communicate(timeout=300)
            return number

    store = SliceStore.open(study.paths.store)
    with train._trainer(study.variant("base"), "base", 0, store, First(0, 2), False) as trainer:
        assert trainer is None
    # Not finished, three looks, the lock, and the finished model.
    assert said == [0, 0, 0, 0, 1, 1]


def test_two_cells_do_not_wait_for_one_another(start, prepared, tmp_path):
    first = start(tmp_path / "go")
    assert first.stdout.readline() == "waits\n"
    study = study_with_own_models(prepared, tmp_path)
    assert cli.train(["--config", str(study), "--fold", "1"]) == 0
    (tmp_path / "go").touch()
    assert first.wait(timeout=300) == 0


def test_a_stop_signal_while_a_model_is_written_ends_the_command_before_the_next(prepared, tmp_path):
    """The model is complete, and no hours of another training follow."""
    study = study_with_own_models(prepared, tmp_path)
    script = (
        "import os, signal, sys\nfrom slimdiff.cli import train\nfrom slimdiff.training.outputs import Outputs\n"
        "write = Outputs.write\n"
        "def stopped(self, *arguments):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return write(self, *arguments)\n"
        "Outputs.write = stopped\nsys.exit(train(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "--config", str(study)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 130, done.stderr
    assert "stopped after base, fold 0; run it again for the other models" in done.stderr
    paths = load_study(study).paths
    assert (paths.model("base", 0) / "model.safetensors").is_file()
    assert not (paths.model("base", 1) / "model.safetensors").exists()
    # A job of the workflow has one model, which is complete.
    done = subprocess.run([*command, "--fold", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
