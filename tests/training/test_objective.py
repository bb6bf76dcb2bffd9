"""The loss of a batch: noise, self-conditioning, prediction type, Lp and the optional terms."""

import math

import numpy as np
import pytest
import torch
from helpers.tiny_training import CPU, DATA_SPEC, MODEL

from slimdiff.config.diffusion import DiffusionConfig, FocalFrequencyConfig, LossConfig, PerceptualConfig
from slimdiff.devices import autocast
from slimdiff.diffusion.losses import haar_lp
from slimdiff.diffusion.prediction import target
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.model.checkpoint import build_network
from slimdiff.model.conditioning import Condition
from slimdiff.training.data import Batch, step_generator
from slimdiff.training.objective import NoiseDraw, Objective


class Spy(torch.nn.Module):
    """Returns 0.3 x_t + 0.1 previous and records its inputs."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3))
        self.calls = []

    def forward(self, x, time, condition, previous=None):
        self.calls.append({"x": x, "time": time, "previous": previous, "grad": torch.is_grad_enabled()})
        return self.scale * x + (0 if previous is None else 0.1 * previous)


def a_batch(count=6):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand((count, 2, 4, 4), generator=generator) * 2 - 1
    return Batch(x0, Condition(torch.arange(count) % 3, torch.arange(count) % 2))


@pytest.mark.parametrize("kind", ["x0", "epsilon", "v"])
@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_objective_matches_a_loop(kind, weight):
    loss = LossConfig(lesion_weight_mask=weight, wavelet_weights=(), min_snr_gamma=None)
    config = DiffusionConfig(prediction=kind, loss=loss)
    objective, batch, spy = Objective(config, 0.0), a_batch(), Spy()
    draws = objective.draw(6, (4, 4), step_generator(0, 0, CPU), 0.5)
    assert draws.self_conditioned == 0
    found = objective(spy, batch, draws)
    expected = torch.zeros(2, dtype=torch.float64)
    for b in range(len(batch.x0)):
        t = draws.timestep[b].item()
        alpha_bar = math.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        alpha_bar /= math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        signal, noise = torch.tensor(alpha_bar).sqrt().double(), torch.tensor(1 - alpha_bar).sqrt().double()
        x0, epsilon = batch.x0[b].double(), draws.epsilon[b].double()
        aim = target(kind, x0, epsilon, signal, noise)
        error = (0.3 * (signal * x0 + noise * epsilon) - aim).abs()
        pixels = torch.where(x0[1] > 0, weight, 1.0).double()
        expected[0] += (error[0] ** 1.5).mean() / len(batch.x0)
        expected[1] += (pixels * error[1] ** 2.0).sum() / pixels.sum() / len(batch.x0)
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=1e-4)


def test_self_conditioned_samples_get_their_clamped_estimate_without_gradient():
    objective, batch, spy = Objective(DiffusionConfig(), 0.5), a_batch(), Spy()
    with torch.no_grad():
        spy.scale.fill_(2.0)
    draws = objective.draw(6, (4, 4), step_generator(0, 0, CPU), 0.5)
    assert draws.self_conditioned == 3
    objective(spy, batch, draws).sum().backward()
    first, second = spy.calls
    assert (first["grad"], second["grad"]) == (False, True)
    assert first["previous"] is None
    assert torch.equal(first["x"], second["x"][:3])
    assert torch.equal(first["time"], second["time"][:3])
    torch.testing.assert_close(second["previous"][:3], (2.0 * first["x"]).clamp(-1, 1))
    assert not second["previous"][3:].any()
    assert not second["previous"].requires_grad


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_self_conditioned_samples_is_the_probability(probability):
    objective, generator = Objective(DiffusionConfig(), probability), step_generator(0, 0, CPU)
    chances = np.random.default_rng(0).random(500)
    conditioned = [objective.draw(3, (4, 4), generator, chance).self_conditioned for chance in chances]
    assert np.mean(conditioned) / 3 == pytest.approx(probability, abs=4 * 0.5 / math.sqrt(3 * 500))


def test_all_times_are_trained():
    objective = Objective(DiffusionConfig(timesteps=10), 0.5)
    times = torch.cat([objective.draw(6, (4, 4), step_generator(0, s, CPU), 0).timestep for s in range(300)])
    counts = torch.bincount(times, minlength=10)
    assert len(counts) == 10
    assert (counts - 180).abs().max() < 5 * math.sqrt(180)


def test_bfloat16_has_all_gradients_after_a_pass_without_gradient():
    """Autocast caches cast weights; casts made without gradient must not be used in the training pass."""
    torch.manual_seed(0)
    plain = MODEL.model_copy(update={"gaussian_components": 0})
    network = build_network(plain.settings(), DATA_SPEC)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    objective = Objective(DiffusionConfig(), 1.0)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.rand((4, 2, 8, 8), generator=generator),
        Condition(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 0, 1])),
    )
    draws = objective.draw(4, (8, 8), generator, 0.5)
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        network.zero_grad(set_to_none=True)
        with autocast(CPU, precision):
            losses = objective(network, batch, draws)
        assert losses.dtype == torch.float32
        losses.sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, exact in gradients[0].items():
        near = gradients[1][name]
        assert near is not None, name
        assert (near - exact).norm() <= 0.1 * exact.norm() + 1e-3, name


TIMES = [5, 120, 400, 600, 800, 950]


def draws_at(times, batch):
    epsilon = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(1))
    return NoiseDraw(torch.tensor(times), epsilon, self_conditioned=0)


def levels(t):
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of the cosine schedule (Nichol & Dhariwal 2021, eq. 17)."""
    alpha_bar = (
        math.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    ) ** 2
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def estimates(kind, x_t, signal, noise):
    """(x0, epsilon) of the output of Spy, by solving x_t = signal x0 + noise epsilon."""
    output = 0.3 * x_t
    if kind == "epsilon":
        return (x_t - noise * output) / signal, output
    # From v = signal epsilon - noise x0 and signal^2 + noise^2 = 1: noise v = signal x_t - x0.
    x0 = output if kind == "x0" else signal * x_t - noise * output
    return x0, (x_t - signal * x0) / noise


