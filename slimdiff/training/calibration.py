"""Fits the calibration of masks at the end of the training, on training slices with a lesion."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from slimdiff.diffusion.chain import sigmas_for
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.mask_calibration import MaskCalibration, chances, log_odds
from slimdiff.diffusion.samplers import dpmpp_2m
from slimdiff.training.data import BLOCK, TrainingSet

SLICES, LEVELS = 64, 10
"""Slices and samples of the fit, and noise levels of the chain."""
LOWEST_SIGMA = 0.2
"""Below this noise level masks are decided (docs/learning.md): the values of the last level above are used."""
FEWEST_SLICES = 8
LEAST_PERCENTILE = 10
"""Of the training lesions' areas: what the chances of a slice sum to at least."""
ITERATIONS, RIDGE = 50, 1e-6
"""Of the regression; the ridge pulls towards the estimate as it is, which decides where all pixels are separated."""
WIDEST_OFFSET, TOLERANCE = 8.0, 0.02
"""Largest change of an offset, and the relative difference of areas that needs none."""


@torch.no_grad()
def fit_mask_calibration(
    denoiser: Denoiser, slices: TrainingSet, *, acquisition: bool, self_conditioning: bool, seed: int
) -> MaskCalibration | None:
    """The calibration of a network; None where the training has too few slices with a lesion.

    Slopes: by logistic regression of the masks of noisy training slices on the estimate. Offsets: along a chain from
    noise, so that the expected area of the samples' lesions is that of the training lesions at every noise level, as it
    is with a perfect network.

    Args:
        denoiser: the network, without a condition.
        slices: the training slices.
        acquisition, self_conditioning: whether the network has these inputs.
        seed: of the choice of slices, and of the noise.
    """
    if len(slices.with_lesion) < FEWEST_SLICES:
        return None
    areas = lesion_areas(slices)
    rows = np.random.default_rng([seed, 3]).permutation(slices.with_lesion)[:SLICES]
    batch = slices.at(rows)
    condition = batch.condition if acquisition else replace(batch.condition, acquisition=None)
    conditioned = replace(denoiser, condition=condition)
    bins = slices.z_bin[slices.with_lesion]
    fit = _Fit(
        conditioned,
        batch.x0,
        self_conditioning,
        expected_area=float(np.mean([areas[bins == z_bin].mean() for z_bin in slices.z_bin[rows]])),
        least_px=float(np.percentile(areas, LEAST_PERCENTILE)),
        generator=torch.Generator().manual_seed(seed),
    )
    sigmas = sigmas_for(denoiser.schedule, "dpmpp_2m", "log_snr", LEVELS, denoiser.gaussian_above)
    start = fit.noise() * float((1 + sigmas[0] ** 2) ** 0.5)
    evaluated = int((sigmas > LOWEST_SIGMA).sum())
    dpmpp_2m(fit, start, sigmas[: evaluated + 1].tolist(), lambda step: fit.noise())
    log_sigma, slopes, offsets = zip(*reversed(fit.levels), strict=True)
    return MaskCalibration(list(log_sigma), list(slopes), list(offsets), fit.least_px)


class _Fit:
    """A denoiser that calibrates itself at each noise level of its chain."""

    def __init__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        self_conditioning: bool,
        expected_area: float,
        least_px: float,
        generator: torch.Generator,
    ):
        self.denoiser, self.x0, self.self_conditioning = denoiser, x0, self_conditioning
        self.expected_area, self.least_px, self.generator = expected_area, least_px, generator
        self.levels: list[tuple[float, float, float]] = []

    def noise(self) -> Tensor:
        return torch.randn(self.x0.shape, generator=self.generator).to(self.x0.device)

    def __call__(self, x: Tensor, sigma: float, previous: Tensor | None) -> Tensor:
        estimate = self.denoiser(x, sigma, previous)
        if self.denoiser.is_gaussian_at(sigma):
            return estimate
        slope, offset = self._regression(sigma)
        offset = self._matching(estimate[:, 1], slope, offset)
        self.levels.append((float(np.log(sigma)), slope, offset))
        mask = 2 * chances(estimate[:, 1], slope, offset, self.least_px) - 1
        return torch.stack([estimate[:, 0], mask], dim=1)

    def _regression(self, sigma: float) -> tuple[float, float]:
        """Slope and offset on noisy training slices."""
        x = self.x0 + sigma * self.noise()
        estimate = self.denoiser(x, sigma, None)
        if self.self_conditioning:
            estimate = self.denoiser(x, sigma, estimate)
        odds = log_odds(estimate[:, 1]).flatten().double().cpu().numpy()
        return logistic_fit(odds, (self.x0[:, 1] > 0).flatten().double().cpu().numpy())

    def _matching(self, estimate: Tensor, slope: float, offset: float) -> float:
        """The offset with which the samples' mean expected area is the training slices'."""

        def excess(candidate: float) -> float:
            found = chances(estimate, slope, candidate, self.least_px).sum(dim=(1, 2)).mean()
            return float(found) / self.expected_area - 1

        if abs(excess(offset)) <= TOLERANCE:
            return offset
        low, high = offset - WIDEST_OFFSET, offset + WIDEST_OFFSET
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (low, middle) if excess(middle) > 0 else (middle, high)
        return (low + high) / 2


def lesion_areas(slices: TrainingSet) -> np.ndarray:
    """Area in px of the lesions of each slice with a lesion, (N,)."""
    starts = range(0, len(slices.with_lesion), BLOCK)
    masks = (slices.at(slices.with_lesion[start : start + BLOCK]).x0[:, 1] for start in starts)
    return np.concatenate([(mask > 0).sum(dim=(1, 2)).cpu().numpy() for mask in masks])


def logistic_fit(values: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Slope and offset of a logistic regression of targets (N,), 0 or 1, on values (N,): Newton, steps halved."""
    inputs = np.stack([values, np.ones_like(values)], axis=1)
    prior = np.array([1.0, 0.0])

    def loss(weights: np.ndarray) -> float:
        logits = inputs @ weights
        return np.mean(np.logaddexp(0, logits) - targets * logits) + RIDGE / 2 * np.sum(
            (weights - prior) ** 2
        )

    weights, reached = prior, loss(prior)
    for _ in range(ITERATIONS):
        chance = 1 / (1 + np.exp(-(inputs @ weights)))
        gradient = inputs.T @ (chance - targets) / len(targets) + RIDGE * (weights - prior)
        curvature = (inputs.T * (chance * (1 - chance))) @ inputs / len(targets) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while (now := loss(weights - step)) > reached and np.abs(step).max() > 1e-9:
            step = step / 2
        if np.abs(step).max() <= 1e-9:
            break
        weights, reached = weights - step, now
    return float(weights[0]), float(weights[1])
