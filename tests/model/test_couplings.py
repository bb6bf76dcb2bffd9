"""Couplings of image and mask, and their numbers of parameters."""

import pytest
import torch
from helpers.tiny_networks import COUPLED, differ, inputs, randomise, small, three_maps
from torch.nn import functional as F

from slimdiff.config.model import ModelConfig
from slimdiff.config.recipes import PUBLISHED
from slimdiff.model.checkpoint import DataSpec, build_network
from slimdiff.model.couplings import ParallelMiddle
from slimdiff.model.trunk import TrunkSpec


def published_network(**changes):
    """The paper's network, or one with these changes."""
    data = DataSpec(size=(160, 160), n_bins=30, bin_centres=[float(b) for b in range(30)])
    with torch.device("meta"):
        return build_network(ModelConfig.model_validate(PUBLISHED["model"] | changes).settings(), data)


def crossings(network):
    """Whether each output depends on the other modality's noisy map and on its previous estimate."""
    x, time, condition = inputs()
    previous = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    base = network(x, time, condition, previous)
    found = []
    for own, other in ((0, 1), (1, 0)):
        noisy, estimate = x.clone(), previous.clone()
        noisy[:, other] += 1
        estimate[:, other] -= 1
        for changed in (network(noisy, time, condition, previous), network(x, time, condition, estimate)):
            # The output of the changed modality always changes.
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
def test_image_and_mask_depend_on_each_other_except_in_independent(coupling, prior):
    network = small(coupling=coupling, prior=prior, priors=three_maps())
    assert crossings(network) == [coupling != "independent"] * 4


class Passing(torch.nn.Module):
    def forward(self, hidden, embedding, context):
        return hidden


@torch.no_grad()
def test_bottleneck_couples_in_the_middle_block_only():
    network = small(coupling="bottleneck")
    network.trunk.middle = Passing()
    assert crossings(network) == [False] * 4


@torch.no_grad()
@pytest.mark.parametrize("coupling", ["independent", "bottleneck"])
def test_two_encoders_share_no_weights(coupling):
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
        # A modality's noisy map enters its own encoder only.
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
def test_the_two_paths_of_decoupled_are_independent(cut):
    """If the merge is the identity, each half of the output depends on one path only."""
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
    # A path set to zero outputs the bias of its split, whatever the input.
    expected = middle.split[cut].bias[None, :, None, None].expand(2, 16, 4, 6)
    torch.testing.assert_close(found[:, halves[cut]], expected)
    moved = middle(hidden + 1, embedding, None)
    torch.testing.assert_close(moved[:, halves[cut]], expected)
    assert differ(moved[:, halves[1 - cut]], base[:, halves[1 - cut]])


@torch.no_grad()
def test_decoupled_merges_both_paths():
    middle, hidden, embedding = a_parallel_middle()
    halves = [
        path(F.conv2d(hidden, split.weight, split.bias), embedding, None)
        for split, path in zip(middle.split, middle.paths, strict=True)
    ]
    weight = middle.merge.weight[:, :, 0, 0]
    expected = sum(
        torch.einsum("oc,bchw->bohw", weight[:, 16 * i : 16 * (i + 1)], half) for i, half in enumerate(halves)
    )
    torch.testing.assert_close(
        middle(hidden, embedding, None),
        expected + middle.merge.bias[None, :, None, None],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("coupling", "expected", "tolerance"),
    [
        ("shared", 26_894_210, 0),
        ("decoupled", 27_029_378, 0),
        ("independent", 27_012_626, 0.01),
        ("bottleneck", 26_352_482, 0.01),
    ],
)
def test_the_paper_s_size_has_the_paper_s_number_of_parameters(coupling, expected, tolerance):
    count = sum(parameter.numel() for parameter in published_network(coupling=coupling).parameters())
    assert count == pytest.approx(expected, rel=tolerance, abs=0)


def test_without_self_conditioning_only_the_stem_is_smaller():
    """Two input channels of 64 filters of 3 x 3."""
    network = published_network(self_conditioning=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == 26_894_210 - 2 * 64 * 9
