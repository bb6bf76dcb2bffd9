"""Validation rounds: reproducible numbers, early stopping and selection of weights."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from helpers.tiny_training import (
    CPU,
    PARTICIPANTS,
    assert_same_run,
    fail_at,
    tiny_store,
    trainer_in,
    weights_of,
)

from slimdiff.config.training import ValidationConfig
from slimdiff.files import read_table
from slimdiff.model.checkpoint import load_model
from slimdiff.training import validation
from slimdiff.training.checkpoint import Interrupted
from slimdiff.training.early_stopping import lowest_kid, reason_to_stop
from slimdiff.training.validation import NOISE_BINS

VAL_SUBJECTS = ["sub-3"]
EVERY_4 = {
    "val_participants": VAL_SUBJECTS,
    "validation": ValidationConfig(every=4, samples=6, evaluations=3),
}


@pytest.fixture(autouse=True)
def few_slices(monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_SLICES", 5)


class FixedJudge:
    """A judge that returns given values, one per round, and records the samples."""

    def __init__(self, kids=(3.0, 1.0, 2.0), ratios=None):
        self.answers = list(zip(kids, ratios or [1.0] * len(kids), strict=True))
        self.seen = []

    def __call__(self, images, z_bin):
        self.seen.append((images, z_bin))
        kid, ratio = self.answers[min(len(self.seen), len(self.answers)) - 1]
        return {"kid": kid, "memorisation_ratio": ratio}


def test_the_same_weights_give_the_same_numbers_after_any_draws(tmp_path):
    trainer = trainer_in(tmp_path / "run", **EVERY_4)
    averages = {0.9: trainer.emas[0].weights()}
    first = trainer.validation.round(1, trainer.network, averages, torch.float32)
    for _ in range(3):
        torch.rand(7)
        trainer.advance()
    torch.manual_seed(5)
    before = {0.9: {name: value.clone() for name, value in averages[0.9].items()}}
    second, third = (trainer.validation.round(1, trainer.network, before, torch.float32) for _ in range(2))
    assert second == third
    assert first != second
    # A new trainer gives the same numbers.
    other = trainer_in(tmp_path / "other", **EVERY_4)
    assert other.validation.round(1, other.network, before, torch.float32) == second


@pytest.mark.parametrize("batch_size", [2, 4])
def test_the_losses_are_the_objective_on_val_slices_at_stratified_times(tmp_path, batch_size):
    """Against one sample at a time; slices are identified in the store by their values."""
    trainer = trainer_in(tmp_path / "run", batch_size=batch_size, **EVERY_4)
    store, validation = tiny_store(tmp_path), trainer.validation
    row = validation.round(0, trainer.network, {0.9: trainer.emas[0].weights()}, torch.float32)[0]
    times, losses, seen = [], [], []
    for batch, draws in validation.batches:
        for i in range(len(batch.x0)):
            one = slice(i, i + 1)
            assert draws.self_conditioned == round(len(batch.x0) / 2)
            _, found = trainer.objective.measure(trainer.network, batch[one], draws[one])
            losses.append(found[0].tolist())
            times.append(int(draws.timestep[i]))
            image = batch.x0[i, 0].half().numpy()
            seen.append(next(k for k in range(len(store)) if np.array_equal(store.images[k], image)))
    # Timesteps up to sigma 8 are trained, 0 to 920; five middles of their fifths.
    assert trainer.objective.trained == 921
    assert sorted(times) == [92, 276, 460, 644, 828]
    assert len(set(seen)) == 5 and {store.participant[k] for k in seen} == {"sub-3"}
    image, mask = np.mean(losses, axis=0)
    assert row["loss_image"] == pytest.approx(image, rel=1e-5)
    assert row["loss_mask"] == pytest.approx(mask, rel=1e-5)
    for level in range(NOISE_BINS):
        members = [
            loss for loss, t in zip(losses, times, strict=True) if 250 * level <= t < 250 * (level + 1)
        ]
        assert row[f"loss_image_noise_{level + 1}"] == pytest.approx(np.mean(members, axis=0)[0], rel=1e-5)
    assert row["slices"] == 5


def test_validation_does_not_change_the_weights(tmp_path):
    trainer_in(tmp_path / "plain").run()
    trainer_in(tmp_path / "validated", judge=FixedJudge(), **EVERY_4).run()
    plain, validated = (weights_of(tmp_path / name)[0] for name in ("plain", "validated"))
    assert all(torch.equal(plain[name], validated[name]) for name in plain)
    assert [row["step"] for row in read_table(tmp_path / "validated" / "validation.tsv")] == ["4", "8", "12"]
    assert read_table(tmp_path / "plain" / "validation.tsv") == []


def test_samples_have_the_bins_and_classes_of_val_slices_and_the_same_noise(tmp_path):
    judge = FixedJudge()
    trainer = trainer_in(tmp_path / "run", judge=judge, **EVERY_4)
    trainer.run()
    store = tiny_store(tmp_path)
    condition = trainer.validation.condition
    pairs = set(
        zip(store.z_bin[store.participant == "sub-3"], store.label[store.participant == "sub-3"], strict=True)
    )
    assert set(zip(condition.z_bin.tolist(), condition.label.tolist(), strict=True)) <= pairs
    assert len(judge.seen) == 3
    for images, z_bin in judge.seen:
        assert images.shape == (6, 8, 8) and np.abs(images).max() <= 1
        np.testing.assert_array_equal(z_bin, condition.z_bin.numpy())
    again = trainer.preview_sampler.draw(trainer.emas[0].weights(), condition, 3, 4, torch.float32)[
        :, 0
    ].clip(-1, 1)
    np.testing.assert_array_equal(judge.seen[-1][0], again)
    assert not np.array_equal(judge.seen[0][0], again)


@pytest.mark.parametrize("at", [6, 8, 9])
def test_an_interrupted_run_has_the_same_rounds_and_best_weights(tmp_path, at):
    """Stopped between rounds, at the step of a round, and after it."""
    chosen = ValidationConfig(every=4, samples=6, evaluations=3, select="kid")
    settings = {"val_participants": VAL_SUBJECTS, "validation": chosen, "further_ema_decays": (0.5,)}

    def judge(images, z_bin):
        return {"kid": float(np.abs(images).mean()), "memorisation_ratio": 1.0}

    trainer_in(tmp_path / "whole", judge=judge, **settings).run()
    broken = trainer_in(tmp_path / "run", judge=judge, **settings)
    fail_at(broken, at - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        broken.run()
    trainer_in(tmp_path / "run", judge=judge, **settings).run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    tables = [read_table(tmp_path / name / "validation.tsv") for name in ("whole", "run")]
    assert tables[0] == tables[1] and len(tables[0]) == 6


def test_the_lowest_kid_is_selected_over_rounds_and_decays(tmp_path):
    chosen = ValidationConfig(every=4, samples=6, evaluations=3, select="kid")
    # Rounds at steps 4, 8 and 12, each with decays 0.9 and 0.5: the fourth value is step 8, decay 0.5.
    judge = FixedJudge(kids=(5.0, 4.0, 3.0, 1.0, 2.0, 2.0))
    kept = {}
    trainer = trainer_in(
        tmp_path / "run",
        val_participants=VAL_SUBJECTS,
        validation=chosen,
        judge=judge,
        further_ema_decays=(0.5,),
    )
    advance = trainer.advance

    def advance_and_keep():
        advance()
        kept[trainer.step] = {
            ema.decay: {name: value.clone() for name, value in ema.weights().items()} for ema in trainer.emas
        }

    trainer.advance = advance_and_keep
    trainer.run()
    weights, card = weights_of(tmp_path / "run")
    assert (card.step, card.ema_decay) == (8, 0.5)
    assert all(torch.equal(weights[name], kept[8][0.5][name]) for name in weights)
    further, card = load_model(tmp_path / "run" / "ema-0.5.safetensors", CPU)
    assert (card.step, card.ema_decay) == (12, 0.5)
    assert all(torch.equal(value, kept[12][0.5][name]) for name, value in further.named_parameters())
    marked = [
        (row["step"], row["ema_decay"])
        for row in read_table(tmp_path / "run" / "validation.tsv")
        if row["best"] == "1"
    ]
    assert marked == [("4", "0.5"), ("8", "0.5")]


def test_early_stopping_saves_the_model_and_the_last_row(tmp_path, capsys):
    impatient = ValidationConfig(every=2, samples=6, evaluations=3, patience=2)
    judge = FixedJudge(kids=(3.0, 1.0, 1.5, 1.2, 0.5, 0.4))
    trainer = trainer_in(
        tmp_path / "run", val_participants=VAL_SUBJECTS, validation=impatient, judge=judge, log_every=3
    )
    trainer.run()
    assert trainer.step == 8
    assert "stopped early after step 8: no KID below 1 in 2 consecutive rounds" in capsys.readouterr().err
    _, card = weights_of(tmp_path / "run")
    assert card.step == 8
    # The steps after the last full row have a row, too.
    assert [row["step"] for row in read_table(tmp_path / "run" / "history.tsv")] == ["3", "6", "8"]
    assert card.training_run["steps"] == 8


def rounds(kids, ratios=None):
    ratios = ratios or [1.0] * len(kids)
    return [
        {"step": i, "ema_decay": 0.9, "kid": kid, "memorisation_ratio": ratio}
        for i, (kid, ratio) in enumerate(zip(kids, ratios, strict=True))
    ]


@pytest.mark.parametrize(
    ("kids", "patience", "stops"),
    [
        ([3, 2, 1], 1, False),
        ([3, 2, 2], 1, True),
        ([3, 2, 2.5, 2.2], 2, True),
        ([3, 2, 2.5, 1.9], 2, False),
        ([3, 2], 2, False),
        ([3, 3, 3, 3], 0, False),
        # The first KID has no earlier KID to compare with.
        ([math.nan, math.nan, 3], 1, False),
    ],
)
def test_patience(kids, patience, stops):
    assert bool(reason_to_stop(rounds(kids), ValidationConfig(patience=patience))) == stops


@pytest.mark.parametrize(
    ("ratios", "stops"),
    [
        ([1, 0.7, 0.75], True),
        ([0.7, 1, 0.7], False),
        ([1, 1, 0.7], False),
        ([0.7], False),
        ([1, 0.7, math.nan], False),
    ],
)
def test_training_stops_at_memorisation(ratios, stops):
    rows = rounds([1.0] * len(ratios), ratios)
    assert bool(reason_to_stop(rows, ValidationConfig(lowest_ratio=0.8))) == stops
    assert reason_to_stop(rows, ValidationConfig()) is None


def test_training_continues_while_one_average_does_not_memorise():
    rows = rounds([1.0, 1.0], [0.7, 0.7]) + [
        dict(row, ema_decay=0.99, memorisation_ratio=0.9) for row in rounds([1, 1])
    ]
    assert reason_to_stop(rows, ValidationConfig(lowest_ratio=0.8)) is None


def test_weights_that_memorise_are_never_selected():
    rows = rounds([1.0, 2.0, math.nan], [0.7, 0.9, 1.0])
    assert lowest_kid(rows, ValidationConfig(lowest_ratio=0.8))["kid"] == 2.0
    assert lowest_kid(rows, ValidationConfig())["kid"] == 1.0
    assert lowest_kid(rows[2:], ValidationConfig()) is None


def test_stopping_and_selection_require_samples():
    for settings in ({"patience": 2}, {"select": "kid"}, {"lowest_ratio": 0.9}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} requires samples"):
            ValidationConfig(samples=0, **settings)
        ValidationConfig(**settings)


def test_without_validation_subjects_the_last_weights_are_used_with_a_message(tmp_path, capsys):
    trainer = trainer_in(tmp_path / "run", validation=ValidationConfig(select="kid"))
    trainer.run()
    assert weights_of(tmp_path / "run")[1].step == 12
    assert "no validation round has a KID: the last weights are used" in capsys.readouterr().err
    assert set(PARTICIPANTS).isdisjoint(VAL_SUBJECTS)
