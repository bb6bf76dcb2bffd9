"""Samplers on Gaussian data, for which the optimal denoiser and the exact trajectories are known."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate

from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.samplers import SAMPLERS, _unified_step, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, unipc
from slimdiff.diffusion.schedule import make_schedule, sampling_sigmas

MEAN, SPREAD = 0.3, 0.25


def best(x, sigma, previous):
    """E[x0 | x0 + sigma n = x] for x0 ~ N(MEAN, SPREAD^2)."""
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def exact(x, first, last):
    """The probability-flow trajectory: x - mean shrinks as sqrt(spread^2 + sigma^2)."""
    return MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + last**2) / (SPREAD**2 + first**2))


def no_noise(step):
    raise AssertionError("a deterministic sampler drew noise")


def start(sigma, count=64):
    noise = torch.randn((count, 1, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MEAN + noise * math.sqrt(SPREAD**2 + sigma**2)


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(ddim, 1), (dpmpp_2m, 2), (unipc, 3), (partial(unipc, order=1), 2), (partial(unipc, order=3), 4)],
    ids=["ddim", "dpmpp_2m", "unipc", "unipc-1", "unipc-3"],
)
def test_the_order_of_convergence_is_that_of_the_method(sampler, order):
    first, last = 20.0, 0.02
    x = start(first)
    errors = []
    for steps in (20, 40, 80, 160):
        sigmas = np.geomspace(first, last, steps + 1).tolist()
        errors.append((sampler(best, x, sigmas, no_noise) - exact(x, first, last)).abs().max().item())
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert abs(slopes[-1] - order) < 0.2, (errors, slopes)
    assert errors[-1] < 0.02


def test_a_higher_order_has_a_lower_error():
    sigmas = np.geomspace(20.0, 0.02, 26).tolist()
    x = start(20.0)
    expected = exact(x, 20.0, 0.02)
    errors = [
        (sampler(best, x, sigmas, no_noise) - expected).abs().max() for sampler in (ddim, dpmpp_2m, unipc)
    ]
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 2


@pytest.mark.parametrize(("sampler", "least"), [(dpmpp_2m, 1.75), (unipc, 2.7)])
def test_uneven_steps_keep_the_order(sampler, least):
    first, last = 20.0, 0.02
    x = start(first)
    errors = []
    for steps in (40, 80, 160):
        # Alternating long and short steps in log sigma.
        share = np.concatenate([[0], np.cumsum(np.resize([3.0, 1.0], steps))])
        share /= share[-1]
        sigmas = np.exp(math.log(first) + (math.log(last) - math.log(first)) * share).tolist()
        errors.append((sampler(best, x, sigmas, no_noise) - exact(x, first, last)).abs().max().item())
    assert math.log2(errors[-2] / errors[-1]) > least, errors


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("ddpm", "dpmpp_2m_sde")])
def test_levels_that_do_not_end_at_zero_stop_at_the_last_one(name):
    """A single step has a closed form: every sampler begins with order 1."""
    x = start(5.0)
    found = SAMPLERS[name](best, x, [5.0, 2.0], no_noise)
    torch.testing.assert_close(found, x * 2 / 5 + best(x, 5.0, None) * (1 - 2 / 5))
    final = SAMPLERS[name](best, x, [5.0, 0.0], no_noise)
    torch.testing.assert_close(final, best(x, 5.0, None))


def test_dpmpp_2m_matches_the_paper_s_algorithm_2():
    """The same chain in the paper's own coordinates x_t, alpha, lambda (Lu et al. 2022), with uneven steps."""
    alpha_bar = [0.001, 0.05, 0.1, 0.7, 0.8, 0.99]
    alpha = [math.sqrt(a) for a in alpha_bar]
    sigma = [math.sqrt(1 - a) for a in alpha_bar]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    x = start(sigma[0] / alpha[0], 8)
    found = dpmpp_2m(best, x, [s / a for s, a in zip(sigma, alpha, strict=True)], no_noise)
    x_t, older, last = x * alpha[0], None, None
    for i in range(5):
        estimate = best(x_t / alpha[i], sigma[i] / alpha[i], None)
        h = lam[i + 1] - lam[i]
        combined = estimate
        if older is not None:
            r = last / h
            combined = (1 + 1 / (2 * r)) * estimate - 1 / (2 * r) * older
        x_t = sigma[i + 1] / sigma[i] * x_t - alpha[i + 1] * (math.exp(-h) - 1) * combined
        older, last = estimate, h
    torch.testing.assert_close(found, x_t / alpha[-1])


