"""Schedules against the papers' formulas in plain Python, and the start of every chain (docs/method.md, F1)."""

import math

import numpy as np
import pytest

from slimdiff.diffusion.schedule import Schedule, check_start, make_schedule, sampling_sigmas

SCHEDULES = ("cosine", "linear", "sigmoid")


def cosine(T):
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar(t) = f(t) / f(0), betas clipped at 0.999."""

    def f(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    product, result = 1.0, []
    for t in range(1, T + 1):
        product *= 1 - min(1 - f(t) / f(t - 1), 0.999)
        result.append(product)
    return result


def linear(T):
    """Ho et al. 2020: beta from 1e-4 to 0.02."""
    product, result = 1.0, []
    for t in range(T):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / (T - 1))
        result.append(product)
    return result


def sigmoid(T):
    """Jabri et al. 2022, start -3, end 3, tau 1; betas clipped at 0.999 as in the cosine schedule."""

    def f(t):
        def logistic(x):
            return 1 / (1 + math.exp(-x))

        return (logistic(3) - logistic(-3 + 6 * t / T)) / (logistic(3) - logistic(-3))

    product, result = 1.0, []
    for t in range(1, T + 1):
        product *= 1 - min(1 - f(t) / f(t - 1), 0.999)
        result.append(product)
    return result


@pytest.mark.parametrize("twin", [cosine, linear, sigmoid], ids=SCHEDULES)
def test_alpha_bar_matches_the_paper(twin):
    found = make_schedule(twin.__name__, 1000).alpha_bar
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, twin(1000), rtol=1e-9)


@pytest.mark.parametrize("twin", [cosine, sigmoid])
def test_alpha_bar_for_other_lengths(twin):
    np.testing.assert_allclose(make_schedule(twin.__name__, 50).alpha_bar, twin(50), rtol=1e-9)


def test_cosine_has_known_values():
    alpha_bar = make_schedule("cosine", 1000).alpha_bar
    # The reference's starts (docs/method.md, F1): step 897 has sqrt(alpha_bar) 0.158, step 798 has 0.308.
    assert math.sqrt(alpha_bar[897]) == pytest.approx(0.158, abs=1e-3)
    assert math.sqrt(alpha_bar[798]) == pytest.approx(0.308, abs=1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [10, 100, 1000, 4000])
def test_noise_rises_with_time(name, timesteps):
    schedule = make_schedule(name, timesteps)
    assert schedule.timesteps == timesteps
    assert 0 < schedule.alpha_bar[-1] < schedule.alpha_bar[0] < 1
    assert (np.diff(schedule.log_sigma) > 0).all()
    np.testing.assert_allclose(
        np.exp(schedule.log_sigma), np.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar), rtol=1e-6
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_and_sigma_are_inverse(name):
    schedule = make_schedule(name, 1000)
    times = np.array([0, 0.25, 17.5, 400, 731.9, 999])
    np.testing.assert_allclose(schedule.time_at(schedule.sigma_at(times)), times, atol=1e-6)
    # On training times the interpolation is the schedule itself.
    np.testing.assert_allclose(schedule.sigma_at(np.arange(1000)), np.exp(schedule.log_sigma))


@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_f1_every_chain_starts_in_noise_and_ends_at_zero(name, spacing):
    schedule = make_schedule(name, 1000)
    for evaluations in range(1, 1001):
        sigmas = sampling_sigmas(schedule, evaluations, spacing)
        assert len(sigmas) == evaluations + 1
        signal = 1 / math.sqrt(1 + sigmas[0] ** 2)
        assert signal <= 0.02, (name, spacing, evaluations)
        assert sigmas[-1] == 0
        assert (np.diff(sigmas) < 0).all()
        # Within the noise levels of training.
        assert sigmas[0] <= math.exp(schedule.log_sigma[-1]) * (1 + 1e-9)
        assert sigmas[-2] >= math.exp(schedule.log_sigma[0]) * (1 - 1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [10, 37, 300])
def test_levels_are_distinct_with_more_evaluations_than_times(name, timesteps):
    """Two equal levels would divide by zero in a multistep solver."""
    schedule = make_schedule(name, timesteps)
    for evaluations in (2, timesteps - 1, timesteps, timesteps + 1, 3 * timesteps, 1000):
        sigmas = sampling_sigmas(schedule, evaluations)
        assert (np.diff(sigmas) < 0).all()


def test_time_spacing_is_even_and_trailing():
    schedule = make_schedule("linear", 1000)
    times = schedule.time_at(sampling_sigmas(schedule, 10)[:-1])
    np.testing.assert_allclose(times, np.arange(999, 0, -100), atol=1e-6)


def test_log_snr_spacing_is_even():
    sigmas = sampling_sigmas(make_schedule("cosine", 1000), 12, "log_snr")[:-1]
    np.testing.assert_allclose(np.diff(np.log(sigmas)), np.diff(np.log(sigmas))[0])
    assert sigmas[0] == pytest.approx(math.exp(5.1))


def test_f1_starts_with_signal_left_are_refused():
    """The reference's 300 and 400 steps start pure noise at times 897 and 798."""
    schedule = make_schedule("cosine", 1000)
    for time in (897, 798):
        with pytest.raises(ValueError, match=r"sqrt\(alpha_bar\)"):
            check_start(schedule.sigma_at(time))
    check_start(schedule.sigma_at(999))
    # A schedule without pure noise cannot start a chain.
    with pytest.raises(ValueError, match="pure noise"):
        sampling_sigmas(Schedule(schedule.alpha_bar[:800]), 25)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="schedule: expected cosine, linear or sigmoid, found"):
        make_schedule("cos", 1000)
    with pytest.raises(ValueError, match="spacing: expected trailing, leading or log_snr, found"):
        sampling_sigmas(make_schedule("cosine", 1000), 10, "karras")
    with pytest.raises(ValueError, match="at least 1"):
        sampling_sigmas(make_schedule("cosine", 1000), 0)
