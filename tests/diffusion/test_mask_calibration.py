"""Calibrated masks: the chance of a lesion from a distorted estimate, and no lost lesion."""

import math

import numpy as np
import pytest
import torch

from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.mask_calibration import MaskCalibration
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.model.conditioning import Condition

LEVELS = [math.log(0.1), math.log(10.0)]


def calibration(slopes, offsets, least_px=0.0):
    return MaskCalibration(LEVELS, slopes, offsets, least_px)


def test_slope_1_and_offset_0_leave_the_estimate_as_it_is():
    estimate = torch.linspace(-0.99, 0.99, 64).view(1, 8, 8)
    torch.testing.assert_close(calibration([1, 1], [0, 0])(estimate, 1.0), estimate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1.5, 2.0])
def test_exponent_and_lesion_weight_of_the_loss_are_undone(p):
    """Over lesions of chance q and weight w, |error|^p is least at the odds (w q / (1 - q))^(1 / (p - 1))."""
    q, w = torch.linspace(0.05, 0.9, 36).view(1, 6, 6).double(), 2.0
    candidates = torch.linspace(-0.9999, 0.9999, 20001).double()
    loss = w * q[..., None] * (1 - candidates) ** p + (1 - q[..., None]) * (1 + candidates) ** p
    estimate = candidates[loss.argmin(dim=-1)]
    undone = calibration([p - 1] * 2, [-math.log(w)] * 2)(estimate, 1.0)
    torch.testing.assert_close(undone, 2 * q - 1, rtol=0, atol=2e-2)


def test_slope_and_offset_are_linear_in_log_sigma_and_constant_outside():
    estimate = torch.full((1, 2, 2), 0.5)
    own = calibration([1.0, 3.0], [0.0, 2.0])
    expected = 2 * torch.sigmoid(2 * torch.logit(torch.tensor(0.75)) + 1) - 1
    torch.testing.assert_close(own(estimate, 1.0), expected.expand(1, 2, 2))
    np.testing.assert_array_equal(own(estimate, 0.01), own(estimate, 0.1))
    np.testing.assert_array_equal(own(estimate, 100.0), own(estimate, 10.0))
    assert not torch.equal(own(estimate, 0.1), own(estimate, 10.0))


def test_the_chances_of_a_slice_sum_to_the_least_area_or_more():
    """Four pixels stand out: after the raise most of the area is there."""
    estimate = torch.full((1, 16, 16), -0.999)
    estimate[0, 4, 5:9] = -0.9
    chance = (calibration([1, 1], [0, 0], least_px=2.0)(estimate, 1.0) + 1) / 2
    assert float(chance.sum()) == pytest.approx(2, rel=1e-4)
    assert chance[0, 4, 5:9].min() > 20 * chance[0, 12, 12]
    large = torch.full((1, 16, 16), 0.5)
    torch.testing.assert_close(calibration([1, 1], [0, 0], least_px=2.0)(large, 1.0), large)


def test_a_denoiser_calibrates_masks_of_class_1_only():
    torch.manual_seed(0)
    estimate = 0.8 * torch.rand(4, 2, 6, 6) - 0.4
    condition = Condition(torch.zeros(4).long(), torch.tensor([0, 1, 0, 1]))
    own = calibration([2, 2], [1, 1])
    denoiser = Denoiser(
        lambda *inputs: estimate, make_schedule("cosine", 1000), "x0", condition=condition, calibration=own
    )
    found = denoiser(torch.randn(4, 2, 6, 6), 1.0, None)
    assert torch.equal(found[:, 0], estimate[:, 0])
    assert torch.equal(found[::2], estimate[::2])
    torch.testing.assert_close(found[1::2, 1], own(estimate[1::2, 1], 1.0))
    assert (found[1::2, 1] - estimate[1::2, 1]).abs().mean() > 0.1
