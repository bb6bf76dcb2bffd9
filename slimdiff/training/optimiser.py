"""Muon or AdamW, the learning rate, and the update of the weights."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from slimdiff.config.training import TrainingConfig
from slimdiff.training.objective import Objective

WEIGHT_DECAY = 1e-4
"""Weight decay of the network (paper: 1e-4)."""
GRADIENT_CLIP = 1.0
"""Maximum gradient norm of the network (paper: 1.0)."""
FINAL_LEARNING_RATE = 1e-6
"""Learning rate at the end of the cosine (paper: 1e-6)."""


MATRIX_RATE = 7.0
"""Learning rate of Muon relative to that of AdamW (docs/learning.md)."""
MOMENTUM = 0.95
NEWTON_SCHULZ_STEPS = 4
"""Five in the original; four cost less and learn as fast here."""


class Muon:
    """Muon (Jordan et al. 2024): momentum whose matrices are replaced by the nearest orthogonal ones, and AdamW for the
    parameters that are no matrices of the trunk. A convolution is a matrix of outputs by inputs and kernel.

    An update has the root mean square of an AdamW step of the same rate (Liu et al. 2025, section 2.2).

    Args:
        matrices: parameters of at least two dimensions.
        adamw: optimiser of all others.
    """

    def __init__(self, matrices: list[nn.Parameter], adamw: torch.optim.AdamW):
        self.matrices, self.adamw = matrices, adamw
        self.momenta = [torch.zeros_like(matrix) for matrix in matrices]
        # Matrices of one shape are orthogonalised together.
        self.shapes: dict[tuple[int, int], list[int]] = {}
        for number, matrix in enumerate(matrices):
            self.shapes.setdefault((len(matrix), matrix[0].numel()), []).append(number)
        # The most work first, so that threads end at the same time.
        work = {shape: len(numbers) * min(shape) ** 2 * max(shape) for shape, numbers in self.shapes.items()}
        self.shapes = {shape: self.shapes[shape] for shape in sorted(work, key=work.get, reverse=True)}

    @property
    def param_groups(self) -> list[dict]:
        """Those of AdamW, whose learning rate Muon follows."""
        return self.adamw.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        for matrix in self.matrices:
            matrix.grad = None
        self.adamw.zero_grad(set_to_none=set_to_none)

    def step(self, mapped: Callable = map) -> None:
        """Update all parameters.

        mapped: `map` of a pool of threads, which then share the matrices.
        """
        rate = self.adamw.param_groups[0]["lr"] * MATRIX_RATE
        tasks = [partial(self._update, numbers, shape, rate) for shape, numbers in self.shapes.items()]
        # AdamW last: it has the least work.
        list(mapped(lambda task: task(), [*tasks, self.adamw.step]))

    @torch.no_grad()
    def _update(self, numbers: list[int], shape: tuple[int, int], rate: float) -> None:
        """Update the matrices of one shape."""
        matrices, momenta = (
            [of_all[number] for number in numbers] for of_all in (self.matrices, self.momenta)
        )
        gradients = [matrix.grad for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        # Nesterov's momentum.
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        torch._foreach_mul_(matrices, 1 - rate * WEIGHT_DECAY)
        stack = torch.stack([one.reshape(shape) for one in ahead])
        # An orthogonal matrix has entries of root mean square 1 / sqrt(larger side); AdamW's steps have about 0.2.
        updates = orthogonal(stack) * (0.2 * max(shape) ** 0.5)
        for matrix, change in zip(matrices, updates, strict=True):
            matrix.add_(change.view_as(matrix), alpha=-rate)

    def state_dict(self) -> dict:
        return {"adamw": self.adamw.state_dict(), "momenta": self.momenta}

    def load_state_dict(self, state: dict) -> None:
        self.adamw.load_state_dict(state["adamw"])
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximately U V' of the singular value decompositions U S V' of matrices (N, rows, columns).

    Newton-Schulz iterations with the quintic of Jordan et al. 2024, which takes singular values to about 0.7 to 1.2:
    X becomes (a + b G + c G^2) X with G = X X'. The next G and the product of all these factors follow from G alone, so
    only the first and the last product have the larger side of the matrices.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    gram, product = x @ x.mT, None
    for step in range(NEWTON_SCHULZ_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal(dim1=1, dim2=2).add_(3.4445)
        product = factor if product is None else factor @ product
        if step < NEWTON_SCHULZ_STEPS - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x


def make_optimiser(
    name: str, network: nn.Module, objective: Objective, rate: float
) -> "torch.optim.AdamW | Muon":
    """The optimiser of the network and of the learned loss weights, which do not decay.

    Args:
        name: `muon` or `adamw` (Loshchilov & Hutter 2019).
        network: on its device; weights that require no gradient are left out, and stay as they are.
        objective: its learned weights, if any, are trained too.
        rate: learning rate of the first step.
    """
    named = {key: parameter for key, parameter in network.named_parameters() if parameter.requires_grad}
    matrices = [key for key in named if name == "muon" and _is_matrix(key, named[key])]
    groups = [{"params": [parameter for key, parameter in named.items() if key not in matrices]}]
    if objective.uncertainty is not None:
        groups.append({"params": list(objective.parameters()), "weight_decay": 0.0})
    fused = next(iter(named.values())).device.type != "mps"
    adamw = torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY, fused=fused)
    return Muon([named[key] for key in matrices], adamw) if matrices else adamw


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains it: the trunk's weights, but neither its first nor its last layer."""
    parts = name.split(".")
    return parts[0] == "trunk" and parameter.ndim >= 2 and not {"stem", "head"} & set(parts)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine to `FINAL_LEARNING_RATE` (Loshchilov & Hutter 2017), or a line to 0 (Defazio
    et al. 2023); a step after the last one would have these values."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.rate_decay == "linear":
        return config.learning_rate * (1 - share)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return FINAL_LEARNING_RATE + (config.learning_rate - FINAL_LEARNING_RATE) * cosine


def update_weights(
    optimiser: "torch.optim.AdamW | Muon", network: nn.Module, rate: float, mapped: Callable = map
) -> Tensor:
    """Clip the gradient of the network, and take one step with this learning rate.

    mapped: of `Muon.step`.

    Returns:
        The norm of the gradient before clipping, a scalar.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    norm = nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
    optimiser.step(mapped) if isinstance(optimiser, Muon) else optimiser.step()
    return norm