def slow_pixels(kind, loss, x0, epsilon, t):
    """The image and the mask term of one sample, float64."""
    signal, noise = levels(t)
    space = kind if loss.space == "target" else loss.space

    def seen(a, b):
        return {"x0": a, "epsilon": b, "v": signal * b - noise * a}[space]

    x0, epsilon = x0.double(), epsilon.double()
    x_t = signal * x0 + noise * epsilon
    error = (seen(*estimates(kind, x_t, signal, noise)) - seen(x0, epsilon)).abs()
    snr = (signal / noise) ** 2
    weight = 1.0
    if loss.min_snr_gamma is not None:
        floor = loss.min_snr_floor if space == "x0" else 0
        weight = max(min(snr, loss.min_snr_gamma), floor) / {"x0": 1, "epsilon": snr, "v": snr + 1}[space]
    terms = []
    for channel, (p, lesion) in enumerate(
        [(loss.p_image, loss.lesion_weight_image), (loss.p_mask, loss.lesion_weight_mask)]
    ):
        share = torch.where(x0[1] > 0, lesion, 1.0)
        terms.append(weight * (share * error[channel] ** p).sum() / share.sum())
    return torch.stack(terms)


@pytest.mark.parametrize("kind", ["x0", "epsilon", "v"])
@pytest.mark.parametrize("space", ["target", "x0", "epsilon", "v"])
@pytest.mark.parametrize(
    "more",
    [
        {"min_snr_gamma": None},
        {"min_snr_gamma": 5.0},
        {"lesion_weight_image": 3.0, "lesion_weight_mask": 0.5, "min_snr_gamma": 1.0},
    ],
    ids=["plain", "min-snr", "lesions"],
)
def test_every_space_of_every_prediction_matches_a_loop(kind, space, more):
    loss = LossConfig(space=space, wavelet_weights=(), **more)
    objective, batch = Objective(DiffusionConfig(prediction=kind, loss=loss), 0.0), a_batch()
    draws = draws_at(TIMES, batch)
    expected = torch.stack(
        [slow_pixels(kind, loss, *sample) for sample in zip(batch.x0, draws.epsilon, TIMES, strict=True)]
    )
    # First one sample at a time: in the batch mean the largest would hide the others.
    alone = []
    for i in range(len(TIMES)):
        one = slice(i, i + 1)
        part = NoiseDraw(draws.timestep[one], draws.epsilon[one], self_conditioned=0)
        alone.append(objective(Spy(), Batch(batch.x0[one], batch.condition[one]), part))
    torch.testing.assert_close(torch.stack(alone).double(), expected, rtol=2e-4, atol=0)
    together = objective(Spy(), batch, draws)
    torch.testing.assert_close(together.double(), expected.mean(dim=0), rtol=2e-4, atol=0)


