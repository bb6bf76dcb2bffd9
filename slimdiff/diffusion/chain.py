"""The chain from noise to a sample: its noise levels, and how it is drawn. Sampling and previews share it."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from slimdiff.devices import autocast
from slimdiff.diffusion.denoiser import Denoiser, Inpainted, lesion_hint
from slimdiff.diffusion.samplers import SAMPLERS
from slimdiff.diffusion.schedule import Schedule, check_start, leading, noisiest, sampling_sigmas

GAUSSIAN_STEPS = 8
"""Steps of a chain with the Gaussian model's estimate: each costs a few per cent of a network evaluation."""


def sigmas_for(
    schedule: Schedule,
    sampler: str,
    spacing: str,
    evaluations: int,
    gaussian_above: float | None = None,
    quiet: bool = False,
) -> np.ndarray:
    """Noise levels of a chain: `evaluations` falling values, then 0; float64 (evaluations + 1,).

    With `gaussian_above`, GAUSSIAN_STEPS levels more, above this one: there the estimate of the Gaussian model takes
    the place of the network's (`Denoiser`). Where the chain starts below this level, there are none.

    `ddim_ref` has the published code's own levels: leading spacing, with no check of the first one. A notice on
    standard error names it, unless `quiet`. Every other sampler has `spacing`.

    Raises ValueError where there are no such levels, or the data would still show at the first one.
    """
    if sampler != "ddim_ref":
        start = noisiest(schedule)
        if gaussian_above is None or gaussian_above >= start:
            return sampling_sigmas(schedule, evaluations, spacing)
        check_start(start)
        above = np.geomspace(start, gaussian_above, GAUSSIAN_STEPS + 1)[:-1]
        return np.append(above, sampling_sigmas(schedule, evaluations, spacing, gaussian_above))
    sigmas = leading(schedule, evaluations)
    if not quiet:
        signal = 1 / math.sqrt(1 + sigmas[0] ** 2)
        print(
            f"ddim_ref: the chain starts from pure noise where sqrt(alpha_bar) is {signal:.3f}",
            file=sys.stderr,
        )
    return sigmas


@dataclass(frozen=True)
class FixedPart:
    """The part of each pair that is given and stays as it is."""

    values: Tensor
    """(B, 2, H, W) in [-1, 1], of any float type."""
    where: Tensor
    """bool (B, 2, H, W): where the values are fixed."""
    lesion: Tensor
    """bool (B,): whether a lesion is requested where nothing is fixed."""

    def __getitem__(self, rows: slice | Tensor) -> "FixedPart":
        return FixedPart(*(getattr(self, field.name)[rows] for field in fields(self)))


@torch.inference_mode()
def draw(
    denoiser: Denoiser,
    noise: Callable[[int], Tensor],
    fixed: FixedPart | None = None,
    *,
    sigmas: np.ndarray,
    sampler: str,
    eta: float = 0.0,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Estimates of x0 (B, 2, H, W) at the end of the chain.

    Args:
        denoiser: with its condition in it.
        noise: number of a draw -> standard normal values (B, 2, H, W). Draw 0 is the start; a stochastic sampler takes
            one more a step.
        fixed: the part that is kept.
        sigmas: of `sigmas_for`.
        sampler: a name of SAMPLERS.
        eta: DDIM's stochasticity.
        precision: the autocast type.
    """
    start = noise(0)
    x = start * math.sqrt(1 + sigmas[0] ** 2)
    if fixed is not None:
        values, where = fixed.values.to(start), fixed.where.to(start.device)
        # Where a lesion is requested, its place is known, but not its mask.
        hint = lesion_hint(where) & fixed.lesion.to(start.device)[:, None, None, None]
        denoiser = Inpainted(denoiser, values, where, hint)
        x = torch.where(where, values + sigmas[0] * start, x)
    # Only DDIM has an eta; the configuration allows none with another sampler.
    options = {"eta": eta} if eta else {}
    with autocast(start.device, precision):
        return SAMPLERS[sampler](denoiser, x, sigmas.tolist(), lambda step: noise(step + 1), **options)
