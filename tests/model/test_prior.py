"""Anatomical priors as input of the network."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_networks import (
    COUPLED,
    DATA,
    SEEING,
    SMALL,
    card_of,
    differ,
    inputs,
    randomise,
    small,
    three_maps,
)
from torch.nn import functional as F

from slimdiff.model.blocks import CrossAttention
from slimdiff.model.checkpoint import build_network, load_model, put_priors, save_model
from slimdiff.model.prior import sinusoidal_positions_2d


@torch.no_grad()
@COUPLED
@SEEING
def test_both_outputs_depend_on_the_prior_of_the_sample_s_z_bin(coupling, prior):
    maps = three_maps()
    network = small(coupling=coupling, prior=prior, priors=maps)
    x, time, condition = inputs()
    base = network(x, time, condition)
    changed = maps.copy()
    changed[1, 4:9, 4:9] ^= True
    put_priors(network, changed)
    found = network(x, time, condition)
    # Only sample 1 is of z-bin 1.
    torch.testing.assert_close(found[[0, 2]], base[[0, 2]])
    for modality in (0, 1):
        assert differ(found[1, modality], base[1, modality])


@torch.no_grad()
@COUPLED
@SEEING
def test_a_prior_of_the_sample_replaces_that_of_the_network(coupling, prior):
    maps = three_maps()
    network = small(coupling=coupling, prior=prior, priors=maps)
    x, time, condition = inputs()
    # 1 inside, -1 outside.
    own = torch.from_numpy(np.where(maps, 1.0, -1.0)).float()[:, None]
    torch.testing.assert_close(network(x, time, replace(condition, prior=own)), network(x, time, condition))
    moved = network(x, time, replace(condition, prior=own.roll(1, 0)))
    put_priors(network, np.roll(maps, 1, axis=0))
    torch.testing.assert_close(network(x, time, condition), moved)


@torch.no_grad()
@COUPLED
@pytest.mark.parametrize("prior", ["none", "concat", "cross_attention"])
@pytest.mark.parametrize("patch", [1, 2])
def test_samples_of_a_batch_are_independent_in_every_coupling(coupling, prior, patch):
    network = small(coupling=coupling, prior=prior, patch=patch, priors=three_maps())
    x, time, condition = inputs()
    previous = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    together = network(x, time, condition, previous)
    assert together.shape == x.shape
    alone = [
        network(x[i : i + 1], time[i : i + 1], condition[i : i + 1], previous[i : i + 1])
        for i in range(len(x))
    ]
    torch.testing.assert_close(torch.cat(alone), together)


@SEEING
def test_f9_missing_or_mismatched_priors_are_an_error(prior):
    network = build_network({**SMALL, "prior": prior}, DATA)
    with pytest.raises(ValueError, match=r"model\.prior"):
        put_priors(network, None)
    with pytest.raises(ValueError, match=r"3 z-bins of 16 x 24 px, found shape \(2, 16, 24\)"):
        put_priors(network, three_maps()[:2])
    with pytest.raises(ValueError, match=r"3 z-bins of 16 x 24 px, found shape \(3, 24, 16\)"):
        put_priors(network, three_maps().transpose(0, 2, 1))
    empty = three_maps()
    empty[[0, 2]] = False
    with pytest.raises(ValueError, match="z-bin 0, 2 is empty"):
        put_priors(network, empty)
    # Refused priors leave the buffer unchanged.
    assert not network.priors.maps.any()


def test_a_network_without_a_prior_ignores_priors():
    network = build_network(SMALL, DATA)
    put_priors(network, None)
    put_priors(network, three_maps())
    assert not list(network.buffers(recurse=False))
    assert "priors.maps" not in network.state_dict()


def test_f9_cross_attention_without_its_context_is_an_error():
    with pytest.raises(ValueError, match="prior"):
        CrossAttention(16, 8, 4, context=12)(torch.randn(2, 16, 3, 5))


def heads_of(module, tokens, source):
    """Textbook attention of one sample, one head at a time."""
    width = tokens.shape[1] // module.heads
    mixed = []
    for h in range(module.heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = module.query(tokens)[:, part], module.key(source)[:, part], module.value(source)[:, part]
        mixed.append(torch.softmax(q @ k.T / width**0.5, dim=1) @ v)
    return module.out(torch.cat(mixed, dim=1))


@torch.no_grad()
def test_cross_attention_matches_the_textbook():
    """Self-attention, cross-attention and a GEGLU layer, each after a layer norm and with a residual connection."""
    torch.manual_seed(0)
    layer = CrossAttention(16, 8, 4, context=12)
    randomise(layer)
    x, context = torch.randn(2, 16, 3, 5), torch.randn(2, 7, 12)
    found = layer(x, context)
    for b in range(2):
        normed = F.group_norm(x[b : b + 1], 4, layer.norm.weight, layer.norm.bias, eps=1e-6)[0]
        tokens = torch.stack([normed[:, i, j] for i in range(3) for j in range(5)])
        tokens = tokens @ layer.project_in.weight[:, :, 0, 0].T + layer.project_in.bias
        first, second, third = (
            lambda t, norm=norm: F.layer_norm(t, (16,), norm.weight, norm.bias) for norm in layer.norms
        )
        tokens = tokens + heads_of(layer.attend, first(tokens), first(tokens))
        tokens = tokens + heads_of(layer.cross, second(tokens), context[b])
        wide = layer.feed_forward_in(third(tokens))
        tokens = tokens + layer.feed_forward_out(wide[:, :64] * F.gelu(wide[:, 64:]))
        out = tokens @ layer.project_out.weight[:, :, 0, 0].T + layer.project_out.bias
        for n, (i, j) in enumerate((i, j) for i in range(3) for j in range(5)):
            torch.testing.assert_close(found[b, :, i, j], x[b, :, i, j] + out[n], rtol=1e-4, atol=1e-5)


def test_positions_are_encoded_by_sinusoids_of_row_and_column():
    height, width, channels = 3, 4, 8
    found = sinusoidal_positions_2d(height, width, channels)
    assert found.shape == (height * width, channels)
    for row in range(height):
        for column in range(width):
            expected = []
            for position in (row, column):
                for k in range(channels // 4):
                    angle = position / 10_000 ** (2 * k / (channels // 2))
                    expected += [math.sin(angle), math.cos(angle)]
            assert found[row * width + column].tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_positions_distinguish_the_patches_of_a_uniform_prior():
    """The patches of a full map differ in their position only."""
    network = small(prior="cross_attention", priors=np.ones((3, 16, 24), bool))
    full = torch.ones(1, 1, 16, 24)
    encoder = network.prior_encoder
    places = sinusoidal_positions_2d(2, 3, 256)
    features = encoder.project(encoder.layers(full)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(full), features + places)
    assert torch.pdist(places).min() > 0.1


@torch.no_grad()
@SEEING
def test_a_checkpoint_includes_its_prior_maps(prior, tmp_path):
    network = small(prior=prior, priors=three_maps())
    card = card_of({**SMALL, "prior": prior})
    save_model(tmp_path / "m.safetensors", network.state_dict(), card)
    again, _ = load_model(tmp_path / "m.safetensors", torch.device("cpu"))
    np.testing.assert_array_equal(again.priors.maps.numpy().astype(bool), three_maps())
    assert torch.equal(again(*inputs()), network(*inputs()))
    # Weights without the maps must not load as a network with empty priors.
    save_model(tmp_path / "bare.safetensors", dict(network.named_parameters()), card)
    with pytest.raises(ValueError, match=r"(?s)bare\.safetensors.*priors\.maps"):
        load_model(tmp_path / "bare.safetensors", torch.device("cpu"))
