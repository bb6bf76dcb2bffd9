"""The sampling chain of samples and previews: its noise levels, its start, and the fixed part."""

import math

import numpy as np
import pytest
import torch

from slimdiff.diffusion import chain
from slimdiff.diffusion.denoiser import Denoiser, Inpainted, lesion_hint
from slimdiff.diffusion.samplers import SAMPLERS
from slimdiff.diffusion.schedule import leading, make_schedule, sampling_sigmas

SCHEDULE = make_schedule("cosine", 1000)
SHAPE = (3, 2, 12, 12)


def noise(number):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


def network(x_t, time, condition, previous):
    """An x0 estimate that depends on every argument."""
    fed = 0.0 if previous is None else 0.1 * previous
    return (x_t + condition).tanh() * (1 - time.view(-1, 1, 1, 1) / 2000) + fed


DENOISER = Denoiser(network, SCHEDULE, "x0", condition=0.3)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddim_ref"])
def test_levels_have_the_spacing_and_are_checked(sampler, capsys):
    for spacing in ("trailing", "log_snr"):
        found = chain.sigmas_for(SCHEDULE, sampler, spacing, 20)
        np.testing.assert_array_equal(found, sampling_sigmas(SCHEDULE, 20, spacing))
    with pytest.raises(ValueError, match="starts from pure noise"):
        chain.sigmas_for(SCHEDULE, sampler, "leading", 300)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("spacing", ["trailing", "log_snr", "leading"])
def test_the_gaussian_model_has_levels_of_its_own_above_those_of_the_network(spacing):
    found = chain.sigmas_for(SCHEDULE, "dpmpp_2m", spacing, 10, gaussian_above=8.0)
    above, below = found[: chain.GAUSSIAN_STEPS], found[chain.GAUSSIAN_STEPS :]
    assert found[0] == pytest.approx(sampling_sigmas(SCHEDULE, 10)[0])
    assert (above > 8).all()
    assert len(below) == 11
    assert below[0] == 8 if spacing != "leading" else below[0] <= 8
    assert (np.diff(found) < 0).all()
    assert found[-1] == 0
    steps = np.diff(np.log(below[:-1]))
    if spacing == "log_snr":
        np.testing.assert_allclose(steps, steps[0])
        assert below[-2] == pytest.approx(sampling_sigmas(SCHEDULE, 10, "log_snr")[-2])


def test_a_level_above_the_start_leaves_the_chain_to_the_network():
    found = chain.sigmas_for(SCHEDULE, "dpmpp_2m", "log_snr", 10, gaussian_above=1000.0)
    np.testing.assert_array_equal(found, sampling_sigmas(SCHEDULE, 10, "log_snr"))


def test_the_denoiser_asks_the_gaussian_model_above_its_level_only():
    asked = []

    def gaussian(x_t, time, condition):
        asked.append((time[0].item(), condition))
        return torch.full_like(x_t, 0.25)

    denoiser = Denoiser(network, SCHEDULE, "x0", condition=0.3, gaussian=gaussian, gaussian_above=8.0)
    x = torch.randn(SHAPE)
    assert (denoiser(x, 8.1, None) == 0.25).all()
    assert asked == [(pytest.approx(SCHEDULE.time_at(8.1)), 0.3)]
    assert torch.equal(denoiser(x, 8.0, None), DENOISER(x, 8.0, None))
    assert len(asked) == 1


def test_ddim_ref_starts_with_signal_left_and_warns(capsys):
    found = chain.sigmas_for(SCHEDULE, "ddim_ref", "trailing", 300)
    np.testing.assert_array_equal(found, leading(SCHEDULE, 300))
    assert "sqrt(alpha_bar) is 0.158" in capsys.readouterr().err
    chain.sigmas_for(SCHEDULE, "ddim_ref", "trailing", 300, quiet=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="expected 1 to 1000 with leading spacing, found 1001"):
        chain.sigmas_for(SCHEDULE, "ddim_ref", "trailing", 1001)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_chain_is_the_sampler_from_the_scaled_start(sampler):
    """Bit for bit: draw 0 is the start, draw 1 that of step 0."""
    sigmas = sampling_sigmas(SCHEDULE, 6)
    eta = {"eta": 0.4} if SAMPLERS[sampler] is SAMPLERS["ddim"] else {}
    found = chain.draw(DENOISER, noise, sigmas=sigmas, sampler=sampler, **eta)
    start = noise(0) * math.sqrt(1 + sigmas[0] ** 2)
    twin = SAMPLERS[sampler](DENOISER, start, sigmas.tolist(), lambda step: noise(step + 1), **eta)
    assert torch.equal(found, twin)
    assert found.is_inference()


def test_eta_is_refused_where_a_sampler_has_none():
    with pytest.raises(TypeError, match="eta"):
        chain.draw(DENOISER, noise, sigmas=sampling_sigmas(SCHEDULE, 4), sampler="unipc", eta=0.2)


def test_the_fixed_part_starts_noisy_and_ends_unchanged():
    sigmas, seen = sampling_sigmas(SCHEDULE, 6), []
    values = torch.linspace(-1, 1, math.prod(SHAPE)).reshape(SHAPE).half()
    where = torch.ones(SHAPE, dtype=torch.bool)
    where[:, :, 3:10, 2:9] = False
    part = chain.FixedPart(values, where, torch.tensor([True, False, True]))

    def spy(x_t, time, condition, previous):
        seen.append(x_t)
        return network(x_t, time, condition, previous)

    denoiser = Denoiser(spy, SCHEDULE, "x0", condition=0.3)
    found = chain.draw(denoiser, noise, part, sigmas=sigmas, sampler="dpmpp_2m")
    assert torch.equal(found[where], values.float()[where])
    signal = 1 / math.sqrt(1 + sigmas[0] ** 2)
    expected = (values.float() + float(sigmas[0]) * noise(0)) * signal
    torch.testing.assert_close(seen[0][where], expected[where])
    # The hint applies only to samples that request a lesion.
    start = torch.where(where, values + float(sigmas[0]) * noise(0), noise(0) * math.sqrt(1 + sigmas[0] ** 2))
    hinted = lesion_hint(where)
    hinted[1] = False
    twin = Inpainted(DENOISER, values.float(), where, hinted)
    assert torch.equal(found, SAMPLERS["dpmpp_2m"](twin, start, sigmas.tolist(), noise))


def test_indexing_a_fixed_part_indexes_all_its_fields():
    part = chain.FixedPart(torch.arange(3.0), torch.tensor([True, False, True]), torch.arange(3) > 1)
    for rows in (slice(1, 3), torch.tensor([2, 2, 0])):
        chosen = part[rows]
        assert torch.equal(chosen.values, part.values[rows])
        assert torch.equal(chosen.where, part.where[rows]) and torch.equal(chosen.lesion, part.lesion[rows])


def test_the_precision_applies_to_the_network_only():
    """In bfloat16 the network's products are rounded; the arithmetic of the chain stays float32."""
    weight, seen = torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(1)), []

    def convolving(x_t, time, condition, previous):
        output = torch.nn.functional.conv2d(x_t, weight)
        seen.append((x_t.dtype, output.dtype))
        return output

    for precision in (torch.float32, torch.bfloat16):
        seen.clear()
        denoiser = Denoiser(convolving, SCHEDULE, "x0")
        found = chain.draw(
            denoiser, noise, sigmas=sampling_sigmas(SCHEDULE, 3), sampler="unipc", precision=precision
        )
        assert found.dtype == torch.float32
        assert set(seen) == {(torch.float32, precision)}
