"""Snapshots: averaged weights saved during training, identical after an interruption, without effect on training."""

import pytest
import torch
from helpers.tiny_training import fail_at, trainer_in

from slimdiff.model.checkpoint import load_model, read_card

CPU = torch.device("cpu")


def weights_of(path):
    return dict(load_model(path, CPU)[0].named_parameters())


class Broken(Exception):
    """Raised to interrupt a run."""


def interrupt():
    raise Broken


def test_a_snapshot_is_the_average_after_its_step(tmp_path):
    by_hand = trainer_in(tmp_path / "by_hand")
    for _ in range(5):
        by_hand.advance()
    trainer_in(tmp_path / "run", snapshots=(5, 12)).run()
    path = tmp_path / "run" / "snapshot-5.safetensors"
    card = read_card(path)
    assert (card.step, card.ema_decay) == (5, by_hand.config.ema_decay)
    network, _ = load_model(path, CPU)
    found = dict(network.named_parameters())
    for name, value in by_hand.emas[0].weights().items():
        assert torch.equal(found[name], value), name
    # At the last step the average is the model, so there is no snapshot.
    last, model = (weights_of(tmp_path / "run" / f"{name}.safetensors") for name in ("snapshot-12", "model"))
    assert all(torch.equal(last[name], model[name]) for name in model)


def test_snapshots_do_not_change_the_weights(tmp_path):
    trainer_in(tmp_path / "plain").run()
    trainer_in(tmp_path / "kept", snapshots=(3, 7)).run()
    one, other = (weights_of(tmp_path / name / "model.safetensors") for name in ("plain", "kept"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("step", [5, 6, 7])
def test_an_interrupted_run_has_the_same_snapshots(tmp_path, step):
    trainer_in(tmp_path / "whole", snapshots=(6,)).run()
    trainer = trainer_in(tmp_path / "broken", snapshots=(6,))
    fail_at(trainer, step, interrupt)
    with pytest.raises(Broken):
        trainer.run()
    trainer_in(tmp_path / "broken", snapshots=(6,)).run()
    one, other = (weights_of(tmp_path / name / "snapshot-6.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
