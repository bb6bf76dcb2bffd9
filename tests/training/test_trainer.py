"""The training loop: its data, its optimiser, its checkpoint, and resuming after an interruption."""

import json
import math
import os
import re
import signal

import numpy as np
import pytest
import torch
from helpers.tiny_training import (
    CPU,
    DATA_SPEC,
    EVERYTHING,
    MODEL,
    PARTICIPANTS,
    TRAINING,
    assert_same_run,
    fail_at,
    tiny_store,
    weights_of,
)

from slimdiff.config.diffusion import DiffusionConfig, LossConfig
from slimdiff.config.training import AugmentationConfig
from slimdiff.data.folds import read_folds
from slimdiff.files import read_table
from slimdiff.model.checkpoint import build_network, load_model
from slimdiff.training import optimiser as optimiser_module
from slimdiff.training.checkpoint import Interrupted, StateMismatch, TrainingFailed, load_state, save_state
from slimdiff.training.trainer import Trainer


@pytest.fixture
def make(tmp_path):
    def trainer(
        folder="run",
        diffusion=None,
        model=MODEL,
        store=None,
        participants=PARTICIPANTS,
        priors=None,
        **changes,
    ):
        return Trainer(
            model,
            diffusion or DiffusionConfig(),
            TRAINING.model_copy(update=changes),
            store or tiny_store(tmp_path),
            participants,
            tmp_path / folder,
            {"study": "tiny", "variant": "base", "fold": 0},
            priors,
        )

    return trainer


def test_training_uses_no_slice_of_val_or_test_participants(prepared, store, tmp_path):
    for fold in range(prepared.folds.k):
        parts = read_folds(prepared.paths.folds, fold)
        trainer = Trainer(
            prepared.model,
            prepared.diffusion,
            prepared.training,
            store,
            parts["train"],
            tmp_path,
            {"fold": fold},
        )
        trained = {row.numpy().tobytes() for row in trainer.set.slices.images}
        for i, name in enumerate(store.participant):
            key = store.images[i].tobytes()
            assert (key in trained) == (name in parts["train"])


def test_f6_the_checkpoint_s_weights_are_the_ema_weights(make, tmp_path):
    trainer = make()
    trainer.run()
    saved, card = weights_of(tmp_path / "run")
    averages = trainer.emas[0].weights()
    raw = dict(trainer.network.named_parameters())
    assert set(saved) == set(averages)
    assert all(torch.equal(saved[name], averages[name]) for name in saved)
    assert any(not torch.equal(saved[name], raw[name]) for name in saved)
    assert (card.step, card.study, card.variant, card.fold) == (12, "tiny", "base", 0)
    assert card.data.bin_centres == [0.5, 1.5, 2.5]


def test_the_same_seed_gives_the_same_model(make, tmp_path):
    make("a").run()
    torch.rand(5)
    make("b").run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    make("c", seed=1).run()
    heads = [weights_of(tmp_path / run)[0]["trunk.decoder.head.weight"] for run in "ac"]
    assert not torch.equal(*heads)


