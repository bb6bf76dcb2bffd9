"""Published checkpoints as they are saved in practice: compiled, or in the wrappers of several devices."""

import pytest
import torch
from helpers.published_checkpoints import configuration, reference_without_wheel

from slimdiff.cli import import_
from slimdiff.model.checkpoint import load_model

CONFIG = configuration(self_conditioning=False)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a network of the published code, by the names within it."""
    return reference_without_wheel(self_conditioning=False).model.state_dict()


def within(name: str, wrapper: str) -> str:
    """The name of a weight where a block in the network is wrapped."""
    return name.replace("down_blocks.0.", f"down_blocks.0.{wrapper}.", 1)


NAMES = {
    "compiled": lambda name: f"model._orig_mod.{name}",
    "compiled as a whole": lambda name: f"_orig_mod.model.{name}",
    "on several devices": lambda name: f"module.model.{name}",
    "compiled on several devices": lambda name: f"model.module._orig_mod.{name}",
    "several devices of a compiled one": lambda name: f"_orig_mod.module.model.{name}",
    "a compiled block": lambda name: f"model.{within(name, '_orig_mod')}",
    "sharded": lambda name: f"_fsdp_wrapped_module.model.{within(name, '_fsdp_wrapped_module')}",
}


def imported(folder, state: dict, averaged: dict, callback: bool) -> dict[str, torch.Tensor]:
    content = {"state_dict": state, "hyper_parameters": CONFIG, "global_step": 5}
    content |= {"callbacks": {"EMA": {"ema": averaged}}} if callback else {"ema_state_dict": averaged}
    folder.mkdir()
    torch.save(content, folder / "x.ckpt")
    out = folder / "model.safetensors"
    assert import_(["--ckpt", str(folder / "x.ckpt"), "--out", str(out)]) == 0
    return load_model(out, torch.device("cpu"))[0].state_dict()


@pytest.mark.parametrize("callback", [False, True], ids=["exported", "callback"])
@pytest.mark.parametrize("kind", NAMES)
def test_a_wrapped_checkpoint_is_the_same_network(weights, tmp_path, kind, callback):
    last = {name: value + 1 for name, value in weights.items()}
    bare = imported(tmp_path / "bare", {f"model.{name}": v for name, v in last.items()}, weights, callback)
    renamed = {NAMES[kind](name): value for name, value in last.items()}
    # The averages have the names of the network, without the prefix of the module that holds it.
    averaged = {NAMES[kind](name).replace("model.", "", 1): value for name, value in weights.items()}
    wrapped = imported(tmp_path / "wrapped", renamed, averaged, callback)
    assert wrapped.keys() == bare.keys()
    for name, value in bare.items():
        assert torch.equal(value, wrapped[name]), name


def test_a_weight_that_is_there_with_and_without_a_wrapper_is_refused(weights, tmp_path, capsys):
    state = {f"model.{name}": value for name, value in weights.items()}
    state["model._orig_mod.conv_in.conv.bias"] = weights["conv_in.conv.bias"] + 1
    torch.save({"state_dict": state, "hyper_parameters": CONFIG}, tmp_path / "x.ckpt")
    out = tmp_path / "model.safetensors"
    assert import_(["--ckpt", str(tmp_path / "x.ckpt"), "--out", str(out), "--raw"]) == 2
    said = capsys.readouterr().err
    assert "x.ckpt" in said and "model.conv_in.conv.bias is duplicate" in said
    assert not out.exists()
