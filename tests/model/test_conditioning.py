"""What a network is told beside the noisy pair."""

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