@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_ddim_matches_the_paper_s_equation_12(eta):
    """The same chain in the paper's own coordinates x_t, alpha (Song et al. 2021, eq. 12 and 16)."""
    alpha_bar = [0.001, 0.05, 0.3, 0.7, 0.99]
    sigmas = [math.sqrt((1 - a) / a) for a in alpha_bar]
    draws = torch.randn((5, 8, 1, 1, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = start(sigmas[0], 8)
    found = ddim(best, x, [*sigmas, 0.0], lambda i: draws[i], eta=eta)
    x_t = x * math.sqrt(alpha_bar[0])
    for i, (a, b) in enumerate(itertools.pairwise(alpha_bar)):
        x0 = best(x_t / math.sqrt(a), math.sqrt((1 - a) / a), None)
        epsilon = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
        fresh = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        x_t = math.sqrt(b) * x0 + math.sqrt(1 - b - fresh**2) * epsilon + fresh * draws[i]
    torch.testing.assert_close(found, best(x_t / math.sqrt(alpha_bar[-1]), sigmas[-1], None))


def test_ddpm_matches_the_paper_s_algorithm_2():
    """Ho et al. (2020) with their betas: mean of eq. 11 for x0 = the estimate (eq. 7), variance beta tilde."""
    alpha_bar = make_schedule("cosine", 40).alpha_bar
    sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)[::-1]
    draws = torch.randn((40, 8, 1, 1, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = start(sigmas[0], 8)
    found = ddpm(best, x, [*sigmas, 0.0], lambda i: draws[i])
    x_t = x * math.sqrt(alpha_bar[-1])
    for i, t in enumerate(range(39, 0, -1)):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        beta = 1 - now / before
        x0 = best(x_t / math.sqrt(now), math.sqrt((1 - now) / now), None)
        mean = (
            math.sqrt(before) * beta / (1 - now) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - now) * x_t
        )
        x_t = mean + math.sqrt((1 - before) / (1 - now) * beta) * draws[i]
    torch.testing.assert_close(found, best(x_t / math.sqrt(alpha_bar[0]), sigmas[-1], None))


def test_dpmpp_2m_sde_matches_the_paper_s_update():
    """The same chain in the paper's own coordinates x_t, alpha, lambda (Lu et al. 2022, appendix B), uneven steps."""
    alpha_bar = [0.001, 0.05, 0.1, 0.7, 0.8, 0.99]
    alpha = [math.sqrt(a) for a in alpha_bar]
    sigma = [math.sqrt(1 - a) for a in alpha_bar]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    draws = torch.randn((5, 8, 1, 1, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = start(sigma[0] / alpha[0], 8)
    levels = [s / a for s, a in zip(sigma, alpha, strict=True)]
    found = dpmpp_2m_sde(best, x, levels, lambda i: draws[i])
    x_t, older, last = x * alpha[0], None, None
    for i in range(5):
        estimate = best(x_t / alpha[i], sigma[i] / alpha[i], None)
        h = lam[i + 1] - lam[i]
        decay = 1 - math.exp(-2 * h)
        x_t = sigma[i + 1] / sigma[i] * math.exp(-h) * x_t + alpha[i + 1] * decay * estimate
        if older is not None:
            x_t = x_t + alpha[i + 1] * decay / 2 * (estimate - older) / (last / h)
        x_t = x_t + sigma[i + 1] * math.sqrt(decay) * draws[i]
        older, last = estimate, h
    torch.testing.assert_close(found, x_t / alpha[-1])


def test_unipc_of_order_1_is_ddim_with_a_trapezoidal_corrector():
    """By hand: predict by DDIM, evaluate, correct with half the difference of the two estimates."""
    levels = [20.0, 7.0, 3.0, 0.4]
    x = start(levels[0], 8)
    found = unipc(best, x, levels, no_noise, order=1)
    here, base, older = x, None, None
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        estimate = best(here, sigma, None)
        if older is not None:
            ratio = sigma / levels[i - 1]
            here = base * ratio + (1 - ratio) * (older + (estimate - older) / 2)
        base, older = here, estimate
        ratio = following / sigma
        here = base * ratio + (1 - ratio) * estimate
    torch.testing.assert_close(found, here)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_unipc_s_corrector_is_exact_for_polynomials(degree):
    """x' = x - D in log sigma, with D a polynomial that the three estimates determine, integrated numerically."""
    levels = [9.0, 4.0, 0.7]

    def estimate(lam):
        return 0.3 + 0.4 * (lam - 0.2) ** degree

    lams = [-math.log(sigma) for sigma in levels]
    x = torch.tensor([2.5], dtype=torch.float64)
    gain, _ = integrate.quad(lambda lam: math.exp(lam) * estimate(lam), lams[1], lams[2])
    expected = x * levels[2] / levels[1] + levels[2] * gain
    known = [
        (sigma, torch.tensor([estimate(lam)], dtype=torch.float64))
        for sigma, lam in zip(levels[:2], lams[:2], strict=True)
    ]
    found = _unified_step(x, known, levels[2], torch.tensor([estimate(lams[2])], dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


COVARIANCE = torch.tensor([[0.09, 0.05, -0.02], [0.05, 0.06, 0.0], [-0.02, 0.0, 0.02]], dtype=torch.float64)
CENTRE = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)


def best_of_many(x, sigma, previous):
    """E[x0 | x0 + sigma n = x] for x0 ~ N(CENTRE, COVARIANCE), with three values in a row."""
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64))
    return CENTRE + (x - CENTRE) @ gain.T


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim_ref"])
def test_mean_and_covariance_converge_to_the_data_s(name):
    count = 40_000
    schedule = make_schedule("cosine", 1000)
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn((count, 1, 1, 3), generator=generator, dtype=torch.float64)
    # Sampling error of the start is removed: its mean and covariance are made exact.
    flat = normal.reshape(count, 3)
    flat = (flat - flat.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(flat.T))).T
    errors = []
    # The ancestral sampler needs the most steps.
    for evaluations in (10, 40, 1000 if name == "ddpm" else 160):
        sigmas = sampling_sigmas(schedule, evaluations)
        x = flat.reshape(count, 1, 1, 3) * math.sqrt(1 + sigmas[0] ** 2)
        drawn = SAMPLERS[name](
            best_of_many,
            x,
            sigmas.tolist(),
            lambda step: torch.randn((count, 1, 1, 3), generator=generator, dtype=torch.float64),
        ).reshape(count, 3)
        errors.append(
            (
                (drawn.mean(0) - CENTRE).abs().max().item(),
                (torch.cov(drawn.T) - COVARIANCE).abs().max().item() / COVARIANCE.max().item(),
            )
        )
    assert errors[-1][0] < 0.01, errors
    assert errors[-1][1] < 0.03, errors
    # The error of coarse chains falls with the number of steps.
    assert errors[-1][1] < errors[0][1] / 2, errors


@pytest.mark.parametrize(
    ("name", "options", "evaluations"),
    [
        ("ddim", {"eta": 1.0}, 1000),
        ("ddim", {"eta": 0.2}, 150),
        ("ddim", {}, 150),
        ("ddpm", {}, 1000),
        ("dpmpp_2m", {}, 25),
        ("dpmpp_2m_sde", {}, 100),
        ("unipc", {}, 25),
    ],
)
def test_samples_have_the_data_s_mean_and_variance(name, options, evaluations):
    count = 30_000
    generator = torch.Generator().manual_seed(0)
    sigmas = sampling_sigmas(make_schedule("cosine", 1000), evaluations)
    x = torch.randn((count, 1, 1, 1), generator=generator, dtype=torch.float64) * math.sqrt(
        1 + sigmas[0] ** 2
    )

    def noise(step):
        return torch.randn((count, 1, 1, 1), generator=generator, dtype=torch.float64)

    drawn = SAMPLERS[name](best, x, sigmas.tolist(), noise, **options)
    assert drawn.mean().item() == pytest.approx(MEAN, abs=5 * SPREAD / math.sqrt(count) + 0.003)
    assert drawn.std().item() == pytest.approx(SPREAD, rel=0.03)


def test_the_last_estimate_is_fed_back_and_passed_to_the_callback():
    for sampler, more in (
        (ddim, {}),
        (ddim, {"eta": 0.5}),
        (ddpm, {}),
        (dpmpp_2m, {}),
        (dpmpp_2m_sde, {}),
        (unipc, {}),
    ):
        seen, shown, given = [], [], []

        def spy(x, sigma, previous, seen=seen, given=given):
            seen.append((sigma, previous))
            given.append(best(x, sigma, previous))
            return given[-1]

        drawn_steps = []

        def noise(step, drawn_steps=drawn_steps):
            drawn_steps.append(step)
            return torch.zeros(64, 1, 1, 1, dtype=torch.float64)

        result = sampler(
            spy, start(9.0), [9.0, 3.0, 1.0, 0.0], noise, lambda i, x0, s=shown: s.append((i, x0)), **more
        )
        assert [sigma for sigma, _ in seen] == [9.0, 3.0, 1.0]
        assert seen[0][1] is None
        assert seen[1][1] is given[0]
        assert seen[2][1] is given[1]
        assert [i for i, _ in shown] == [0, 1, 2]
        assert all(x0 is expected for (_, x0), expected in zip(shown, given, strict=True))
        assert result is given[-1]
        # Every stochastic step has its own draw, and the step to sigma 0 has none.
        assert drawn_steps == ([0, 1] if more or sampler in (ddpm, dpmpp_2m_sde) else [])


@pytest.mark.parametrize("prediction", ["x0", "epsilon", "v"])
def test_the_denoiser_scales_inputs_as_in_training(prediction):
    """A perfect network of any prediction type gives the optimal denoiser, at the time of sigma."""
    schedule = make_schedule("cosine", 1000)
    previous = torch.zeros(4, 1, 1, 1)
    for t in (3, 500, 980):
        alpha_bar = schedule.alpha_bar[t]
        signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        sigma = noise / signal

        def network(x_t, time, condition, fed, signal=signal, noise=noise, sigma=sigma, t=t):
            assert fed is previous
            torch.testing.assert_close(time, torch.full((4,), float(t)), rtol=0, atol=1e-3)
            x0 = best(x_t / signal, sigma, None)
            epsilon = (x_t - signal * x0) / noise
            return {"x0": x0, "epsilon": epsilon, "v": signal * epsilon - noise * x0}[prediction]

        x = start(sigma, 4)
        found = Denoiser(network, schedule, prediction, clip=False)(x, sigma, previous)
        torch.testing.assert_close(found.double(), best(x, sigma, None), rtol=1e-4, atol=1e-3)
        clipped = Denoiser(network, schedule, prediction)(x * 100, sigma, previous)
        assert clipped.abs().max() <= 1
