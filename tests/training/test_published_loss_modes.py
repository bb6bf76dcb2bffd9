"""Each named loss mode of the reference is the combination given in config/README.md."""

import numpy as np
import pytest
import torch

from slimdiff.config.base import merged
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.recipes import PUBLISHED
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.key_reference import MODES
from slimdiff.model.conditioning import Condition
from slimdiff.training.data import Batch
from slimdiff.training.objective import NoiseDraw, Objective

LOG_VARIANCES = [0.4, -0.7, 0.2]


def mean_distance(a, b):
    """Replaces LPIPS: any distance between two images."""
    return (a - b).abs().mean(dim=(1, 2, 3))


def a_case():
    rng = np.random.default_rng(0)
    x0 = rng.uniform(-1, 1, (4, 2, 6, 6))
    epsilon, output = rng.normal(size=(2, 4, 2, 6, 6))
    return x0, epsilon, output, np.array([40, 300, 650, 980])


def expected_loss(mode: str) -> float:
    """The loss of a mode in NumPy, from the formulas, for network output `output` and one draw per sample."""
    x0, epsilon, output, times = a_case()
    alpha_bar = make_schedule("cosine", 1000).alpha_bar[times][:, None, None, None]
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    velocity = signal * epsilon - noise * x0
    # An x0 estimate implies an epsilon, and both a velocity.
    implied = (signal * x0 + noise * epsilon - signal * output) / noise
    found = signal * implied - noise * output
    p = 2.0 if mode in ("mse_channels", "mse_ffl_groups", "pmf_v_loss", "pmf_v_loss_lpips") else 1.5
    difference = found - velocity if mode.startswith("pmf_v") else output - x0
    image, mask = (np.abs(difference[:, channel]) ** p for channel in (0, 1))
    terms = [image.mean(), mask.mean()]
    if "ffl" in mode:
        spectra = np.fft.fft2(output[:, 0] - x0[:, 0], norm="ortho")
        size = np.abs(spectra)
        weight = (size / size.max(axis=(1, 2), keepdims=True)) ** 1.3
        terms.append((weight * size**2).mean())
    if "lpips" in mode:
        early = times < 500
        terms.append(0.1 * np.abs(output - x0)[early, 0].mean())
    s = np.array(LOG_VARIANCES)
    if mode.endswith("ffl_groups"):
        groups = np.array([terms[0] + terms[1], terms[2]])
    elif mode == "mse_channels" or mode.startswith("pmf"):
        groups = np.array(terms)
    else:
        return sum(terms)
    s = s[: len(groups)]
    return float((np.exp(-s) * groups + s / 2).sum())


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_matches_its_formula(mode):
    config = DiffusionConfig.model_validate(merged(PUBLISHED["diffusion"], MODES[mode]))
    perceptual = mean_distance if config.loss.perceptual.weight else None
    objective = Objective(config, 0.0, perceptual)
    if objective.uncertainty is not None:
        values = objective.uncertainty.log_variances
        values.data.copy_(torch.tensor(LOG_VARIANCES[: len(values)]))
    x0, epsilon, output, times = (torch.from_numpy(array) for array in a_case())
    zeros = torch.zeros(4, dtype=torch.long)
    batch = Batch(x0.float(), Condition(zeros, zeros))
    draws = NoiseDraw(times, epsilon.float(), 0)
    terms = objective(lambda x, time, condition, previous: output.float(), batch, draws)
    assert objective.total(terms).item() == pytest.approx(expected_loss(mode), rel=2e-4)
