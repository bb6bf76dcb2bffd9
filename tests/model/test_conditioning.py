"""What a network is told beside the noisy pair, where it expects the brain, and how image and mask are coupled."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slimdiff.config.model import ModelConfig
from slimdiff.model.blocks import CrossAttention
from slimdiff.model.build import DataSpec, ModelCard, build_network, load_model, put_priors, save_model
from slimdiff.model.conditioning import Condition, Conditioning
from slimdiff.model.couplings import COUPLINGS, ParallelMiddle
from slimdiff.model.prior import sinusoidal_positions_2d
from slimdiff.model.trunk import TrunkSpec

SMALL = ModelConfig(
    channels=(16, 32), res_blocks=1, attention=(False, True), head_channels=16, norm_groups=8
).settings()
DATA = DataSpec(size=(16, 24), n_bins=3, bin_centres=[12.6, 16.0, 19.3])
TWO_PROTOCOLS = replace(DATA, acquisitions=["one", "other"], acquisition_counts=[[1, 1], [1, 1]])
SEEING = pytest.mark.parametrize("prior", ["concat", "cross_attention"])
COUPLED = pytest.mark.parametrize("coupling", COUPLINGS)


def three_maps(seed=0):
    return np.random.default_rng(seed).random((3, 16, 24)) < 0.5


def small(data=DATA, priors=None, **changes):
    """A small network with nothing left at zero."""
    torch.manual_seed(0)
    network = build_network({**SMALL, **changes}, data)
    if priors is not None:
        put_priors(network, priors)
    randomise(network)
    return network.eval()


@torch.no_grad()
def randomise(module):
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.1)


def inputs(**told):
    generator = torch.Generator().manual_seed(0)
    condition = Condition(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0]), **told)
    return torch.randn((3, 2, 16, 24), generator=generator), torch.tensor([5.0, 300.0, 999.0]), condition


def differ(one, other):
    return bool((one - other).abs().max() > 1e-5)


@torch.no_grad()
def test_a_withheld_condition_is_neither_position_nor_class():
    network = small(TWO_PROTOCOLS, null_token=True, acquisition=True)
    x, time, told = inputs(acquisition=torch.tensor([0, 1, 0]))
    free = told.unconditional()
    base = network(x, time, free)
    for change in (
        {"z_bin": (told.z_bin + 1) % 3},
        {"label": 1 - told.label},
    ):
        assert torch.equal(network(x, time, replace(free, **change)), base)
        assert differ(network(x, time, replace(told, **change)), network(x, time, told))
    assert differ(network(x, time, replace(free, acquisition=1 - told.acquisition)), base)
    assert differ(network(x, time, told), base)


@torch.no_grad()
def test_only_the_samples_marked_are_withheld():
    network = small(null_token=True)
    x, time, told = inputs()
    marked = torch.tensor([False, True, False])
    found = network(x, time, replace(told, null=marked))
    given, withheld = network(x, time, told), network(x, time, told.unconditional())
    torch.testing.assert_close(found, torch.where(marked.view(-1, 1, 1, 1), withheld, given))
    torch.testing.assert_close(network(x, time, replace(told, null=torch.zeros(3, dtype=torch.bool))), given)


def test_withholding_wants_a_null_token():
    x, time, told = inputs()
    with pytest.raises(ValueError, match=r"model\.null_token"):
        small()(x, time, told.unconditional())


@torch.no_grad()
def test_the_acquisition_matters_and_is_wanted():
    network = small(TWO_PROTOCOLS, acquisition=True)
    x, time, told = inputs()
    outputs = [network(x, time, replace(told, acquisition=torch.full((3,), name))) for name in (0, 1)]
    for one, other in zip(*outputs, strict=True):
        assert differ(one, other)
    with pytest.raises(ValueError, match="acquisition"):
        network(x, time, told)


@torch.no_grad()
def test_without_the_setting_the_acquisition_is_not_looked_at():
    network = small(TWO_PROTOCOLS)
    x, time, told = inputs()
    told_more = replace(told, acquisition=torch.tensor([0, 1, 0]))
    assert torch.equal(network(x, time, told_more), network(x, time, told))


@torch.no_grad()
def test_labels_of_an_untouched_sample_are_no_labels():
    network = small(replace(DATA, augmentations=4))
    x, time, told = inputs()
    base = network(x, time, told)
    assert torch.equal(network(x, time, replace(told, augmentation=torch.zeros(3, 4))), base)
    for label in range(4):
        labels = torch.zeros(3, 4)
        labels[1, label] = 0.5
        found = network(x, time, replace(told, augmentation=labels))
        assert differ(found[1], base[1]), label
        torch.testing.assert_close(found[[0, 2]], base[[0, 2]])


@torch.no_grad()
def test_the_condition_s_vector_is_the_formula():
    torch.manual_seed(0)
    module = Conditioning(3, [12.6, 16.0, 19.3], 8, null_token=True, acquisitions=2, augmentations=4)
    labels = torch.randn(3, 4)
    null = torch.tensor([False, True, False])
    told = Condition(torch.tensor([2, 0, 0]), torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1]), labels, null)
    for row, found in enumerate(module(told)):
        z_bin, label = told.z_bin[row], told.label[row]
        angles = [[12.0, 16.0, 19.0][z_bin] / 10_000 ** (k / 4) for k in range(4)]
        sinusoid = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)])
        z = module.position(torch.cat([module.bins.weight[z_bin], sinusoid]))
        c = module.null if null[row] else module.merge(torch.cat([module.classes.weight[label], z]))
        c = c + module.acquisitions.weight[told.acquisition[row]] + module.augmentations.weight @ labels[row]
        torch.testing.assert_close(found, c, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@COUPLED
@SEEING
def test_both_outputs_look_at_the_prior_of_the_sample_s_bin(coupling, prior):
    maps = three_maps()
    network = small(coupling=coupling, prior=prior, priors=maps)
    x, time, told = inputs()
    base = network(x, time, told)
    changed = maps.copy()
    changed[1, 4:9, 4:9] ^= True
    put_priors(network, changed)
    found = network(x, time, told)
    # Only sample 1 is of bin 1.
    torch.testing.assert_close(found[[0, 2]], base[[0, 2]])
    for modality in (0, 1):
        assert differ(found[1, modality], base[1, modality])


@torch.no_grad()
@COUPLED
@SEEING
def test_a_prior_of_the_sample_s_own_takes_the_place_of_the_network_s(coupling, prior):
    maps = three_maps()
    network = small(coupling=coupling, prior=prior, priors=maps)
    x, time, told = inputs()
    # Written out: 1 inside, -1 outside.
    own = torch.from_numpy(np.where(maps, 1.0, -1.0)).float()[:, None]
    torch.testing.assert_close(network(x, time, replace(told, prior=own)), network(x, time, told))
    moved = network(x, time, replace(told, prior=own.roll(1, 0)))
    put_priors(network, np.roll(maps, 1, axis=0))
    torch.testing.assert_close(network(x, time, told), moved)


@torch.no_grad()
@COUPLED
@pytest.mark.parametrize("prior", ["none", "concat", "cross_attention"])
@pytest.mark.parametrize("patch", [1, 2])
def test_samples_of_a_batch_do_not_see_each_other_in_any_coupling(coupling, prior, patch):
    network = small(coupling=coupling, prior=prior, patch=patch, priors=three_maps())
    x, time, told = inputs()
    previous = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    together = network(x, time, told, previous)
    assert together.shape == x.shape
    alone = [
        network(x[i : i + 1], time[i : i + 1], told[i : i + 1], previous[i : i + 1]) for i in range(len(x))
    ]
    torch.testing.assert_close(torch.cat(alone), together)


@SEEING
def test_f9_a_network_that_wants_priors_is_not_left_without(prior):
    network = build_network({**SMALL, "prior": prior}, DATA)
    with pytest.raises(ValueError, match=r"model\.prior"):
        put_priors(network, None)
    with pytest.raises(ValueError, match=r"\(2, 16, 24\); 3 z-bins of 16 x 24 px"):
        put_priors(network, three_maps()[:2])
    with pytest.raises(ValueError, match=r"\(3, 24, 16\); 3 z-bins of 16 x 24 px"):
        put_priors(network, three_maps().transpose(0, 2, 1))
    empty = three_maps()
    empty[[0, 2]] = False
    with pytest.raises(ValueError, match="z-bin 0, 2 is empty"):
        put_priors(network, empty)
    # What was refused left nothing behind.
    assert not network.priors.maps.any()


def test_a_network_without_a_prior_takes_none():
    network = build_network(SMALL, DATA)
    put_priors(network, None)
    put_priors(network, three_maps())
    assert not list(network.buffers(recurse=False))
    assert "priors.maps" not in network.state_dict()


def test_f9_cross_attention_without_its_context_is_an_error():
    with pytest.raises(ValueError, match="prior"):
        CrossAttention(16, 8, 4, context=12)(torch.randn(2, 16, 3, 5))


def heads_of(module, tokens, source):
    """Textbook attention of one sample, head by head."""
    width = tokens.shape[1] // module.heads
    mixed = []
    for h in range(module.heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = module.query(tokens)[:, part], module.key(source)[:, part], module.value(source)[:, part]
        mixed.append(torch.softmax(q @ k.T / width**0.5, dim=1) @ v)
    return module.out(torch.cat(mixed, dim=1))


@torch.no_grad()
def test_cross_attention_is_the_textbook_s():
    """Self-attention, cross-attention and a GEGLU layer, each after a layer norm and with a skip."""
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


def test_places_are_the_sinusoids_of_row_and_column():
    height, width, channels = 3, 4, 8
    found = sinusoidal_positions_2d(height, width, channels)
    assert found.shape == (height * width, channels)
    for row in range(height):
        for column in range(width):
            wanted = []
            for position in (row, column):
                for k in range(channels // 4):
                    angle = position / 10_000 ** (2 * k / (channels // 2))
                    wanted += [math.sin(angle), math.cos(angle)]
            assert found[row * width + column].tolist() == pytest.approx(wanted, abs=1e-6)


@torch.no_grad()
def test_places_tell_the_parts_of_an_even_prior_apart():
    """All squares inside a full map look alike but for where they are."""
    network = small(prior="cross_attention", priors=np.ones((3, 16, 24), bool))
    full = torch.ones(1, 1, 16, 24)
    encoder = network.prior_encoder
    places = sinusoidal_positions_2d(2, 3, 256)
    features = encoder.project(encoder.layers(full)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(full), features + places)
    assert torch.pdist(places).min() > 0.1


@torch.no_grad()
@SEEING
def test_a_checkpoint_brings_its_prior_maps(prior, tmp_path):
    network = small(prior=prior, priors=three_maps())
    card = ModelCard(
        model={**SMALL, "prior": prior},
        diffusion={"prediction": "x0"},
        training={},
        data=DATA,
        spacing_mm=6.0,
        z_range=(11, 20),
        study="tiny",
        variant="base",
        fold=1,
        step=7,
        data_hash="abc",
        precision="float32",
        versions={},
    )
    save_model(tmp_path / "m.safetensors", network.state_dict(), card)
    again, _ = load_model(tmp_path / "m.safetensors", torch.device("cpu"))
    np.testing.assert_array_equal(again.priors.maps.numpy().astype(bool), three_maps())
    assert torch.equal(again(*inputs()), network(*inputs()))
    # Weights without the maps must not load as a network that sees nothing anywhere.
    save_model(tmp_path / "bare.safetensors", dict(network.named_parameters()), card)
    with pytest.raises(ValueError, match=r"(?s)bare\.safetensors.*priors\.maps"):
        load_model(tmp_path / "bare.safetensors", torch.device("cpu"))


def crossings(network):
    """Whether an output changes with the other modality's noisy map, and with its previous estimate."""
    x, time, told = inputs()
    previous = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    base = network(x, time, told, previous)
    found = []
    for own, other in ((0, 1), (1, 0)):
        noisy, estimate = x.clone(), previous.clone()
        noisy[:, other] += 1
        estimate[:, other] -= 1
        for changed in (network(noisy, time, told, previous), network(x, time, told, estimate)):
            # Its own output always follows.
            assert differ(changed[:, other], base[:, other])
            if torch.equal(changed[:, own], base[:, own]):
                found.append(False)
            else:
                assert differ(changed[:, own], base[:, own])
                found.append(True)
    return found


