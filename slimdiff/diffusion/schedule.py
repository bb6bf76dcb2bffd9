"""Variance-preserving noise schedules: discrete in training, continuous at inference.

x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) epsilon. Samplers work in the coordinates x_t / sqrt(alpha_bar),
where the noise level is sigma = sqrt(1 - alpha_bar) / sqrt(alpha_bar) and an x0 network is the denoiser.
"""

import math
from dataclasses import dataclass

import numpy as np

# Half log signal-to-noise -5.1, the start of a chain: sigma 164, sqrt(alpha_bar) 0.006 (Lu et al. 2022).
SIGMA_MAX = math.exp(5.1)
# Evaluations of a chain with fine steps.
FINE = 250
# Largest sqrt(alpha_bar) at which a chain may start from pure noise: there the data must no longer show.
LARGEST_FIRST_SIGNAL = 0.02


@dataclass(frozen=True)
class Schedule:
    """alpha_bar of T training noise levels, float64 (T,), and its continuous interpolation."""

    alpha_bar: np.ndarray

    @property
    def timesteps(self) -> int:
        return len(self.alpha_bar)

    @property
    def log_sigma(self) -> np.ndarray:
        """log sigma of every training time, float64 (T,), rising."""
        return 0.5 * (np.log1p(-self.alpha_bar) - np.log(self.alpha_bar))

    def sigma_at(self, timestep: np.ndarray) -> np.ndarray:
        """sigma at real times in 0 ... T - 1, linear in log sigma between training times."""
        return np.exp(np.interp(timestep, np.arange(self.timesteps), self.log_sigma))

    def time_at(self, sigma: np.ndarray) -> np.ndarray:
        """Inverse of `sigma_at`, clipped to the training range."""
        return np.interp(np.log(sigma), self.log_sigma, np.arange(self.timesteps))


def make_schedule(name: str, timesteps: int) -> Schedule:
    """cosine (Nichol & Dhariwal 2021, eq. 17), linear (Ho et al. 2020) or sigmoid (Jabri et al. 2022)."""
    if name == "cosine":
        offset = 0.008
        grid = np.arange(timesteps + 1, dtype=np.float64) / timesteps
        signal = np.cos((grid + offset) / (1 + offset) * math.pi / 2) ** 2
        betas = np.clip(1 - signal[1:] / signal[:-1], 0, 0.999)
    elif name == "linear":
        # The published end points belong to T = 1000; the sum of betas is kept for other T.
        scale = 1000 / timesteps
        betas = np.clip(np.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=np.float64), 0, 0.999)
    elif name == "sigmoid":
        start, end = -3.0, 3.0
        grid = np.arange(timesteps + 1, dtype=np.float64) / timesteps
        curve = 1 / (1 + np.exp(-(start + (end - start) * grid)))
        signal = (curve[-1] - curve) / (curve[-1] - curve[0])
        betas = np.clip(1 - signal[1:] / signal[:-1], 0, 0.999)
    else:
        raise ValueError(f"schedule: expected cosine, linear or sigmoid, found {name!r}")
    return Schedule(np.cumprod(1 - betas))


def noisiest(schedule: Schedule) -> float:
    """The noise level at which a chain starts from pure noise."""
    return min(SIGMA_MAX, float(np.exp(schedule.log_sigma[-1])))


def sampling_sigmas(
    schedule: Schedule, evaluations: int, spacing: str = "trailing", first: float | None = None
) -> np.ndarray:
    """Noise levels of a chain: `evaluations` falling values, then 0; float64 (evaluations + 1,).

    `trailing` spaces them evenly in training time down from the noisiest, `leading` up from time 0 (see `leading`),
    `log_snr` evenly in log sigma, down to the last level of a trailing chain of 250: evaluations at still lower noise
    only add texture (docs/sampling.md).

    Args:
        schedule: of the training.
        evaluations: number of levels above 0.
        spacing: trailing, leading or log_snr.
        first: the highest level (with `leading`, an upper bound of it); None: that of a start from pure noise.
    Raises:
        ValueError: without `first`, where the first level has sqrt(alpha_bar) > 0.02: pure noise would be a wrong
            start.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations: expected at least 1, found {evaluations}")
    highest = noisiest(schedule) if first is None else first
    t_max = float(schedule.time_at(np.array(highest)))
    if spacing == "leading":
        times = schedule.timesteps if first is None else int(t_max) + 1
        sigmas = leading(schedule, evaluations, times)[:-1]
    elif spacing == "trailing":
        # With more evaluations than training times the steps shrink to end at time 0, so no level is duplicate.
        step = min((t_max + 1) / evaluations, t_max / max(evaluations - 1, 1))
        sigmas = schedule.sigma_at(t_max - step * np.arange(evaluations))
    elif spacing == "log_snr":
        lowest = float(
            np.interp(schedule.timesteps / FINE - 1, np.arange(schedule.timesteps), schedule.log_sigma)
        )
        sigmas = np.exp(np.linspace(math.log(highest), lowest, evaluations))
    else:
        raise ValueError(f"spacing: expected trailing, leading or log_snr, found {spacing!r}")
    if first is None:
        check_start(sigmas[0])
    elif spacing != "leading":
        sigmas[0] = first  # free of rounding
    return np.append(sigmas, 0.0)


def leading(schedule: Schedule, evaluations: int, times: int | None = None) -> np.ndarray:
    """Noise levels of leading spacing, every T // evaluations-th of the first T training times (default: all), then 0.

    Unchecked, as the DDIM of the published code has them: its first level may have sqrt(alpha_bar) 0.158 (300 of 1000)
    or 0.308 (400). Only that chain is allowed to, for a comparison with published numbers.
    """
    times = schedule.timesteps if times is None else times
    if not 1 <= evaluations <= times:
        raise ValueError(f"evaluations: expected 1 to {times} with leading spacing, found {evaluations}")
    return np.append(schedule.sigma_at(np.arange(evaluations)[::-1] * (times // evaluations)), 0.0)


def check_start(sigma: float) -> None:
    """Raise ValueError if a chain that starts at `sigma` from pure noise would miss part of the signal."""
    signal = 1 / math.sqrt(1 + float(sigma) ** 2)
    if signal > LARGEST_FIRST_SIGNAL:
        raise ValueError(
            f"the chain starts from pure noise at sigma {sigma:.3g}, where sqrt(alpha_bar) is {signal:.3g}, expected "
            f"at most {LARGEST_FIRST_SIGNAL}; take another spacing"
        )
