"""A step never makes the host wait for the device; compiled training learns the same."""

import shutil

import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    MODEL,
    PARTICIPANTS,
    TRAINING,
    tiny_store,
    trainer_in,
    weights_of,
)
from torch.utils._python_dispatch import TorchDispatchMode

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.files import read_table
from slimdiff.training.trainer import Trainer

# Operators whose result the host must read, so that it waits for all queued work.
WAITING = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique", "masked_select"}


class WaitRecorder(TorchDispatchMode):
    """Records the operators that would make the host wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        boolean = any(getattr(part, "dtype", None) == torch.bool for part in indices)
        if name in WAITING or boolean:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings", [{}, EVERYTHING | {"batch_size": 5, "self_conditioning": 0.3, "accumulate": 2}]
)
def test_no_step_waits_for_the_device(tmp_path, settings):
    settings = dict(settings)
    parts = {key: settings.pop(key) for key in ("model", "diffusion", "priors") if key in settings}
    trainer = Trainer(
        parts.get("model", MODEL),
        parts.get("diffusion", DiffusionConfig()),
        TRAINING.model_copy(update=settings),
        tiny_store(tmp_path),
        PARTICIPANTS,
        tmp_path / "run",
        {},
        parts.get("priors"),
    )
    # The recorder sees this thread only.
    trainer.threads.count = 1
    with WaitRecorder() as recorder:
        for _ in range(3):
            trainer.advance()
    assert recorder.seen == []
    # Closing a row of the history does wait.
    with WaitRecorder() as recorder:
        trainer.history.close_row(3, tmp_path, 1e-3, 1.0, 1.0)
    assert "nonzero" in recorder.seen


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile requires a C++ compiler on a CPU")
def test_compiled_training_is_equal_up_to_rounding_with_the_same_parameter_names(tmp_path):
    trainer_in(tmp_path / "plain", steps=4).run()
    trainer_in(tmp_path / "compiled", steps=4, compile=True).run()
    plain, compiled = (weights_of(tmp_path / name)[0] for name in ("plain", "compiled"))
    start = dict(trainer_in(tmp_path / "new").network.named_parameters())
    moved = max((plain[name] - start[name]).abs().max().item() for name in plain)
    assert max((plain[name] - compiled[name]).abs().max().item() for name in plain) < 0.02 * moved
    losses = [
        [float(row["loss"]) for row in read_table(tmp_path / name / "history.tsv")]
        for name in ("plain", "compiled")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_no_step_synchronises_and_the_loss_falls(tmp_path, compiled):
    trainer = trainer_in(
        tmp_path / "run", device="cuda", precision="bfloat16", compile=compiled, steps=200, batch_size=8
    )
    trainer.precision = torch.bfloat16
    for _ in range(5):
        trainer.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.run()
    losses = [float(row["loss"]) for row in read_table(tmp_path / "run" / "history.tsv")]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