def test_lesion_weight_of_the_image_does_not_change_the_mask_term():
    batch = a_batch()
    draws = draws_at(TIMES, batch)
    plain, weighted = (
        Objective(DiffusionConfig(loss=LossConfig(lesion_weight_image=w)), 0.0)(Spy(), batch, draws)
        for w in (1.0, 5.0)
    )
    assert plain[0] != weighted[0]
    torch.testing.assert_close(plain[1], weighted[1])


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_wavelet_weights_replace_the_image_term_and_not_that_of_the_mask(gamma):
    loss = LossConfig(wavelet_weights=(4.0, 2.0, 0.5), lesion_weight_mask=3.0, min_snr_gamma=gamma)
    batch = a_batch()
    draws = draws_at(TIMES, batch)
    found = Objective(DiffusionConfig(loss=loss), 0.0)(Spy(), batch, draws)
    plain = Objective(DiffusionConfig(loss=loss.model_copy(update={"wavelet_weights": ()})), 0.0)
    images = []
    for x0, epsilon, t in zip(batch.x0, draws.epsilon, TIMES, strict=True):
        signal, noise = levels(t)
        error = 0.3 * (signal * x0[0] + noise * epsilon[0]) - x0[0]
        weight = 1.0 if gamma is None else max(min((signal / noise) ** 2, gamma), loss.min_snr_floor)
        images.append(weight * haar_lp(error[None], torch.tensor(1.5), (4.0, 2.0, 0.5)))
    torch.testing.assert_close(found[0], torch.cat(images).mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1], plain(Spy(), batch, draws)[1])


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({}, (16, 24), (6, 2, 0.7, 0.25)),
        ({}, (12, 8), (6, 2, 0.7)),
        ({}, (6, 8), (6, 2)),
        ({}, (7, 8), ()),
        ({"space": "v"}, (16, 16), ()),
        ({"lesion_weight_image": 2.0}, (16, 16), ()),
        ({"wavelet_weights": ()}, (16, 16), ()),
        ({"wavelet_weights": (3.0, 1.0), "space": "v"}, (16, 16), (3, 1)),
    ],
)
def test_wavelets_have_weights_where_the_study_sets_none(options, size, expected):
    objective = Objective(DiffusionConfig(loss=LossConfig(**options)), 0.0)
    assert objective.config.image_wavelets(*size) == expected


def root_distance(estimate, image):
    """A distance whose gradient is NaN for equal images, like that of a norm."""
    assert estimate.shape == image.shape == (len(image), 1, 4, 4)
    return (estimate - image).square().sum(dim=(1, 2, 3)).sqrt()


def slow_focal(estimate, image, alpha):
    """Jiang et al. 2021 by numpy's transform."""
    power = np.abs(np.fft.fft2((estimate - image).numpy(), norm="ortho")) ** 2
    return ((power / power.max()) ** (alpha / 2) * power).mean()


