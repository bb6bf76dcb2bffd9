"""AdamW, its learning rate, and the update of the weights."""

import math

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


def adamw(network: nn.Module, objective: Objective, rate: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) of the network and of the learned loss weights, which do not decay.

    Args:
        network: on its device.
        objective: its learned weights, if any, are trained too.
        rate: learning rate of the first step.
    """
    groups = [{"params": list(network.parameters())}]
    if objective.uncertainty is not None:
        groups.append({"params": list(objective.parameters()), "weight_decay": 0.0})
    device = next(network.parameters()).device
    return torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY, fused=device.type != "mps")


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `FINAL_LEARNING_RATE` at the last step (Loshchilov & Hutter 2017)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return FINAL_LEARNING_RATE + (config.learning_rate - FINAL_LEARNING_RATE) * cosine


def update_weights(optimiser: torch.optim.Optimizer, network: nn.Module, rate: float) -> Tensor:
    """Clip the gradient of the network, and take one step with this learning rate.

    Returns:
        The norm of the gradient before clipping, a scalar.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    norm = nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_CLIP)
    optimiser.step()
    return norm
