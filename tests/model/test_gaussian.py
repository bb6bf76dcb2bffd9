"""The Gaussian model of the training slices: its estimate is the posterior mean, computed here with full matrices."""

import numpy as np
import pytest
import torch

from slimdiff.diffusion.schedule import make_schedule
from slimdiff.model.conditioning import Condition
from slimdiff.model.gaussian import GaussianEstimate, coarsening

SIDE, BINS = 16, 3
SCHEDULE = make_schedule("cosine", 100)
LOG_SIGMA = torch.from_numpy(SCHEDULE.log_sigma)


def cohort(seed: int = 0, n: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Smooth blobs of random size and brightness, with a lesion in every second one."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, SIDE)
    distance = np.hypot(grid[:, None], grid[None])
    radius = rng.uniform(0.4, 0.9, (n, 1, 1))
    level = rng.uniform(-0.5, 0.5, (n, 1, 1))
    images = np.where(distance < radius, level, -1.0)
    label = np.arange(n) % 2
    place = rng.integers(4, 10, (n, 2))
    masks = np.full((n, SIDE, SIDE), -1.0)
    for mask, (y, x), has in zip(masks, place, label, strict=True):
        if has:
            mask[y : y + 3, x : x + 3] = 1
    x0 = torch.tensor(np.stack([images, masks], axis=1), dtype=torch.float32)
    return x0, torch.from_numpy(np.arange(n) % BINS), torch.from_numpy(label)


def fitted(x0, z_bin, label, components=6, bins=BINS) -> GaussianEstimate:
    model = GaussianEstimate()
    parts = [slice(0, 25), slice(25, None)]
    model.fit(lambda: [(x0[p], z_bin[p], label[p]) for p in parts], bins, components, LOG_SIGMA)
    return model


@pytest.fixture(scope="module")
def data():
    return cohort()


@pytest.fixture(scope="module")
def model(data):
    return fitted(*data)


def noisy(x0: torch.Tensor, timestep: int, seed: int = 1) -> torch.Tensor:
    sigma = float(SCHEDULE.sigma_at(np.array(timestep)))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    return (x0 + sigma * noise) / (1 + sigma**2) ** 0.5


def test_the_estimate_is_the_posterior_mean_of_the_gaussian(data, model):
    x0, z_bin, label = data
    condition, time = Condition(z_bin[:4], label[:4]), 70
    x_t = noisy(x0[:4], time)
    found = model(x_t, torch.full((4,), float(time)), condition)
    sigma = float(SCHEDULE.sigma_at(np.array(time)))
    mean, spread = (part.double().numpy() for part in model.moments(condition))
    basis = model.components.flatten(1).double().numpy()
    for i in range(4):
        # No coarser grid at this size: x = mean + spread z, z ~ N(0, B' V B + rest I), noise of sigma.
        scale = np.diag(spread[i].ravel())
        inner = basis.T @ np.diag(model.variances.double().numpy()) @ basis
        noise = np.eye(len(scale)) * sigma**2 + scale @ scale * float(model.rest)
        covariance = scale @ inner @ scale
        x = x_t[i].double().numpy().ravel() * (1 + sigma**2) ** 0.5
        wanted = mean[i].ravel() + covariance @ np.linalg.solve(covariance + noise, x - mean[i].ravel())
        np.testing.assert_allclose(found[i].numpy().ravel(), wanted.clip(-1, 1), atol=2e-4)


def test_without_information_it_is_the_mean_and_without_noise_close_to_the_slice(data, model):
    x0, z_bin, label = data
    condition = Condition(z_bin, label)
    mean, _ = model.moments(condition)
    last = torch.full((len(x0),), 99.0)
    assert (model(noisy(x0, 99), last, condition) - mean.clamp(-1, 1)).abs().mean() < 0.02
    error = (model(noisy(x0, 0), torch.zeros(len(x0)), condition) - x0)[:, 0].abs().mean()
    assert error < 0.5 * (mean - x0)[:, 0].abs().mean()


def test_it_beats_the_mean_on_slices_that_it_was_not_fitted_to(model):
    x0, z_bin, label = cohort(seed=5)
    condition, time = Condition(z_bin, label), 60
    mean, _ = model.moments(condition)
    error = (model(noisy(x0, time), torch.full((len(x0),), float(time)), condition) - x0).square().mean()
    assert error < 0.6 * (mean - x0).square().mean()


def test_means_are_those_of_the_z_bin_and_of_its_lesion_slices(data, model, monkeypatch):
    x0, z_bin, label = data
    monkeypatch.setattr("slimdiff.model.gaussian._blurred", lambda maps: maps)
    plain = fitted(x0, z_bin, label)
    own = z_bin == 1
    torch.testing.assert_close(plain.mean[1, 0], x0[own, 0].mean(dim=0))
    lesions = x0[own & (label == 1), 1]
    of_all = x0[label == 1, 1].mean(dim=0)
    wanted = (lesions.sum(dim=0) + 8 * of_all) / (len(lesions) + 8)
    torch.testing.assert_close(plain.mean[1, 1], wanted)


def test_class_0_has_no_lesion_whatever_the_noise(data, model):
    x0, z_bin, label = data
    estimate = model(noisy(x0, 50), torch.full((len(x0),), 50.0), Condition(z_bin, torch.zeros_like(label)))
    assert estimate[:, 1].max() < -0.9


def test_a_hidden_condition_shows_neither_position_nor_class(data, model):
    x0, z_bin, label = data
    x_t, time = noisy(x0, 50), torch.full((len(x0),), 50.0)
    hidden = torch.ones(len(x0), dtype=torch.bool)
    one = model(x_t, time, Condition(z_bin, label, null=hidden))
    other = model(x_t, time, Condition(z_bin.flip(0), 1 - label, null=hidden))
    assert torch.equal(one, other)
    assert not torch.allclose(one, model(x_t, time, Condition(z_bin, label)))


def test_a_mirrored_slice_has_the_mirrored_estimate(data, model):
    x0, z_bin, label = data
    x_t, time = noisy(x0, 70), torch.full((len(x0),), 70.0)
    plain = model(x_t, time, Condition(z_bin, label))
    labels = torch.zeros(len(x0), 9)
    labels[:, 0] = 1
    mirrored = model(x_t.flip(3), time, Condition(z_bin, label, augmentation=labels))
    torch.testing.assert_close(mirrored, plain.flip(3), atol=2e-4, rtol=0)


def test_a_z_bin_without_slices_has_the_moments_of_all(data):
    x0, z_bin, label = data
    model = fitted(x0, z_bin, label, bins=BINS + 1)
    torch.testing.assert_close(model.mean[BINS, 0], model.mean[-1, 0])
    assert torch.isfinite(model.mean).all() and torch.isfinite(model.components).all()


def test_a_cohort_without_lesions_is_fitted(data):
    x0, z_bin, label = data
    x0 = x0.clone()
    x0[:, 1] = -1
    model = fitted(x0, z_bin, torch.zeros_like(label))
    estimate = model(noisy(x0, 30), torch.full((len(x0),), 30.0), Condition(z_bin, torch.ones_like(label)))
    assert torch.isfinite(estimate).all() and estimate[:, 1].max() < 0


def test_fewer_slices_than_components(data):
    x0, z_bin, label = (part[:6] for part in data)
    model = fitted(x0, z_bin, label, components=48)
    assert len(model.components) <= 12
    gram = model.components.flatten(1) @ model.components.flatten(1).T
    torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-4, rtol=0)


def test_an_empty_model_is_an_error():
    with pytest.raises(ValueError, match="gaussian_components"):
        GaussianEstimate()(
            torch.zeros(1, 2, 4, 4), torch.zeros(1), Condition(torch.zeros(1).long(), torch.zeros(1).long())
        )


def test_a_checkpoint_restores_it(data, model):
    other = GaussianEstimate()
    other.load_state_dict(model.state_dict())
    x0, z_bin, label = data
    time = torch.full((len(x0),), 50.0)
    assert torch.equal(other(x0, time, Condition(z_bin, label)), model(x0, time, Condition(z_bin, label)))


@pytest.mark.parametrize(
    ("size", "factor"), [((64, 64), 2), ((160, 160), 4), ((56, 64), 1), ((128, 96), 2), ((20, 20), 1)]
)
def test_the_coarse_grid_divides_the_slice(size, factor):
    assert coarsening(*size) == factor