@torch.no_grad()
@COUPLED
@pytest.mark.parametrize("prior", ["none", "concat", "cross_attention"])
def test_image_and_mask_see_each_other_except_in_independent(coupling, prior):
    network = small(coupling=coupling, prior=prior, priors=three_maps())
    assert crossings(network) == [coupling != "independent"] * 4


class Passing(torch.nn.Module):
    def forward(self, hidden, embedding, context):
        return hidden


@torch.no_grad()
def test_bottleneck_couples_in_its_middle_only():
    network = small(coupling="bottleneck")
    network.trunk.middle = Passing()
    assert crossings(network) == [False] * 4


@torch.no_grad()
@pytest.mark.parametrize("coupling", ["independent", "bottleneck"])
def test_two_encoders_share_no_weight(coupling):
    network = small(coupling=coupling)
    base = network(*inputs())
    for modality in (0, 1):
        decoder = network.trunk.decoders[modality]
        kept = decoder.head.bias.clone()
        decoder.head.bias += 1
        found = network(*inputs()) - base
        decoder.head.bias.copy_(kept)
        assert torch.equal(found[:, 1 - modality], torch.zeros(3, 16, 24))
        torch.testing.assert_close(found[:, modality], torch.ones(3, 16, 24))
        # The modality's map enters its own encoder and no other.
        other = network.trunk.encoders[1 - modality]
        seen = []
        hook = other.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        x, *rest = inputs()
        network(x, *rest)
        x[:, modality] += 1
        network(x, *rest)
        hook.remove()
        assert torch.equal(*seen)