TERMS = {
    "focal_frequency": (
        {"focal_frequency": FocalFrequencyConfig(weight=0.5, alpha=1.3, below=0.5)},
        lambda estimate, image: slow_focal(estimate, image, 1.3),
    ),
    "perceptual": (
        {"perceptual": PerceptualConfig(weight=0.1)},
        lambda estimate, image: ((estimate - image) ** 2).sum().sqrt().item(),
    ),
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kind", ["x0", "epsilon", "v"])
def test_an_optional_term_is_the_mean_distance_of_the_low_noise_images(name, kind):
    """Distance of the x0 estimate, for every prediction type and loss space."""
    options, slow = TERMS[name]
    config = DiffusionConfig(prediction=kind, loss=LossConfig(space="v", **options))
    objective, batch = Objective(config, 0.0, root_distance), a_batch()
    assert objective.terms == ("image", "mask", name)
    # t = 500 is not below half of 1000.
    times = [499, 500, 20, 999, 700, 250]
    draws = draws_at(times, batch)
    expected = []
    for x0, epsilon, t in zip(batch.x0.double(), draws.epsilon.double(), times, strict=True):
        signal, noise = levels(t)
        estimate, _ = estimates(kind, signal * x0 + noise * epsilon, signal, noise)
        expected.append(slow(estimate[0], x0[0]))
    found = objective(Spy(), batch, draws)[2]
    assert found.item() == pytest.approx(np.mean([expected[0], expected[2], expected[5]]), rel=1e-3)


class FixedOutput(torch.nn.Module):
    """Returns a parameter, so that the gradient of every sample can be read."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, x, time, condition, previous=None):
        return self.output


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kind", ["x0", "epsilon", "v"])
def test_high_noise_samples_add_no_value_or_gradient_to_an_optional_term(name, kind):
    config = DiffusionConfig(prediction=kind, loss=LossConfig(**TERMS[name][0]))
    objective, batch = Objective(config, 0.0, root_distance), a_batch()
    draws = draws_at([499, 500, 20, 999, 700, 250], batch)
    values = []
    # Large errors at high noise must have no effect, even if their distance overflows.
    for factor in (1.0, 1e30):
        output = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(2))
        output[[1, 3, 4]] *= factor
        network = FixedOutput(output)
        term = objective(network, batch, draws)[2]
        term.backward()
        values.append(term.item())
        assert network.output.grad.isfinite().all()
        assert [bool(part.any()) for part in network.output.grad] == [True, False, True, False, False, True]
        # The term does not depend on the mask.
        assert not network.output.grad[:, 1].any()
    assert values[0] == values[1] > 0


@pytest.mark.parametrize("name", TERMS)
def test_an_optional_term_is_zero_in_a_batch_without_low_noise_samples(name):
    config = DiffusionConfig(prediction="epsilon", loss=LossConfig(**TERMS[name][0]))
    objective, batch = Objective(config, 0.0, root_distance), a_batch()
    network = FixedOutput(torch.randn(batch.x0.shape))
    terms = objective(network, batch, draws_at([999] * 6, batch))
    assert terms[2] == 0
    assert terms.isfinite().all()
    terms[2].backward()
    assert not network.output.grad.any()


BOTH = {
    "focal_frequency": FocalFrequencyConfig(weight=0.5),
    "perceptual": PerceptualConfig(weight=0.25),
}


@pytest.mark.parametrize(
    ("further", "names"),
    [
        ([], ("image", "mask")),
        (["focal_frequency"], ("image", "mask", "focal_frequency")),
        (["perceptual"], ("image", "mask", "perceptual")),
        (["perceptual", "focal_frequency"], ("image", "mask", "focal_frequency", "perceptual")),
    ],
    ids=["none", "focal", "perceptual", "both"],
)
@pytest.mark.parametrize("uncertainty", ["none", "each", "groups"])
def test_the_total_weights_the_terms_or_their_groups(further, names, uncertainty):
    loss = LossConfig(uncertainty=uncertainty, **{name: BOTH[name] for name in further})
    objective = Objective(DiffusionConfig(loss=loss), 0.0, root_distance)
    assert objective.terms == names
    raw = dict(zip(("image", "mask", "focal_frequency", "perceptual"), (0.3, 0.7, 1.1, 1.3), strict=True))
    terms = torch.tensor([raw[name] for name in names])
    weighted = [raw[name] * {"focal_frequency": 0.5, "perceptual": 0.25}.get(name, 1.0) for name in names]
    if uncertainty == "none":
        assert not list(objective.parameters())
        assert objective.total(terms).item() == pytest.approx(sum(weighted))
        return
    sums = weighted if uncertainty == "each" else [weighted[0] + weighted[1], *weighted[2:]]
    s = [0.4 * (i + 1) for i in range(len(sums))]
    (parameter,) = objective.parameters()
    with torch.no_grad():
        parameter.copy_(torch.tensor(s))
    expected = sum(math.exp(-v) * value + v / 2 for v, value in zip(s, sums, strict=True))
    assert objective.total(terms).item() == pytest.approx(expected)


def test_a_perceptual_weight_without_a_distance_is_an_error():
    config = DiffusionConfig(loss=LossConfig(perceptual=PerceptualConfig(weight=0.1)))
    with pytest.raises(ValueError, match=r"diffusion\.loss\.perceptual"):
        Objective(config, 0.0)


def test_a_distance_without_a_perceptual_weight_is_not_called():
    def never(estimate, image):
        raise AssertionError("called")

    objective, batch = Objective(DiffusionConfig(), 0.0, never), a_batch()
    assert objective(Spy(), batch, draws_at(TIMES, batch)).shape == (2,)


def test_timesteps_are_stratified_and_end_where_the_gaussian_model_takes_over():
    """One in each of 8 equal parts, in random order; the trained ones reach just above sigma 8."""
    schedule = make_schedule("cosine", 1000)
    for gaussian, trained in ((False, 1000), (True, 921)):
        objective = Objective(DiffusionConfig(), 0.0, gaussian=gaussian)
        assert objective.trained == trained
        draws = [
            objective.draw(8, (4, 4), torch.Generator().manual_seed(seed), 0.0).timestep
            for seed in range(400)
        ]
        edges = np.arange(9) * trained / 8
        for timestep in draws:
            ordered = np.sort(timestep.numpy())
            assert (ordered >= np.floor(edges[:-1])).all() and (ordered < edges[1:]).all()
        assert len({tuple(timestep.argsort().tolist()) for timestep in draws}) > 350
        every = torch.cat(draws)
        assert every.min() < 10
        assert trained - 10 < every.max() < trained
    assert schedule.sigma_at(919) < 8 < schedule.sigma_at(920)
    assert Objective(DiffusionConfig(gaussian_above=None), 0.0, gaussian=True).trained == 1000
