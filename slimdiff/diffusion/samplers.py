"""Samplers with one signature: (denoiser, x, sigmas, noise, callback) -> x0.

`x` (B, C, H, W) is the start in the coordinates x_t / sqrt(alpha_bar), so sigma_max times a standard normal draw
(plus the data, which is nothing beside it). `sigmas` falls and ends at 0. `noise(i)` gives the standard normal draw
of step i, shaped like x, and is called only by stochastic samplers. `callback(i, x0)` sees every estimate.
denoiser(x, sigma, previous) -> x0 estimate; the sampler feeds its last estimate back (Chen et al. 2022).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

DenoiserFunction = Callable[[Tensor, float, Tensor | None], Tensor]
Noise = Callable[[int], Tensor]
Callback = Callable[[int, Tensor], None]


def ddim(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 and 16); eta 0 is deterministic, 1 is ancestral (DDPM)."""
    previous = None
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        previous = denoiser(x, sigma, previous)
        if callback:
            callback(i, previous)
        if following == 0:
            return previous
        # eq. 16 in these coordinates: the part of the next level's noise that is drawn anew.
        fresh = eta * following * math.sqrt(sigma**2 - following**2) / sigma
        kept = math.sqrt(following**2 - fresh**2)
        x = previous + (x - previous) * (kept / sigma)
        if eta > 0:
            x = x + fresh * noise(i)
    return x


def dpmpp_2m(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, one evaluation a step, deterministic.

    The first step and the step to sigma = 0 are of first order, where the second has no support.
    """
    previous = older = None
    last_step = 0.0
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        older, previous = previous, denoiser(x, sigma, previous)
        if callback:
            callback(i, previous)
        if following == 0:
            return previous
        step = math.log(sigma / following)
        slope = previous
        if older is not None:
            ratio = last_step / step
            slope = previous + (previous - older) / (2 * ratio)
        x = x * (following / sigma) + slope * (1 - following / sigma)
        last_step = step
    return x


SAMPLERS = {"ddim": ddim, "ddim_ref": ddim, "dpmpp_2m": dpmpp_2m}
