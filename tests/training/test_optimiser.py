"""Muon: the update of a matrix is its nearest orthogonal one, and everything else is left to AdamW."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.tiny_networks import DATA, SMALL
from torch import nn

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.model.checkpoint import build_network
from slimdiff.training.objective import Objective
from slimdiff.training.optimiser import (
    MATRIX_RATE,
    NEWTON_SCHULZ_STEPS,
    Muon,
    make_optimiser,
    orthogonal,
)


def network():
    torch.manual_seed(0)
    return build_network(SMALL, DATA)


def objective(**loss):
    return Objective(DiffusionConfig.model_validate({"loss": loss}), 0.5)


def fill_gradients(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 5, 5)])
def test_the_directions_stay_and_singular_values_become_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ orthogonal(matrices) @ right.mT
    values = torch.diagonal(inner, dim1=1, dim2=2)
    assert values.min() > 0.3 and values.max() < 1.3
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "shape",
    [(2, 64, 576), (2, 576, 64), (1, 48, 48), (2, 64, 64)],
    ids=["wide", "tall", "square", "low rank"],
)
def test_the_products_on_the_gram_matrix_are_the_plain_iteration(shape):
    generator = torch.Generator().manual_seed(2)
    matrices = torch.randn(shape, generator=generator)
    if shape == (2, 64, 64):
        matrices = torch.randn((2, 64, 3), generator=generator) @ torch.randn((2, 3, 64), generator=generator)
    elif shape[1] != shape[2]:
        # Singular values over eight orders of magnitude.
        scale = torch.logspace(0, -8, min(shape[1:]))
        matrices = matrices * (scale[:, None] if shape[1] < shape[2] else scale)
    x = matrices.double()
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    torch.testing.assert_close(orthogonal(matrices).double(), x, rtol=0, atol=1e-4)


def test_muon_trains_the_trunk_without_its_first_and_last_layer():
    own = network()
    optimiser = make_optimiser("muon", own, objective(), 1e-3)
    names = {id(parameter): name for name, parameter in own.named_parameters()}
    of_muon = {names[id(matrix)] for matrix in optimiser.matrices}
    assert {name for name in of_muon if "stem" in name or "head" in name} == set()
    assert all(name.startswith("trunk.") for name in of_muon)
    assert "trunk.middle.before.conv1.weight" in of_muon
    rest = {names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]}
    assert of_muon | rest == set(names.values()) and not of_muon & rest


def test_the_first_update_of_a_convolution_is_its_orthogonalised_gradient():
    own = network()
    before = copy.deepcopy(own.state_dict())
    optimiser = make_optimiser("muon", own, objective(), 1e-3)
    fill_gradients(own)
    name = "trunk.middle.before.conv1.weight"
    gradient = own.get_parameter(name).grad.flatten(1)
    optimiser.step()
    change = (own.state_dict()[name] - before[name]).flatten(1)
    wanted = -1e-3 * MATRIX_RATE * 0.2 * max(gradient.shape) ** 0.5 * orthogonal(gradient[None])[0]
    torch.testing.assert_close(change, wanted, atol=1e-5, rtol=1e-3)
    assert change.square().mean().sqrt() == pytest.approx(0.2 * 1e-3 * MATRIX_RATE, rel=0.25)


def test_the_rest_moves_as_under_adamw_alone():
    muon, adamw = network(), network()
    for name, module in (("muon", muon), ("adamw", adamw)):
        fill_gradients(module)
        make_optimiser(name, module, objective(), 1e-3).step()
    for name in ("time.0.weight", "trunk.encoder.stem.weight", "trunk.decoder.head.weight"):
        assert torch.equal(muon.get_parameter(name), adamw.get_parameter(name)), name


def test_a_restored_optimiser_continues_bit_by_bit():
    one, other = network(), network()
    first = make_optimiser("muon", one, objective(), 1e-3)
    for seed in range(3):
        fill_gradients(one, seed)
        first.step()
    other.load_state_dict(one.state_dict())
    second = make_optimiser("muon", other, objective(), 1e-3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for module, optimiser in ((one, first), (other, second)):
        fill_gradients(module, 7)
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_threads_share_the_matrices_and_change_no_bit():
    one, other = network(), network()
    with ThreadPoolExecutor(2) as pool:
        for module, mapped in ((one, map), (other, pool.map)):
            optimiser = make_optimiser("muon", module, objective(), 1e-3)
            for seed in range(3):
                fill_gradients(module, seed)
                optimiser.step(mapped)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.trunk.encoder.stem.weight, network().trunk.encoder.stem.weight)


def test_gradients_are_cleared():
    own = network()
    optimiser = make_optimiser("muon", own, objective(), 1e-3)
    fill_gradients(own)
    optimiser.zero_grad(set_to_none=True)
    assert all(parameter.grad is None for parameter in own.parameters())


def test_adamw_is_torch_s_and_learned_loss_weights_do_not_decay():
    own = network()
    optimiser = make_optimiser("adamw", own, objective(uncertainty="each"), 1e-3)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [1e-4, 0.0]


def test_muon_lowers_the_loss_of_a_linear_layer_faster_than_no_training():
    torch.manual_seed(0)
    layer = nn.Linear(16, 16, bias=False)
    x, wanted = torch.randn(64, 16), torch.randn(64, 16)
    adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-2)
    optimiser = Muon([layer.weight], adamw)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (layer(x) - wanted).square().mean()
        loss.backward()
        adamw.param_groups[0]["params"][0].grad = torch.zeros(1)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
