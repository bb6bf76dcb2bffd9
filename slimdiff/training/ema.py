"""Exponential moving average of the weights, kept on the device."""

import torch
from torch import Tensor, nn


class Ema:
    """average <- decay * average + (1 - decay) * weights, with a short memory early on.

    The decay of step s is min(decay, (1 + s) / (10 + s)), so that the random start is forgotten.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.parameters = list(network.parameters())
        self.names = [name for name, _ in network.named_parameters()]
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """name: averaged weight."""
        return dict(zip(self.names, self.averages, strict=True))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take averages from `weights`."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(weights[name])