@pytest.mark.parametrize(("log_every", "save_every"), [(2, 4), (4, 3), (5, 2)])
def test_f5_an_interrupted_run_resumes_bit_for_bit(make, tmp_path, log_every, save_every):
    settings = {"log_every": log_every, "save_every": save_every}
    make("whole", **settings).run()
    broken = make("broken", **settings)

    def crash():
        raise MemoryError("pulled the plug")

    fail_at(broken, 8, crash)
    with pytest.raises(MemoryError):
        broken.run()
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    again = make("broken", **settings)
    again.run()
    assert again.step == 12
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_f5_a_run_with_all_options_resumes_bit_for_bit(make, tmp_path):
    make("whole", **EVERYTHING).run()
    broken = make("broken", **EVERYTHING)
    fail_at(broken, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        broken.run()
    make("broken", **EVERYTHING).run()
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    rows = read_table(tmp_path / "broken" / "history.tsv")
    learned = [float(rows[-1][f"log_variance_{term}"]) for term in range(3)]
    assert all(abs(value) > 1e-4 for value in learned)
    network, card = load_model(tmp_path / "broken" / "model.safetensors", CPU)
    assert (network.priors.maps.numpy() == EVERYTHING["priors"]).all()
    assert card.data.acquisitions == ["T2sel", "tse3dvfl"]


def test_a_state_with_other_priors_is_refused(make):
    broken = make(**EVERYTHING)
    fail_at(broken, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        broken.run()
    with pytest.raises(StateMismatch, match="priors"):
        make(**{**EVERYTHING, "priors": np.ones((3, 8, 8), bool)}).run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_f5_a_signal_saves_the_step_it_arrives_at(make, tmp_path, number):
    make("whole").run()
    stopped = make("stopped", save_every=1000)
    before = signal.getsignal(number)
    fail_at(stopped, 6, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as caught:
        stopped.run()
    assert caught.value.signum == number
    assert signal.getsignal(number) is before
    # The state is that of the step of the signal.
    again = make("stopped", save_every=1000)
    state = load_state(again.state_path, again.identity)
    assert state["step"] == stopped.step == 7
    again.run()
    whole, stopped = (weights_of(tmp_path / name)[0] for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.parametrize(("keep_state", "left"), [(True, ["last.pt"]), (False, [])])
def test_a_finished_run_leaves_its_own_state_if_the_study_keeps_it(make, tmp_path, keep_state, left):
    make(keep_state=keep_state).run()
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == left
    assert (tmp_path / "run" / "previews" / "final.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-5}, ("training.learning_rate", "0.002", "1e-05")),
        ({"steps": 20}, ("training.steps", "12", "20")),
        ({"participants": ["sub-0", "sub-1"]}, ("participants", "sub-2")),
        (
            {"diffusion": DiffusionConfig(loss=LossConfig(p_image=2.0))},
            ("diffusion.loss.p_image", "1.5", "2.0"),
        ),
        ({"model": MODEL.model_copy(update={"res_blocks": 2})}, ("model.res_blocks",)),
        ({"model": MODEL.model_copy(update={"coupling": "independent"})}, ("model.coupling", "shared")),
        (
            {"diffusion": DiffusionConfig(loss=LossConfig(uncertainty="groups"))},
            ("diffusion.loss.uncertainty", "none", "groups"),
        ),
        (
            {"augmentation": AugmentationConfig(probability=0.2)},
            ("training.augmentation.probability", "0.0", "0.2"),
        ),
    ],
)
def test_a_state_of_another_run_is_refused_with_the_difference(make, tmp_path, changes, named):
    broken = make()
    fail_at(broken, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        broken.run()
    kept = (tmp_path / "run" / "state" / "last.pt").read_bytes()
    with pytest.raises(StateMismatch) as caught:
        make(**changes).run()
    for part in (*named, "last.pt", "delete"):
        assert part in str(caught.value)
    assert (tmp_path / "run" / "state" / "last.pt").read_bytes() == kept
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_state_of_other_data_is_refused(make, tmp_path):
    broken = make()
    fail_at(broken, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        broken.run()
    other = tiny_store(tmp_path)
    other.facts["sha256"]["masks"] = "d" * 64
    with pytest.raises(StateMismatch, match="data_hash"):
        make(store=other).run()


def test_a_state_holds_no_code(tmp_path):
    """It is loaded with weights_only, so it cannot run code."""

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"identity": "{}", "evil": Evil()}, tmp_path / "s.pt")
    with pytest.raises(Exception, match="more than tensors and plain values"):
        load_state(tmp_path / "s.pt", {})
    assert not (tmp_path / "owned").exists()
    save_state(tmp_path / "ok.pt", {"step": 3}, {"a": [1, (2, 3)]})
    assert load_state(tmp_path / "ok.pt", {"a": [1, [2, 3]]}) == {"step": 3}


def test_zero_steps_save_the_untrained_network(make, tmp_path):
    make(steps=0).run()
    saved, card = weights_of(tmp_path / "run")
    torch.manual_seed(TRAINING.seed)
    fresh = dict(build_network(MODEL.settings(), DATA_SPEC).named_parameters())
    assert all(torch.equal(saved[name], fresh[name]) for name in fresh)
    assert card.step == 0
    assert read_table(tmp_path / "run" / "history.tsv") == []


@pytest.mark.parametrize(("log_every", "save_every"), [(2, 3), (10, 2), (12, 3)])
def test_a_nan_loss_stops_the_run_and_is_not_saved(make, tmp_path, log_every, save_every):
    trainer = make(log_every=log_every, save_every=save_every)
    trainer.threads.count = 1
    loss = trainer.shared_loss

    def nonfinite(batch, noise):
        # A NaN loss has NaN gradients.
        factor = math.nan if trainer.step >= 4 else 1.0
        total, terms, by_noise = loss(batch, noise)
        return total * factor, terms * factor, by_noise

    trainer.shared_loss = nonfinite
    with pytest.raises(TrainingFailed) as caught:
        trainer.run()
    assert "loss nan" in str(caught.value)
    assert "at step 4, whose batch was sub-" in str(caught.value)
    batch, _ = trainer.prepare(4, trainer.objective, trainer.network)
    drawn = batch.condition.z_bin.tolist()
    named = [int(text) for text in re.findall(r"sub-[012] z=(\d)", str(caught.value))]
    assert named == drawn  # in this store the z of a slice is its z-bin
    assert not (tmp_path / "run" / "model.safetensors").exists()
    state = load_state(trainer.state_path, trainer.identity)
    assert state["step"] <= 4
    assert all(value.isfinite().all() for value in state["network"].values())
    # The run can resume from this state.
    make(log_every=log_every, save_every=save_every).run()
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_learning_rate_warms_up_and_falls_as_a_cosine(make, tmp_path, monkeypatch):
    monkeypatch.setattr(optimiser_module, "FINAL_LEARNING_RATE", 1e-4)
    make(steps=20, warmup_steps=5, log_every=1, rate_decay="cosine").run()
    rows = read_table(tmp_path / "run" / "history.tsv")
    for step, row in enumerate(rows):
        if step < 5:
            expected = 2e-3 * (step + 1) / 5
        else:
            expected = 1e-4 + (2e-3 - 1e-4) * (1 + math.cos(math.pi * (step - 5) / 15)) / 2
        assert float(row["learning_rate"]) == pytest.approx(expected, rel=1e-6)


def test_the_rate_falls_linearly_to_0(make, tmp_path):
    make(steps=20, warmup_steps=5, log_every=1).run()
    rates = [float(row["learning_rate"]) for row in read_table(tmp_path / "run" / "history.tsv")]
    assert rates == pytest.approx([2e-3 * min((step + 1) / 5, (20 - step) / 15) for step in range(20)])


def test_the_step_is_clipped_adamw(make, tmp_path, monkeypatch):
    """Three steps against AdamW in float64. The first is clipped by a factor above 100, the others by less, so that
    moments of unclipped gradients would differ. The weight decay is large enough to matter."""
    clip, decay, rate = 0.05, 3.0, 0.01
    monkeypatch.setattr(optimiser_module, "GRADIENT_CLIP", clip)
    monkeypatch.setattr(optimiser_module, "WEIGHT_DECAY", decay)
    trainer = make(steps=1000, learning_rate=rate, optimiser="adamw", rate_decay="cosine")
    parameters = dict(trainer.network.named_parameters())
    expected = {name: p.detach().double() for name, p in parameters.items()}
    first, second = ({name: torch.zeros_like(p) for name, p in expected.items()} for _ in range(2))
    norms = []
    for step in range(3):
        total, _, _ = trainer.loss(*trainer.prepare(step, trainer.objective, trainer.network))
        gradients = torch.autograd.grad(total * (100 if step == 0 else 1), list(parameters.values()))
        norms.append(math.sqrt(sum(g.double().square().sum().item() for g in gradients)))
        lr = 1e-6 + (rate - 1e-6) * (1 + math.cos(math.pi * step / 1000)) / 2
        for (name, value), g in zip(expected.items(), gradients, strict=True):
            g = g.double() * clip / (norms[-1] + 1e-6)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m, v = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            expected[name] = value * (1 - lr * decay) - lr * m / (v.sqrt() + 1e-8)
        trainer.advance()
        after = math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters.values()))
        assert after == pytest.approx(clip, rel=1e-4)
        # Gradients at rounding level have an arbitrary direction.
        clear = {name: (second[name].sqrt() > 1e-7) for name in expected}
        for name, value in expected.items():
            found = parameters[name].detach().double()
            torch.testing.assert_close(found[clear[name]], value[clear[name]], rtol=1e-4, atol=2e-5)
            expected[name] = found
    assert norms[0] > 100 * clip and min(norms) > clip


def test_previews_are_written_and_do_not_change_the_weights(make, tmp_path):
    make("plain").run()
    make("shown", preview_every=4).run()
    names = sorted(path.name for path in (tmp_path / "shown" / "previews").iterdir())
    assert names == ["final.png", "step-0000004.png", "step-0000008.png"]
    plain, shown = (weights_of(tmp_path / name)[0] for name in ("plain", "shown"))
    assert all(torch.equal(plain[name], shown[name]) for name in plain)


def test_the_card_records_training_data_and_precision(make, tmp_path):
    make().run()
    _, card = weights_of(tmp_path / "run")
    assert card.training == json.loads(TRAINING.model_dump_json())
    assert card.data_hash == "-".join(letter * 16 for letter in "abc")
    assert card.precision == "float32"
