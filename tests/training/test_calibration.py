"""The calibration of masks is fitted at the end of a training, and used by the generator."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_sampling import generator_of
from helpers.tiny_training import CPU, PARTICIPANTS, tiny_store, trainer_in

from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.mask_calibration import MaskCalibration
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.generation.requests import Request
from slimdiff.model.checkpoint import read_card
from slimdiff.training.calibration import FEWEST_SLICES, fit_mask_calibration, lesion_areas, logistic_fit
from slimdiff.training.data import TrainingSet

SCHEDULE = make_schedule("cosine", 1000)
OPTIONS = {"acquisition": False, "self_conditioning": False, "seed": 0}


@pytest.fixture
def slices(tmp_path):
    return TrainingSet(tiny_store(tmp_path, count=96), PARTICIPANTS, CPU)


def test_a_logistic_regression_finds_the_log_odds_of_the_labels():
    rng = np.random.default_rng(0)
    values = 2 * rng.normal(size=200_000)
    chance = 1 / (1 + np.exp(-(0.8 * values - 0.6)))
    np.testing.assert_allclose(logistic_fit(values, rng.random(len(chance)) < chance), [0.8, -0.6], atol=0.03)


def test_it_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    values = 5 * rng.normal(size=3000)
    targets = (0.4 * values + rng.logistic(size=3000) > 1).astype(float)
    twin = LogisticRegression(C=1e6, tol=1e-9).fit(values[:, None], targets)
    np.testing.assert_allclose(
        logistic_fit(values, targets), [twin.coef_[0, 0], twin.intercept_[0]], rtol=0.01
    )


def test_values_that_are_told_apart_have_finite_weights_that_tell_them_apart():
    slope, offset = logistic_fit(np.repeat([-7.0, 7.0], [500, 10]), np.repeat([0.0, 1.0], [500, 10]))
    assert np.isfinite([slope, offset]).all()
    assert 7 * slope + offset > 5
    assert -7 * slope + offset < -5


def bayes_of(slices, weight):
    """A network that knows that the lesion is in one of four places: the posterior mean of the mask, its odds times
    `weight`, and zeros as images."""
    known = slices.at(slices.with_lesion).x0[:, 1].unique(dim=0)
    known = torch.cat([known.roll((dy, dx), (1, 2)) for dy in (0, 3) for dx in (0, 3)])

    def network(x_t, time, condition, previous):
        sigma = float(SCHEDULE.sigma_at(float(time[0])))
        x = x_t[:, 1] * (1 + sigma**2) ** 0.5
        logits = -(x[:, None] - known).square().sum(dim=(2, 3)) / (2 * sigma**2)
        chance = (torch.softmax(logits, dim=1) @ (known.flatten(1) + 1).div(2)).view(x.shape)
        distorted = weight * chance / (1 + (weight - 1) * chance)
        return torch.stack([torch.zeros_like(x), 2 * distorted - 1], dim=1)

    return network


@pytest.mark.parametrize("weight", [0.2, 1.0, 6.0])
def test_odds_times_a_weight_are_found(slices, weight):
    """At noise levels at which the network is neither certain nor blind."""
    fitted = fit_mask_calibration(Denoiser(bayes_of(slices, weight), SCHEDULE, "x0"), slices, **OPTIONS)
    assert fitted.log_sigma == sorted(fitted.log_sigma)
    assert fitted.least_px == 6
    for log_sigma in (0.93, 1.98):
        slope, offset = (np.interp(log_sigma, fitted.log_sigma, of) for of in (fitted.slopes, fitted.offsets))
        assert slope == pytest.approx(1, abs=0.15)
        assert offset == pytest.approx(-np.log(weight), abs=0.25)


def test_the_expected_area_along_a_chain_is_that_of_the_training_lesions(slices):
    """A network that always expects the same chance in every pixel; the smallest lesion is no help."""

    def network(x_t, time, condition, previous):
        return torch.full_like(x_t, -0.2)

    fitted = fit_mask_calibration(Denoiser(network, SCHEDULE, "x0"), slices, **OPTIONS)
    estimate = torch.full((1, 8, 8), -0.2)
    for log_sigma in fitted.log_sigma:
        chance = (fitted(estimate, float(np.exp(log_sigma))) + 1) / 2
        assert float(chance.sum()) == pytest.approx(6, rel=0.03)


def test_areas_are_those_of_the_lesion_slices(slices):
    assert lesion_areas(slices).tolist() == [6] * len(slices.with_lesion)


def test_too_few_lesions_are_not_fitted(slices):
    slices.with_lesion = slices.with_lesion[: FEWEST_SLICES - 1]
    denoiser = Denoiser(bayes_of(slices, 1.0), SCHEDULE, "x0")
    assert fit_mask_calibration(denoiser, slices, **OPTIONS) is None


def test_a_checkpoint_has_the_calibration_of_its_weights_and_samples_use_it(tmp_path):
    folder = tmp_path / "model"
    trainer_in(folder, further_ema_decays=(0.5,)).run()
    kept = read_card(folder / "model.safetensors").mask_calibration
    other = read_card(folder / "ema-0.5.safetensors").mask_calibration
    assert MaskCalibration(**kept).least_px == MaskCalibration(**other).least_px == 6
    assert kept["slopes"] != other["slopes"]
    assert json.loads(json.dumps(kept)) == kept
    requests = [Request(f"{label}-{n}", n, label, 0, n) for label in (0, 1) for n in range(3)]
    drawn = {
        used: generator_of(folder / "model.safetensors", calibrate_masks=used).draw(requests)[1].astype(float)
        for used in (True, False)
    }
    assert np.array_equal(drawn[True][:3], drawn[False][:3])
    assert not np.array_equal(drawn[True][3:], drawn[False][3:])
    assert ((drawn[True][3:] > 0).sum(axis=(1, 2)) > 0).all()