def a_parallel_middle():
    torch.manual_seed(0)
    shape = TrunkSpec((16, 32), 1, (False, True), head_channels=16, norm_groups=8, embedding=64)
    middle = ParallelMiddle(shape)
    randomise(middle)
    return middle, torch.randn(2, 32, 4, 6), torch.randn(2, 64)


@torch.no_grad()
@pytest.mark.parametrize("cut", [0, 1])
def test_decoupled_s_two_paths_do_not_see_each_other(cut):
    """With a merge that copies, a path's half of the output changes with that path alone."""
    middle, hidden, embedding = a_parallel_middle()
    middle.merge.weight.copy_(torch.eye(32)[:, :, None, None])
    middle.merge.bias.zero_()
    base = middle(hidden, embedding, None)
    middle.split[cut].weight.zero_()
    for parameter in middle.paths[cut].parameters():
        parameter.zero_()
    found = middle(hidden, embedding, None)
    halves = [slice(0, 16), slice(16, 32)]
    assert torch.equal(found[:, halves[1 - cut]], base[:, halves[1 - cut]])
    # A cut path carries what its split adds, and nothing of the input.
    wanted = middle.split[cut].bias[None, :, None, None].expand(2, 16, 4, 6)
    torch.testing.assert_close(found[:, halves[cut]], wanted)
    moved = middle(hidden + 1, embedding, None)
    torch.testing.assert_close(moved[:, halves[cut]], wanted)
    assert differ(moved[:, halves[1 - cut]], base[:, halves[1 - cut]])


