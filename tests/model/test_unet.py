"""The network: its inputs and outputs, and its checkpoint."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from helpers.tiny_networks import DATA, SMALL, card_of
from safetensors.torch import save_file
from torch.nn import functional as F

from slimdiff.model.blocks import SelfAttention, sinusoid
from slimdiff.model.checkpoint import build_network, load_model, read_card, save_model
from slimdiff.model.conditioning import Condition


def small(seed=0, **changes):
    """A small network without zero weights."""
    torch.manual_seed(seed)
    network = build_network({**SMALL, **changes}, DATA)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return network.eval()


def inputs(batch=3, height=16, width=24):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((batch, 2, height, width), generator=generator)
    return (
        x,
        torch.tensor([5.0, 300.0, 999.0])[:batch],
        Condition(torch.tensor([0, 1, 2])[:batch], torch.tensor([0, 1, 0])[:batch]),
    )


@torch.no_grad()
def test_untrained_network_outputs_zero():
    network = build_network(SMALL, DATA)
    assert not network(*inputs()).any()


@torch.no_grad()
def test_every_input_matters():
    network = small()
    x, time, condition = inputs()
    previous = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    base = network(x, time, condition)
    assert base.shape == x.shape
    changes = {
        "noisy input": (x.roll(1, 0), time, condition, None),
        "time": (x, time + 1, condition, None),
        "bin": (x, time, replace(condition, z_bin=(condition.z_bin + 1) % 3), None),
        "class": (x, time, replace(condition, label=1 - condition.label), None),
        "previous estimate": (x, time, condition, previous),
    }
    for name, changed in changes.items():
        assert (network(*changed) - base).abs().max() > 1e-5, name


@torch.no_grad()
def test_position_alone_distinguishes_z_bins():
    network = small()
    network.condition.bins.weight.zero_()
    x, time, condition = inputs()
    other = replace(condition, z_bin=(condition.z_bin + 1) % 3)
    assert (network(x, time, condition) - network(x, time, other)).abs().max() > 1e-6


@torch.no_grad()
def test_a_missing_previous_estimate_is_zeros():
    network = small()
    x, *rest = inputs()
    torch.testing.assert_close(network(x, *rest), network(x, *rest, torch.zeros_like(x)), rtol=0, atol=0)


@torch.no_grad()
def test_without_self_conditioning_the_previous_estimate_is_ignored():
    network = small(self_conditioning=False)
    x, *rest = inputs()
    torch.testing.assert_close(network(x, *rest), network(x, *rest, x), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_samples_of_a_batch_are_independent(patch):
    network = small(patch=patch)
    x, time, condition = inputs()
    together = network(x, time, condition)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(network(x[order], time[order], condition[order]), together[order])
    alone = torch.cat([network(x[i : i + 1], time[i : i + 1], condition[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, together)


@torch.no_grad()
@pytest.mark.parametrize("patch", [2, 4])
def test_patch_stem_keeps_pixel_positions(patch):
    """With stem and head that copy channels, and no blocks in between, the network is the identity."""
    network = small(patch=patch, channels=(32,), attention=(False,), self_conditioning=False)
    x, *rest = inputs()
    squares = F.pixel_unshuffle(x, patch)
    # Channel c * patch^2 + i * patch + j of a patch is its pixel (i, j).
    for c, i, j in ((0, 0, 0), (1, 1, 0), (1, 0, patch - 1)):
        torch.testing.assert_close(squares[:, c * patch**2 + i * patch + j], x[:, c, i::patch, j::patch])
    count = 2 * patch**2
    network.trunk.encoder.stem.weight.zero_()
    network.trunk.encoder.stem.bias.zero_()
    network.trunk.decoder.head.weight.zero_()
    network.trunk.decoder.head.bias.zero_()
    for channel in range(count):
        network.trunk.encoder.stem.weight[channel, channel, 1, 1] = 1
        network.trunk.decoder.head.weight[channel, channel, 1, 1] = 1
    captured = {}
    network.trunk.encoder.stem.register_forward_hook(lambda m, i, o: captured.update(stem=o))
    network.trunk.decoder.head.register_forward_pre_hook(lambda m, i: (captured["stem"],))
    torch.testing.assert_close(network(x, *rest), x)


def test_sinusoids_match_the_formula():
    found = sinusoid(torch.tensor([0.0, 3.0, 750.5]), 8)
    for row, position in zip(found.tolist(), (0.0, 3.0, 750.5), strict=True):
        angles = torch.tensor([position / 10_000 ** (k / 4) for k in range(4)], dtype=torch.float64)
        expected = torch.cat([angles.cos(), angles.sin()]).float()
        torch.testing.assert_close(torch.tensor(row), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_matches_the_textbook():
    torch.manual_seed(0)
    layer = SelfAttention(16, 8, 4)
    x = torch.randn(2, 16, 3, 5)
    normed = F.group_norm(x, 4, layer.norm.weight, layer.norm.bias, eps=1e-6)
    expected = torch.zeros_like(x)
    for b in range(2):
        tokens = torch.stack([normed[b, :, i, j] for i in range(3) for j in range(5)])
        heads = []
        for h in range(2):
            q, k, v = (
                m(tokens)[:, 8 * h : 8 * h + 8]
                for m in (layer.attend.query, layer.attend.key, layer.attend.value)
            )
            heads.append(torch.softmax(q @ k.T / 8**0.5, dim=1) @ v)
        mixed = layer.attend.out(torch.cat(heads, dim=1))
        for n, (i, j) in enumerate((i, j) for i in range(3) for j in range(5)):
            expected[b, :, i, j] = x[b, :, i, j] + mixed[n]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


CARD = card_of(SMALL)


@torch.no_grad()
def test_a_checkpoint_restores_network_and_card(tmp_path):
    network = small(seed=4)
    path = tmp_path / "deep" / "model.safetensors"
    save_model(path, dict(network.named_parameters()), CARD)
    again, card = load_model(path, torch.device("cpu"))
    assert card == CARD == read_card(path)
    assert not again.training
    torch.testing.assert_close(again(*inputs()), network(*inputs()), rtol=0, atol=0)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        read_card(tmp_path / "gone.safetensors")
    for name, content in (
        ("a.safetensors", b"hello"),
        ("b.safetensors", b""),
        ("c.safetensors", b"\xff" * 64),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.*not a safetensors file"):
            read_card(tmp_path / name)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match=r"foreign.*model card"):
        load_model(foreign, torch.device("cpu"))
    later = replace(CARD, format=99)
    save_file({"w": torch.zeros(2)}, foreign, metadata={"slimdiff": json.dumps(asdict(later))})
    with pytest.raises(ValueError, match="format 99"):
        load_model(foreign, torch.device("cpu"))


def test_a_checkpoint_whose_weights_do_not_fit_is_refused_by_name(tmp_path):
    path = tmp_path / "odd.safetensors"
    save_model(path, {"stem.weight": torch.zeros(2)}, CARD)
    with pytest.raises(ValueError, match=r"odd\.safetensors"):
        load_model(path, torch.device("cpu"))


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    path = tmp_path / "half.safetensors"
    save_model(path, dict(small().named_parameters()), CARD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        load_model(path, torch.device("cpu"))
