"""Small networks without zero weights, and inputs for them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from slimdiff.config.model import ModelConfig
from slimdiff.model.checkpoint import DataSpec, ModelCard, build_network, put_priors
from slimdiff.model.conditioning import Condition
from slimdiff.model.couplings import COUPLINGS

SMALL = ModelConfig(
    channels=(16, 32),
    res_blocks=1,
    attention=(False, True),
    head_channels=16,
    norm_groups=8,
    self_conditioning=True,
    gaussian_components=0,
).settings()
DATA = DataSpec(size=(16, 24), n_bins=3, bin_centres=[12.6, 16.0, 19.3])
TWO_PROTOCOLS = replace(DATA, acquisitions=["one", "other"], acquisition_counts=[[1, 1], [1, 1]])
SEEING = pytest.mark.parametrize("prior", ["concat", "cross_attention"])
COUPLED = pytest.mark.parametrize("coupling", COUPLINGS)


def three_maps(seed=0):
    return np.random.default_rng(seed).random((3, 16, 24)) < 0.5


def small(data=DATA, priors=None, **changes):
    """A small network without zero weights."""
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


def inputs(**conditions):
    generator = torch.Generator().manual_seed(0)
    condition = Condition(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0]), **conditions)
    return torch.randn((3, 2, 16, 24), generator=generator), torch.tensor([5.0, 300.0, 999.0]), condition


def differ(one, other):
    return bool((one - other).abs().max() > 1e-5)


def card_of(model: dict) -> ModelCard:
    """The card of a checkpoint of such a network."""
    return ModelCard(
        model=json.loads(json.dumps(model)),
        diffusion={"schedule": "cosine", "timesteps": 1000, "prediction": "x0"},
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
        versions={"torch": torch.__version__},
    )
