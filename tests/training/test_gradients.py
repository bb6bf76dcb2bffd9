"""The gradient of a batch by several threads is that of one, the same in every run, and an exact resume holds."""

import threading

import pytest
import torch
from helpers.tiny_training import (
    EVERYTHING,
    MEASURED,
    MODEL,
    PARTICIPANTS,
    TRAINING,
    assert_same_run,
    fail_at,
    tiny_store,
    trainer_in,
)

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.training.checkpoint import Interrupted, TrainingFailed
from slimdiff.training.distributed import Processes
from slimdiff.training.trainer import Trainer


def stepped(folder, threads, settings):
    """A trainer after three steps, so that no layer is zero any more, and its last gradients."""
    settings = dict(settings)
    parts = {key: settings.pop(key) for key in ("model", "diffusion", "priors") if key in settings}
    trainer = Trainer(
        parts.get("model", MODEL),
        parts.get("diffusion", DiffusionConfig()),
        TRAINING.model_copy(update={"log_every": 1} | settings),
        tiny_store(folder),
        PARTICIPANTS,
        folder / "run",
        {},
        parts.get("priors"),
    )
    for _ in range(2):
        trainer.advance()
    trainer.threads.count = threads
    trainer.advance()
    row = trainer.history.close_row(3, folder, 1e-3, 1.0, 1.0)
    return row, {name: parameter.grad for name, parameter in trainer.loss.named_parameters()}


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_size": 5, "accumulate": 2}, EVERYTHING | {"self_conditioning": 0.3}],
    ids=["plain", "accumulated", "everything"],
)
def test_the_parts_of_threads_sum_to_the_gradient_of_the_batch(tmp_path, threads, settings):
    row, whole = stepped(tmp_path, 1, settings)
    other_row, parts = stepped(tmp_path, threads, settings)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        if gradient is None:
            assert parts[name] is None, name
        else:
            torch.testing.assert_close(
                parts[name],
                gradient,
                rtol=1e-4,
                atol=1e-5 * gradient.abs().max().item() + 1e-9,
            )
    assert max(gradient.abs().max().item() for gradient in whole.values() if gradient is not None) > 1e-3
    for key in set(row) - set(MEASURED):
        assert other_row[key] == pytest.approx(row[key], rel=1e-4, abs=1e-6, nan_ok=True), key


def threaded(folder, **settings):
    trainer = trainer_in(folder, **settings)
    trainer.threads.count = 2
    return trainer


def test_every_run_with_as_many_threads_is_equal_also_after_an_interruption(tmp_path):
    settings = {"batch_size": 5, "accumulate": 2}
    threaded(tmp_path / "one" / "run", **settings).run()
    threaded(tmp_path / "two" / "run", **settings).run()
    assert_same_run(tmp_path / "one" / "run", tmp_path / "two" / "run")
    stopped = threaded(tmp_path / "three" / "run", **settings)
    fail_at(stopped, 5, lambda: stopped._ask_to_stop(15, None))
    with pytest.raises(Interrupted):
        stopped.run()
    threaded(tmp_path / "three" / "run", **settings).run()
    assert_same_run(tmp_path / "one" / "run", tmp_path / "three" / "run")


def test_what_fails_in_a_thread_is_said_as_elsewhere(tmp_path, monkeypatch):
    trainer = threaded(tmp_path / "run")
    measure = trainer.objective.measure

    def too_large(evaluate, batch, draws):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes")
        return measure(evaluate, batch, draws)

    monkeypatch.setattr(trainer.objective, "measure", too_large)
    with pytest.raises(TrainingFailed, match="memory"):
        trainer.run()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_threads_have_parts_only_where_torch_allows_it(tmp_path):
    torch.set_num_threads(2)
    try:
        assert trainer_in(tmp_path / "plain").threads.count == 2
        several = trainer_in(tmp_path / "several", processes=NoGroup(0, 2))
        assert several.threads.count == 1
    finally:
        torch.set_num_threads(1)


class NoGroup(Processes):
    """Two processes, of which only this one is there."""

    def share(self, module):
        return module
