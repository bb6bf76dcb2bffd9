"""The loss of one batch: noise, self-conditioning, prediction, Lp."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.diffusion.losses import lesion_weights, lp_per_channel
from slimdiff.diffusion.prediction import target, to_x0_epsilon
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.training.batches import Batch


@dataclass(frozen=True)
class Draws:
    """The random part of a step."""

    timestep: Tensor
    """int64 (B,)."""
    epsilon: Tensor
    """Standard normal (B, 2, H, W)."""
    informed: int
    """How many samples, the first of the batch (which is in random order), see a previous estimate."""


class Objective:
    """Per-channel loss of a network on a batch (docs/method.md)."""

    def __init__(self, config: DiffusionConfig, self_conditioning: float, device: torch.device):
        self.config = config
        self.self_conditioning = self_conditioning
        alpha_bar = make_schedule(config.schedule, config.timesteps).alpha_bar
        self.signal = torch.tensor(alpha_bar**0.5, dtype=torch.float32, device=device)
        self.noise = torch.tensor((1 - alpha_bar) ** 0.5, dtype=torch.float32, device=device)
        self.exponents = torch.tensor([config.loss.p_image, config.loss.p_mask], device=device)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Times, noise, and how many samples are informed: p * B, the fraction decided by chance."""
        count, device = len(batch.x0), batch.x0.device
        timestep = torch.randint(self.config.timesteps, (count,), generator=generator, device=device)
        epsilon = torch.randn(batch.x0.shape, generator=generator, device=device)
        exact = self.self_conditioning * count
        informed = int(exact)
        if exact != informed:
            informed += int(torch.rand((), generator=generator, device=device) < exact - informed)
        return Draws(timestep, epsilon, informed)

    def __call__(self, network: nn.Module, batch: Batch, draws: Draws) -> Tensor:
        """Mean loss a channel, float32 (2,)."""
        signal = self.signal[draws.timestep].view(-1, 1, 1, 1)
        noise = self.noise[draws.timestep].view(-1, 1, 1, 1)
        x_t = signal * batch.x0 + noise * draws.epsilon
        time = draws.timestep.float()
        kind = self.config.prediction
        previous = None
        if draws.informed:
            # Chen et al. 2022: the estimate carries no gradient. Only the informed samples are evaluated.
            part = slice(0, draws.informed)
            with torch.no_grad():
                output = network(x_t[part], time[part], batch.z_bin[part], batch.label[part]).float()
                estimate, _ = to_x0_epsilon(kind, output, x_t[part], signal[part], noise[part])
            previous = torch.zeros_like(x_t)
            previous[part] = estimate.clamp(-1, 1)
        output = network(x_t, time, batch.z_bin, batch.label, previous)
        weights = None
        if self.config.loss.lesion_weight != 1:
            weights = lesion_weights(batch.x0, self.config.loss.lesion_weight)
        wanted = target(kind, batch.x0, draws.epsilon, signal, noise)
        return lp_per_channel(output, wanted, self.exponents, weights).mean(dim=0)
