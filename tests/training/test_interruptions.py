"""Training resumes after a kill at any moment, a full disk, or running out of memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny_training import assert_same_run, fail_at, trainer_in, weights_of

from slimdiff.files import read_table
from slimdiff.training.checkpoint import TrainingFailed, load_state
from slimdiff.training.objective import NOISE_BINS, losses_by_noise

# The run kills itself at `moment`: before step n, or while writing the n-th state.
KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from helpers.tiny_training import trainer_in
import slimdiff.training.checkpoint as checkpoint
from slimdiff.training.trainer import Trainer

what, when = {moment!r}
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if what == "step":
    advance = Trainer.advance
    Trainer.advance = lambda self: kill() if self.step == when else advance(self)
else:
    saved, save = [], checkpoint.torch.save
    def half(state, path):
        save(state, path)
        saved.append(path)
        if len(saved) == when:
            with open(path, "rb+") as stream:
                stream.truncate(os.path.getsize(path) // 2)
            kill()
    checkpoint.torch.save = half
trainer_in(Path({folder!r})).run()
"""


def in_a_process(script: str, folder: Path, **values) -> subprocess.CompletedProcess:
    script = script.format(paths=[str(Path(__file__).parents[1])], folder=str(folder), **values)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)


def run_until_killed(folder, moment) -> None:
    done = in_a_process(KILLED, folder, moment=moment)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize(
    "moments", [[("step", 1)], [("step", 7)], [("step", 5), ("step", 11)], [("save", 2)]]
)
def test_f5_a_killed_run_resumes_bit_for_bit(tmp_path, moments):
    trainer_in(tmp_path / "whole").run()
    folder = tmp_path / "killed"
    for moment in moments:
        run_until_killed(folder, moment)
        assert not (folder / "model.safetensors").exists()
    trainer_in(folder).run()
    assert_same_run(tmp_path / "whole", folder)
    # Half-written files are deleted.
    assert [path.name for path in (folder / "state").iterdir()] == ["last.pt"]


# From step 4 on, a file of more than 20 kB cannot be written, as on a full disk; the limit holds for the whole process.
FULL_DISK = """
import resource, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from helpers.tiny_training import fail_at, trainer_in
from slimdiff.training.checkpoint import StateNotSaved

trainer = trainer_in(Path({folder!r}))
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
fail_at(trainer, 4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1])))
try:
    trainer.run()
except StateNotSaved as error:
    sys.exit(str(error))
"""


def test_a_full_disk_keeps_the_earlier_state(tmp_path):
    trainer_in(tmp_path / "whole").run()
    done = in_a_process(FULL_DISK, tmp_path / "run")
    assert done.returncode == 1
    # tqdm may draw its bar once more after the message.
    assert re.search(r"last\.pt: the state of step 6 could not be written .* MB free.*kept", done.stderr)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["last.pt"]
    resumed = trainer_in(tmp_path / "run")
    assert load_state(resumed.state_path, resumed.identity)["step"] == 3
    resumed.run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_out_of_memory_names_the_batch_and_a_remedy(tmp_path):
    trainer = trainer_in(tmp_path / "run", accumulate=2)

    def hog(*_):
        # A tensor of an exabyte: the allocator raises its own error.
        torch.empty(2**58, dtype=torch.float32)

    hook = None

    def fill():
        nonlocal hook
        hook = trainer.network.register_forward_pre_hook(hog)

    fail_at(trainer, 5, fill)
    with pytest.raises(TrainingFailed) as caught:
        trainer.run()
    message = str(caught.value)
    for part in ("out of memory on cpu at step 5", "training.batch_size 4 in 2 part(s)", "8 x 8 px"):
        assert part in message
    assert "set training.accumulate to 4" in message and "last.pt" in message
    assert load_state(trainer.state_path, trainer.identity)["step"] == 3


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_gradient_accumulation_gives_the_same_step(tmp_path, parts):
    """Up to rounding, also for parts of unequal size; equally many samples have a previous estimate."""
    trainer_in(tmp_path / "whole").run()
    trainer_in(tmp_path / "parts", accumulate=parts).run()
    whole, divided = (weights_of(tmp_path / name)[0] for name in ("whole", "parts"))
    start = {name: value for name, value in trainer_in(tmp_path / "new").network.named_parameters()}
    apart = max((whole[name] - divided[name]).abs().max().item() for name in whole)
    moved = max((whole[name] - start[name]).abs().max().item() for name in whole)
    assert apart < 0.02 * moved
    rows = [read_table(tmp_path / name / "history.tsv") for name in ("whole", "parts")]
    for one, other in zip(*rows, strict=True):
        for column in ("loss", "loss_image", "loss_mask", "loss_image_noise_2", "gradient_norm"):
            if one[column] == "n/a":
                assert other[column] == "n/a"
                continue
            assert float(other[column]) == pytest.approx(float(one[column]), rel=1e-3), column


def test_losses_by_noise_level_are_means_over_samples():
    samples = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0], [7.0, 70.0]])
    found = losses_by_noise(samples, torch.tensor([0, 249, 250, 999]), 1000)
    assert found.shape == (3, NOISE_BINS)
    assert found.tolist() == [[4, 5, 0, 7], [40, 50, 0, 70], [2, 1, 0, 1]]


def test_the_noise_columns_add_up_to_the_loss(tmp_path):
    """Weighted by the number of samples in each column: one row per step, with four samples."""
    trainer_in(tmp_path / "run", log_every=1).run()
    trainer = trainer_in(tmp_path / "again")
    for step, row in enumerate(read_table(tmp_path / "run" / "history.tsv")):
        _, draws = trainer.prepare(step, trainer.objective, trainer.network)
        for channel in ("image", "mask"):
            total = 0.0
            for level in range(NOISE_BINS):
                members = (
                    ((draws.timestep >= 250 * level) & (draws.timestep < 250 * (level + 1))).sum().item()
                )
                cell = row[f"loss_{channel}_noise_{level + 1}"]
                assert (cell == "n/a") == (members == 0)
                total += members * float(cell) if members else 0.0
            assert total / 4 == pytest.approx(float(row[f"loss_{channel}"]), rel=1e-5)
        assert float(row["memory_mb"]) > 50
