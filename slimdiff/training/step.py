"""The gradients of one step: both passes of the network, in parts, on every process its own samples."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from slimdiff.devices import autocast
from slimdiff.training.batches import Batch
from slimdiff.training.history import losses_by_noise
from slimdiff.training.objective import Draws, Objective
from slimdiff.training.processes import Processes


class Loss(nn.Module):
    """Network and objective as one module: DDP has to see the two passes of self-conditioning as one.

    Args:
        network, objective: with parameters to learn.
        device: where they are.
        compiled: whether the network goes through torch.compile.
    """

    def __init__(self, network: nn.Module, objective: Objective, device: torch.device, compiled: bool):
        super().__init__()
        self.network, self.objective, self.device = network, objective, device
        self.precision = torch.float32
        # Of the function, so that the weights keep their names. Shapes are few and fixed: batch, and its informed part.
        if compiled:
            # Another network of this process has its own graphs, and their number has a limit.
            torch._dynamo.reset()
            # Cut where DDP's buckets end, a graph would have to know which of the two passes it is in.
            torch._dynamo.config.optimize_ddp = False
        self.evaluate: Callable = torch.compile(network.forward, dynamic=False) if compiled else network

    def forward(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Total and terms, which add up over the parts of a batch, and `losses_by_noise`."""
        with autocast(self.device, self.precision):
            terms, samples = self.objective.measure(self.evaluate, batch, draws)
        by_noise = losses_by_noise(samples, draws.timestep, self.objective.config.timesteps)
        return self.objective.total(terms) * draws.share, terms * draws.share, by_noise


class Gradients:
    """Leaves the gradients of a batch in the parameters.

    Args:
        loss: of a batch or a part of one.
        processes: that share the batch.
        parts: how many parts each process takes its samples in.
    """

    def __init__(self, loss: Loss, processes: Processes, parts: int):
        self.loss = loss
        self.parts = parts
        self.processes = processes
        self.shared = processes.share(loss)

    def __call__(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Total, terms and `losses_by_noise` of this process's samples, which add up over processes."""
        sums: list[Tensor] = []
        for part in range(self.parts):
            # Every so-manieth sample: the informed ones, which come first, are spread over the parts.
            rows = slice(part, None, self.parts)
            waits = self.processes.count > 1 and part < self.parts - 1
            with self.shared.no_sync() if waits else nullcontext():
                total, terms, by_noise = self.shared(batch[rows], draws[rows])
                # DDP averages where the shares want a sum.
                (total * self.processes.count).backward()
            found = [total.detach(), terms.detach(), by_noise]
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        return sums[0], sums[1], sums[2]
