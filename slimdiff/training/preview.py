"""What a network draws during training: from fixed noise, so that rounds can be compared."""

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


class Sketch:
    """Draws pairs with weights that stand in for the network's own.

    Args:
        network: whose weights are replaced.
        diffusion: section of the study.
        size: height and width of a slice, in px.
        seed: of the noise.
    """

    def __init__(self, network: nn.Module, diffusion: DiffusionConfig, size: tuple[int, int], seed: int):
        self.network, self.diffusion, self.size, self.seed = network, diffusion, size, seed
        self.schedule = make_schedule(diffusion.schedule, diffusion.timesteps)

    @torch.inference_mode()
    def draw(
        self,
        weights: dict[str, Tensor],
        condition: Condition,
        evaluations: int,
        batch_size: int,
        precision: torch.dtype,
    ) -> np.ndarray:
        """Samples of the conditions in their order, float32 (N, 2, H, W); always from the same noise."""
        sigmas = sampling_sigmas(self.schedule, evaluations)
        device = condition.z_bin.device
        generator = torch.Generator().manual_seed(self.seed)
        drawn = []
        for start in range(0, len(condition), batch_size):
            told = condition[start : start + batch_size]
            noise = torch.randn((len(told), 2, *self.size), generator=generator).to(device)

            def evaluate(x: Tensor, timestep: Tensor, previous: Tensor | None, told=told) -> Tensor:
                with autocast(device, precision):
                    return torch.func.functional_call(self.network, weights, (x, timestep, told, previous))

            denoiser = Denoiser(evaluate, self.schedule, self.diffusion.prediction)
            x = noise * math.sqrt(1 + sigmas[0] ** 2)
            drawn.append(
                dpmpp_2m(denoiser, x, sigmas.tolist(), lambda step, noise=noise: noise).float().cpu()
            )
        return torch.cat(drawn).numpy()


def preview_condition(data: DataSpec, device: torch.device) -> Condition:
    """Both classes in bins spread over the brain, of the commonest acquisition."""
    bins = np.unique(np.linspace(0, data.n_bins - 1, BINS).round().astype(int))
    z_bin = torch.tensor(np.tile(bins, 2), device=device)
    label = torch.arange(2, device=device).repeat_interleave(len(bins))
    acquisition = None
    if data.acquisitions:
        commonest = int(np.sum(data.acquisition_counts, axis=0).argmax())
        acquisition = torch.full_like(z_bin, commonest)
    return Condition(z_bin, label, acquisition)


def preview(sketch: Sketch, weights: dict[str, Tensor], data: DataSpec, precision: torch.dtype) -> np.ndarray:
    """A sheet of samples, a class a row, as `pair_sheet` gives it."""
    condition = preview_condition(data, next(iter(weights.values())).device)
    drawn = sketch.draw(weights, condition, EVALUATIONS, len(condition), precision)
    return pair_sheet(drawn[:, 0], drawn[:, 1], len(condition) // 2)
