"""A trained network as the denoiser of the samplers' coordinates."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimdiff.diffusion.prediction import to_x0_epsilon
from slimdiff.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Denoiser:
    """x / sqrt(alpha_bar) at noise level sigma -> estimate of x0, clipped to [-1, 1].

    network(x_t, timestep (B,), previous or None) -> prediction (B, 2, H, W).
    """

    network: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    schedule: Schedule
    prediction: str
    clip: bool = True

    def __call__(self, x: Tensor, sigma: float, previous: Tensor | None) -> Tensor:
        signal = 1 / (1 + sigma**2) ** 0.5
        noise = sigma * signal
        time = torch.full(
            (x.shape[0],), float(self.schedule.time_at(sigma)), dtype=torch.float32, device=x.device
        )
        x_t = x * signal
        output = self.network(x_t, time, previous).float()
        x0, _ = to_x0_epsilon(self.prediction, output, x_t, torch.tensor(signal), torch.tensor(noise))
        return x0.clamp(-1, 1) if self.clip else x0