@torch.no_grad()
def test_decoupled_merges_what_both_paths_say():
    middle, hidden, embedding = a_parallel_middle()
    halves = [
        path(F.conv2d(hidden, split.weight, split.bias), embedding, None)
        for split, path in zip(middle.split, middle.paths, strict=True)
    ]
    weight = middle.merge.weight[:, :, 0, 0]
    wanted = sum(
        torch.einsum("oc,bchw->bohw", weight[:, 16 * i : 16 * (i + 1)], half) for i, half in enumerate(halves)
    )
    torch.testing.assert_close(
        middle(hidden, embedding, None), wanted + middle.merge.bias[None, :, None, None], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("coupling", "wanted", "tolerance"),
    [
        ("shared", 26_894_210, 0),
        ("decoupled", 27_029_378, 0),
        ("independent", 27_012_626, 0.01),
        ("bottleneck", 26_352_482, 0.01),
    ],
)
def test_paper_size_has_the_paper_s_parameters(coupling, wanted, tolerance):
    data = DataSpec(size=(160, 160), n_bins=30, bin_centres=[float(b) for b in range(30)])
    with torch.device("meta"):
        network = build_network(ModelConfig(coupling=coupling).settings(), data)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(wanted, rel=tolerance, abs=0)


def test_without_self_conditioning_only_the_stem_is_smaller():
    """Two input channels of 64 filters of 3 x 3."""
    data = DataSpec(size=(160, 160), n_bins=30, bin_centres=[float(b) for b in range(30)])
    with torch.device("meta"):
        network = build_network(ModelConfig(self_conditioning=False).settings(), data)
    assert sum(parameter.numel() for parameter in network.parameters()) == 26_894_210 - 2 * 64 * 9
