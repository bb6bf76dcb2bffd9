"""The gradient of a batch by several threads of a CPU, each with a part of the batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from slimdiff.training.data import Batch
from slimdiff.training.distributed import Processes
from slimdiff.training.objective import NoiseDraw
from slimdiff.training.step import Loss


class GradientThreads:
    """Adds the gradient of a batch to that of the parameters; each thread computes that of a part.

    torch's own threads share each layer and wait for each other after it: hundreds of times in a step. These meet once.
    So a step is as fast on an idle machine, and beside other work it takes no more than its share of the cores
    (docs/performance.md). The sum of the parts' losses is that of the batch, up to rounding; the number of threads
    decides how it is rounded, as with torch's own threads.

    Args:
        loss: network and objective.
        processes: the processes that train together.
    """

    def __init__(self, loss: Loss, processes: Processes):
        self.loss = loss
        self.parameters = [parameter for parameter in loss.parameters() if parameter.requires_grad]
        # Neither torch's compiler nor its DDP can be called by several threads.
        allowed = loss.device.type == "cpu" and processes.count == 1 and not loss.compiled
        self.count = torch.get_num_threads() if allowed else 1
        """Number of threads; 1: `add` is not to be used."""
        self._pool: ThreadPoolExecutor | None = None

    @property
    def map(self) -> Callable:
        """`map` of the threads, or the plain one before their first batch."""
        return self._pool.map if self._pool else map

    def add(self, batch: Batch, draws: NoiseDraw) -> list[Tensor]:
        """Add the gradient of these samples; returns total loss, terms and `losses_by_noise` (`Loss`)."""
        parts = min(self.count, len(draws))
        if self._pool is None:
            # Where there are more threads than samples, several share a sample's layers.
            own = partial(torch.set_num_threads, self.count // parts)
            self._pool = ThreadPoolExecutor(parts, "gradients", initializer=own)
        # Every n-th sample: the self-conditioned ones come first and cost more.
        rows = [slice(part, None, parts) for part in range(parts)]
        found = list(self._pool.map(lambda own: self._of_part(batch[own], draws[own]), rows))
        # In the order of the parts, whichever is ready first: the sum is the same in every run.
        for parameter, *gradients in zip(self.parameters, *(one[1] for one in found), strict=True):
            for gradient in gradients:
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return [torch.stack(values).sum(dim=0) for values in zip(*(one[0] for one in found), strict=True)]

    def _of_part(self, batch: Batch, draws: NoiseDraw) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
        total, terms, by_noise = self.loss(batch, draws)
        # Not backward(): threads would add to one gradient in any order.
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        return [total.detach(), terms.detach(), by_noise], gradients
