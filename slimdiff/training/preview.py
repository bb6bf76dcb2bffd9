"""A look at what a network draws during training."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.devices import autocast
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.samplers import dpmpp_2m
from slimdiff.diffusion.schedule import make_schedule, sampling_sigmas
from slimdiff.model.build import DataSpec
from slimdiff.model.conditioning import Condition
from slimdiff.png import pair_sheet

EVALUATIONS = 15
BINS = 6


@torch.inference_mode()
def preview(
    network: nn.Module,
    weights: dict[str, Tensor],
    data: DataSpec,
    diffusion: DiffusionConfig,
    seed: int,
    precision: torch.dtype,
) -> np.ndarray:
    """A sheet of samples from fixed noise: both classes in bins spread over the brain, of the commonest acquisition.

    `weights` stand in for the network's own. Returns a picture as `pair_sheet` does.
    """
    device = next(iter(weights.values())).device
    bins = np.unique(np.linspace(0, data.n_bins - 1, BINS).round().astype(int))
    z_bin = torch.tensor(np.tile(bins, 2), device=device)
    label = torch.arange(2, device=device).repeat_interleave(len(bins))
    acquisition = None
    if data.acquisitions:
        commonest = int(np.sum(data.acquisition_counts, axis=0).argmax())
        acquisition = torch.full_like(z_bin, commonest)
    condition = Condition(z_bin, label, acquisition)
    noise = torch.randn((len(z_bin), 2, *data.size), generator=torch.Generator().manual_seed(seed))
    schedule = make_schedule(diffusion.schedule, diffusion.timesteps)
    sigmas = sampling_sigmas(schedule, EVALUATIONS)

    def evaluate(x: Tensor, timestep: Tensor, previous: Tensor | None) -> Tensor:
        with autocast(device, precision):
            return torch.func.functional_call(network, weights, (x, timestep, condition, previous))

    denoiser = Denoiser(evaluate, schedule, diffusion.prediction)
    start = noise.to(device) * math.sqrt(1 + sigmas[0] ** 2)
    drawn = dpmpp_2m(denoiser, start, sigmas.tolist(), lambda step: noise).float().cpu().numpy()
    return pair_sheet(drawn[:, 0], drawn[:, 1], len(bins))
