"""Samplers with one signature: (denoiser, x, sigmas, noise, callback) -> x0.

`x` (B, C, H, W) is the start in the coordinates x_t / sqrt(alpha_bar): sigma_max times a standard normal draw (plus
the data, which is negligible there). `sigmas` falls and ends at 0. `noise(i)` gives the standard normal draw of step i,
in the shape of x, and is called only by stochastic samplers. `callback(i, x0)` receives every estimate.
denoiser(x, sigma, previous) -> x0 estimate; the sampler feeds its last estimate back (Chen et al. 2022).
Every sampler evaluates the denoiser once per step; the step to sigma 0 returns the last estimate.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
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
        # eq. 16 in these coordinates: the part of the next level's noise that is drawn again.
        fresh = eta * following * math.sqrt(sigma**2 - following**2) / sigma
        kept = math.sqrt(following**2 - fresh**2)
        x = previous + (x - previous) * (kept / sigma)
        if eta > 0:
            x = x + fresh * noise(i)
    return x


def ddpm(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """DDPM (Ho et al. 2020, algorithm 2) with the variance of the posterior (eq. 7): between any two noise levels it is
    DDIM with eta 1."""
    return ddim(denoiser, x, sigmas, noise, callback, eta=1.0)


def dpmpp_2m(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, one evaluation a step, deterministic."""
    return _two_estimates(denoiser, x, sigmas, None, callback)


def dpmpp_2m_sde(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, appendix B): the same for the reverse-time SDE of the diffusion."""
    return _two_estimates(denoiser, x, sigmas, noise, callback)


def _two_estimates(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise | None,
    callback: Callback | None,
) -> Tensor:
    """Steps along the line through the last two estimates, in log sigma. The first step, without a second estimate, and
    the step to sigma = 0 are of first order. Without noise it solves the ODE, with noise the SDE."""
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
            slope = previous + (previous - older) * (step / (2 * last_step))
        kept = following / sigma if noise is None else (following / sigma) ** 2
        x = x * kept + slope * (1 - kept)
        if noise is not None:
            x = x + noise(i) * (following * math.sqrt(1 - kept))
        last_step = step
    return x


def unipc(
    denoiser: DenoiserFunction,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None = None,
    order: int = 2,
) -> Tensor:
    """UniPC (Zhao et al. 2023, algorithm 1, B(h) = e^h - 1, data prediction): a predictor of this order, corrected with
    the estimate that the next step needs anyway, which gives one order more."""
    known: list[tuple[float, Tensor]] = []
    base = x
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        estimate = denoiser(x, sigma, known[-1][1] if known else None)
        if callback:
            callback(i, estimate)
        if following == 0:
            return estimate
        if known:
            x = _unified_step(base, known, sigma, estimate)
        known = [*known, (sigma, estimate)][-order:]
        base = x
        x = _unified_step(base, known, following)
    return x


def _unified_step(x: Tensor, known: list[tuple[float, Tensor]], to: float, estimate: Tensor | None = None):
    """From the last known noise level to `to` (Zhao et al. 2023, eq. 3 and 8): UniP from the known estimates, UniC also
    from the one at `to`."""
    sigma, newest = known[-1]
    h = math.log(sigma / to)
    # Positions of the other estimates, in steps from here.
    places = [math.log(sigma / other) / h for other, _ in known[:-1]]
    others = [of for _, of in known[:-1]]
    if estimate is not None:
        places, others = [*places, 1.0], [*others, estimate]
    change = math.expm1(-h)
    slope = newest
    for weight, place, other in zip(_unified_weights(places, h), places, others, strict=True):
        slope = slope + (other - newest) * (weight / place)
    return x * (to / sigma) - slope * change


def _unified_weights(places: list[float], h: float) -> list[float]:
    """Weights of the differences: sum_m a_m r_m^(n-1) = n! phi_(n+1)(-h) (-h)^n / B(-h) for n = 1, 2, ..."""
    if len(places) < 2:
        # The choice of the paper, correct to the same order.
        return [0.5] * len(places)
    right = []
    phi, factorial = math.expm1(-h) / -h - 1, 1
    for n in range(1, len(places) + 1):
        right.append(phi * factorial / math.expm1(-h))
        factorial *= n + 1
        phi = phi / -h - 1 / factorial
    powers = np.vander(places, increasing=True).T
    return np.linalg.solve(powers, right).tolist()


SAMPLERS = {
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
    "ddim": ddim,
    "ddpm": ddpm,
    "ddim_ref": ddim,
}
