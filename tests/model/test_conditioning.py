"""Conditions of the network: z-bin, class, acquisition, augmentation, null token."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.tiny_networks import (
    DATA,
    TWO_PROTOCOLS,
    differ,
    inputs,
    small,
)

from slimdiff.model.conditioning import Condition, Conditioning


@torch.no_grad()
def test_the_null_token_replaces_position_and_class():
    network = small(TWO_PROTOCOLS, null_token=True, acquisition=True)
    x, time, condition = inputs(acquisition=torch.tensor([0, 1, 0]))
    free = condition.unconditional()
    base = network(x, time, free)
    for change in (
        {"z_bin": (condition.z_bin + 1) % 3},
        {"label": 1 - condition.label},
    ):
        assert torch.equal(network(x, time, replace(free, **change)), base)
        assert differ(network(x, time, replace(condition, **change)), network(x, time, condition))
    assert differ(network(x, time, replace(free, acquisition=1 - condition.acquisition)), base)
    assert differ(network(x, time, condition), base)


@torch.no_grad()
def test_only_marked_samples_have_the_null_token():
    network = small(null_token=True)
    x, time, condition = inputs()
    marked = torch.tensor([False, True, False])
    found = network(x, time, replace(condition, null=marked))
    given, withheld = network(x, time, condition), network(x, time, condition.unconditional())
    torch.testing.assert_close(found, torch.where(marked.view(-1, 1, 1, 1), withheld, given))
    torch.testing.assert_close(
        network(x, time, replace(condition, null=torch.zeros(3, dtype=torch.bool))), given
    )


def test_an_unconditional_pass_requires_a_null_token():
    x, time, condition = inputs()
    with pytest.raises(ValueError, match=r"model\.null_token"):
        small()(x, time, condition.unconditional())


@torch.no_grad()
def test_the_acquisition_is_used_and_required():
    network = small(TWO_PROTOCOLS, acquisition=True)
    x, time, condition = inputs()
    outputs = [network(x, time, replace(condition, acquisition=torch.full((3,), name))) for name in (0, 1)]
    for one, other in zip(*outputs, strict=True):
        assert differ(one, other)
    with pytest.raises(ValueError, match="acquisition"):
        network(x, time, condition)


@torch.no_grad()
def test_without_the_setting_the_acquisition_is_ignored():
    network = small(TWO_PROTOCOLS)
    x, time, condition = inputs()
    with_acquisition = replace(condition, acquisition=torch.tensor([0, 1, 0]))
    assert torch.equal(network(x, time, with_acquisition), network(x, time, condition))


@torch.no_grad()
def test_zero_augmentation_labels_equal_missing_ones():
    network = small(replace(DATA, augmentations=4))
    x, time, condition = inputs()
    base = network(x, time, condition)
    assert torch.equal(network(x, time, replace(condition, augmentation=torch.zeros(3, 4))), base)
    for label in range(4):
        labels = torch.zeros(3, 4)
        labels[1, label] = 0.5
        found = network(x, time, replace(condition, augmentation=labels))
        assert differ(found[1], base[1]), label
        torch.testing.assert_close(found[[0, 2]], base[[0, 2]])


@torch.no_grad()
def test_the_condition_vector_matches_the_formula():
    torch.manual_seed(0)
    module = Conditioning(3, [12.6, 16.0, 19.3], 8, null_token=True, acquisitions=2, augmentations=4)
    labels = torch.randn(3, 4)
    null = torch.tensor([False, True, False])
    condition = Condition(
        torch.tensor([2, 0, 0]), torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1]), labels, null
    )
    for row, found in enumerate(module(condition)):
        z_bin, label = condition.z_bin[row], condition.label[row]
        angles = [[12.0, 16.0, 19.0][z_bin] / 10_000 ** (k / 4) for k in range(4)]
        sinusoid = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)])
        z = module.position(torch.cat([module.bins.weight[z_bin], sinusoid]))
        c = module.null if null[row] else module.merge(torch.cat([module.classes.weight[label], z]))
        c = (
            c
            + module.acquisitions.weight[condition.acquisition[row]]
            + module.augmentations.weight @ labels[row]
        )
        torch.testing.assert_close(found, c, rtol=1e-4, atol=1e-5)
