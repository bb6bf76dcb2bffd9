"""The loss terms against loops, closed forms and numerical gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.noising import noisy

from slimdiff.diffusion.losses import (
    Uncertainty,
    focal_frequency,
    haar_lp,
    lesion_weights,
    lp_per_channel,
    min_snr_weight,
)
from slimdiff.diffusion.prediction import PREDICTIONS, target, to_x0_epsilon


def slow_lp(prediction, expected, exponents, weights=None):
    batch, channels, height, width = prediction.shape
    result = torch.zeros(batch, channels)
    for b, c in itertools.product(range(batch), range(channels)):
        total = share = 0.0
        for i, j in itertools.product(range(height), range(width)):
            w = 1.0 if weights is None else weights[b, c, i, j].item()
            error = abs(prediction[b, c, i, j].item() - expected[b, c, i, j].item())
            total += w * error ** exponents[c].item()
            share += w
        result[b, c] = total / share
    return result


@pytest.mark.parametrize("exponents", [(1.5, 2.0), (1.0, 1.0), (2.5, 3.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_lp_matches_a_loop(exponents, weighted):
    generator = torch.Generator().manual_seed(1)
    prediction, expected = (torch.randn((3, 2, 4, 5), generator=generator) for _ in range(2))
    weights = torch.rand((3, 2, 4, 5), generator=generator) + 0.1 if weighted else None
    found = lp_per_channel(prediction, expected, torch.tensor(exponents), weights)
    torch.testing.assert_close(found, slow_lp(prediction, expected, torch.tensor(exponents), weights))


def test_lp_has_no_root_and_one_exponent_per_channel():
    prediction = torch.zeros(1, 2, 2, 2)
    expected = torch.full((1, 2, 2, 2), 4.0)
    assert lp_per_channel(prediction, expected, torch.tensor([1.5, 2.0])).tolist() == [[8.0, 16.0]]


def test_lp_gradient_is_p_e_to_the_p_minus_1():
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randn((2, 2, 3, 3), generator=generator).requires_grad_()
    expected = torch.randn((2, 2, 3, 3), generator=generator)
    exponents = torch.tensor([1.5, 2.0])
    lp_per_channel(prediction, expected, exponents).sum().backward()
    error = (prediction - expected).detach()
    p = exponents.view(1, 2, 1, 1)
    torch.testing.assert_close(prediction.grad, p * error.abs() ** (p - 1) * error.sign() / 9)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_lp_gradient_is_finite_at_zero_error(p):
    prediction = torch.zeros(1, 2, 2, 2, requires_grad=True)
    lp_per_channel(prediction, torch.zeros(1, 2, 2, 2), torch.tensor([p, p])).sum().backward()
    torch.testing.assert_close(prediction.grad, torch.zeros_like(prediction))


def test_lp_of_half_precision_is_computed_in_float32():
    prediction = torch.full((1, 2, 2, 2), 1.0078125, dtype=torch.bfloat16)
    expected = torch.full((1, 2, 2, 2), 1.0009765625)
    found = lp_per_channel(prediction, expected, torch.tensor([1.0, 1.0]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 2), 1.0078125 - 1.0009765625))


def test_lesion_weights_are_on_lesion_pixels_of_their_channel_only():
    x0 = torch.rand((3, 2, 5, 5), generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights = lesion_weights(x0, image=3.0, mask=5.0)
    for b, i, j in itertools.product(range(3), range(5), range(5)):
        lesion = x0[b, 1, i, j] > 0
        assert weights[b, 0, i, j] == (3 if lesion else 1)
        assert weights[b, 1, i, j] == (5 if lesion else 1)
    torch.testing.assert_close(lesion_weights(x0, 1.0, 1.0), torch.ones_like(x0))


def random_slices(*shape, seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def dft(side):
    """Orthonormal: exp(-2 pi i u x / N) / sqrt(N)."""
    u = np.arange(side)
    return np.exp(-2j * np.pi * np.outer(u, u) / side) / math.sqrt(side)


def patches_of(array, patches):
    """The patches of the last two dimensions, by slicing."""
    height, width = (side // patches for side in array.shape[-2:])
    return [
        array[..., i * height : (i + 1) * height, j * width : (j + 1) * width]
        for i, j in itertools.product(range(patches), repeat=2)
    ]


def slow_focal(prediction, expected, alpha, patches):
    """Jiang et al. 2021: w = |F_r - F_f|^alpha divided by its largest, then the mean of w |F_r - F_f|^2."""
    result = []
    for one, other in zip(prediction.numpy(), expected.numpy(), strict=True):
        terms = []
        for a, b in zip(patches_of(one, patches), patches_of(other, patches), strict=True):
            rows, columns = dft(a.shape[0]), dft(a.shape[1])
            size = np.abs(rows @ a @ columns.T - rows @ b @ columns.T)
            weight = size**alpha / (size**alpha).max()
            terms.append((weight * size**2).mean())
        result.append(np.mean(terms))
    return torch.tensor(np.array(result))


def frozen_focal(at, expected, alpha, patches):
    """The same as a function of the prediction, in torch, its weights those at the prediction `at`."""

    def spectra(x):
        difference = (x - expected).to(torch.complex128)
        sides = (side // patches for side in x.shape[1:])
        rows, columns = (torch.from_numpy(dft(side)) for side in sides)
        return torch.stack([rows @ part @ columns.T for part in patches_of(difference, patches)], dim=1)

    size = spectra(at).abs()
    weight = size**alpha / (size**alpha).amax(dim=(2, 3), keepdim=True)
    return lambda x: (weight * spectra(x).abs() ** 2).mean(dim=(1, 2, 3))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.3])
@pytest.mark.parametrize("patches", [1, 2])
def test_focal_frequency_matches_the_paper_s_sum_over_frequencies(alpha, patches):
    prediction, expected = random_slices(3, 6, 10)
    # Samples of very different magnitude: each is normalised by its own largest frequency.
    prediction[1] *= 50
    found = focal_frequency(prediction, expected, alpha, patches)
    torch.testing.assert_close(found, slow_focal(prediction, expected, alpha, patches))


def test_focal_frequency_of_a_sample_does_not_depend_on_the_batch():
    prediction, expected = random_slices(3, 8, 8)
    before = focal_frequency(prediction, expected, 1.3, 2)
    prediction[1] += 100
    after = focal_frequency(prediction, expected, 1.3, 2)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    prediction.requires_grad_()
    focal_frequency(prediction, expected, 1.3, 2)[0].backward()
    assert prediction.grad[0].any()
    assert not prediction.grad[1:].any()


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.3])
@pytest.mark.parametrize("patches", [1, 2])
def test_the_weight_of_focal_frequency_has_no_gradient(alpha, patches):
    prediction, expected = random_slices(2, 4, 6)
    prediction.requires_grad_()
    frozen = frozen_focal(prediction.detach(), expected, alpha, patches)
    assert torch.autograd.gradcheck(frozen, prediction)
    gradients = [
        torch.autograd.grad(value.sum(), prediction)[0]
        for value in (focal_frequency(prediction, expected, alpha, patches), frozen(prediction))
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("patches", [1, 2])
def test_focal_frequency_with_alpha_0_is_the_squared_error(patches):
    """By Parseval's theorem. The weight is then constant, so the gradient is that of the whole function."""
    prediction, expected = random_slices(2, 4, 6)
    found = focal_frequency(prediction, expected, 0.0, patches)
    torch.testing.assert_close(found, (prediction - expected).square().mean(dim=(1, 2)))
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_frequency(x, expected, 0.0, patches), prediction)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.3])
def test_focal_frequency_of_equal_slices_is_zero_with_zero_gradient(alpha):
    expected = random_slices(2, 4, 6)[0].float()
    prediction = expected.clone().requires_grad_()
    found = focal_frequency(prediction, expected, alpha, 2)
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("shape", [(1, 9, 8), (1, 8, 9)])
def test_focal_frequency_refuses_sizes_that_patches_do_not_divide(shape):
    with pytest.raises(ValueError, match=f"{shape[1]} x {shape[2]} px .* 2 x 2 patches"):
        focal_frequency(torch.zeros(shape), torch.ones(shape), 1.0, 2)


def test_focal_frequency_of_half_precision_is_computed_in_float32():
    """bfloat16 would round the difference 0.0068 and its spectrum; float32 keeps them."""
    prediction = torch.full((1, 4, 4), 1.0078125, dtype=torch.bfloat16)
    expected = torch.full((1, 4, 4), 1.0009765625)
    found = focal_frequency(prediction, expected, 1.0)
    assert found.dtype == torch.float32
    # All power is at frequency 0, whose weight is 1: the mean of squares.
    torch.testing.assert_close(found, torch.tensor([(1.0078125 - 1.0009765625) ** 2]))


SPACES = {
    "x0": lambda snr, gamma: min(snr, gamma),
    "epsilon": lambda snr, gamma: min(1, gamma / snr),
    "v": lambda snr, gamma: min(snr, gamma) / (snr + 1),
}


@pytest.mark.parametrize("space", PREDICTIONS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weight_is_its_closed_form(space, gamma):
    _, _, signal, noise, _ = noisy()
    ratios = (signal**2 / (1 - signal**2)).flatten().tolist()
    # Below and above the clipping at gamma.
    assert min(ratios) < gamma < max(ratios)
    found = min_snr_weight(space, signal, noise, gamma)
    assert found.shape == signal.shape
    expected = [SPACES[space](snr, gamma) for snr in ratios]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64))


def test_min_snr_weighs_an_estimate_equally_in_every_space():
    """The squared losses differ by SNR (epsilon) and SNR + 1 (v), which the weights undo."""
    x0, epsilon, signal, noise, x_t = noisy()
    output = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    estimate = to_x0_epsilon("x0", output, x_t, signal, noise)
    exponents = torch.tensor([2.0, 2.0])
    losses = []
    for space in PREDICTIONS:
        found, expected = (target(space, *pair, signal, noise) for pair in (estimate, (x0, epsilon)))
        weight = min_snr_weight(space, signal, noise, 5.0).view(-1, 1)
        losses.append(weight * lp_per_channel(found, expected, exponents))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-6, atol=0)


def test_min_snr_refuses_an_unknown_space():
    with pytest.raises(ValueError, match="loss space: expected x0, epsilon, v, found 'target'"):
        min_snr_weight("target", torch.tensor(0.6), torch.tensor(0.8), 5.0)


def with_variances(groups, values):
    module = Uncertainty(groups).double()
    with torch.no_grad():
        module.log_variances.copy_(torch.tensor(values))
    return module


def test_uncertainty_starts_as_the_sum_and_has_its_minimum_at_log_2l():
    """d/ds (exp(-s) L + s / 2) = 0 at s = log 2L, where it is 1/2 + log(2L) / 2."""
    terms = torch.tensor([0.3, 2.0, 0.05], dtype=torch.float64)
    sums = [0.3 + 0.05, 2.0]
    groups = [0, 1, 0]
    torch.testing.assert_close(with_variances(groups, [0.0, 0.0])(terms), terms.sum())
    best = [math.log(2 * loss) for loss in sums]
    module = with_variances(groups, best)
    value = module(terms)
    assert value.item() == pytest.approx(sum(0.5 + s / 2 for s in best))
    value.backward()
    torch.testing.assert_close(module.log_variances.grad, torch.zeros(2, dtype=torch.float64))
    for shift in itertools.product((-0.1, 0.0, 0.1), repeat=2):
        moved = with_variances(groups, [s + d for s, d in zip(best, shift, strict=True)])(terms)
        assert moved >= value - 1e-12


def test_uncertainty_matches_the_formula_per_group():
    terms = torch.tensor([0.3, 2.0, 0.05, 1.1], dtype=torch.float64, requires_grad=True)
    groups, s = [0, 0, 1, 2], [0.4, -1.2, 2.0]
    value = with_variances(groups, s)(terms)
    expected = sum(math.exp(-s[g]) * x for g, x in zip(groups, terms.tolist(), strict=True)) + sum(s) / 2
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert terms.grad.tolist() == pytest.approx([math.exp(-s[g]) for g in groups])


@pytest.mark.parametrize("sign", [-1, 1])
def test_uncertainty_weights_are_limited(sign):
    terms = torch.tensor([0.7], dtype=torch.float64)
    limit = with_variances([0], [sign * 5.0])(terms)
    assert limit.item() == pytest.approx(0.7 * math.exp(-sign * 5) + sign * 2.5)
    assert with_variances([0], [sign * 9.0])(terms) == limit
    assert with_variances([0], [sign * 4.9])(terms) != limit


def slow_haar(error, p, weights):
    """The transform of Haar (1910) written as the inner product with every one of its functions."""
    height, width = error.shape
    total = 0.0
    for level, weight in enumerate(weights, start=1):
        rest = level == len(weights)
        side = 2 ** (level - rest)
        sign = np.repeat([1.0, -1.0], side // 2) if side > 1 else np.ones(1)
        flat = np.ones(side)
        functions = [np.outer(flat, flat)] if rest else [np.outer(flat, sign), np.outer(sign, flat)]
        functions += [] if rest else [np.outer(sign, sign)]
        for i, j in itertools.product(range(0, height, side), range(0, width, side)):
            square = error[i : i + side, j : j + side].numpy()
            total += sum(weight * abs((function * square).sum() / side) ** p for function in functions)
    return total / (height * width)


@pytest.mark.parametrize("weights", [(2.0,), (5.0, 1.0), (5.0, 2.0, 1.0), (9.0, 4.0, 0.5, 0.25)])
@pytest.mark.parametrize("p", [1.5, 2.0])
def test_haar_matches_inner_products(weights, p):
    error = torch.randn((3, 8, 16), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = haar_lp(error, torch.tensor(p), weights)
    expected = [slow_haar(one, p, weights) for one in error]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_haar_of_p_2_and_weights_1_is_the_mean_square():
    error = torch.randn((2, 8, 8), generator=torch.Generator().manual_seed(6))
    found = haar_lp(error, torch.tensor(2.0), (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(found, error.square().mean(dim=(1, 2)))


def test_haar_weighs_a_chequerboard_and_not_a_shift():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 4, 4)
    light, heavy = (haar_lp(board, torch.tensor(1.5), (weight, 1.0)) for weight in (1.0, 7.0))
    torch.testing.assert_close(heavy, 7 * light)
    shift = torch.full((1, 8, 8), 0.3)
    light, heavy = (haar_lp(shift, torch.tensor(1.5), (weight, 1.0)) for weight in (1.0, 7.0))
    torch.testing.assert_close(heavy, light)


def test_the_gradient_of_haar_matches_finite_differences():
    error = torch.randn((2, 4, 4), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    p = torch.tensor(1.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: haar_lp(e, p, (5.0, 2.0, 0.5)), error.requires_grad_())


@pytest.mark.parametrize("p", [1.5, 2.0, 2.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_lp_matches_finite_differences(p, weighted):
    prediction, expected, weights = random_slices(2, 2, 3, 4, count=3)
    prediction.requires_grad_()
    weights = weights.exp() if weighted else None
    exponents = torch.tensor([p, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: lp_per_channel(x, expected, exponents, weights), prediction)


@pytest.mark.parametrize("space", PREDICTIONS)
def test_the_gradient_of_min_snr_weighted_lp_matches_finite_differences(space):
    """From an x0 output through the loss space and the weight, as in a training step."""
    x0, epsilon, signal, noise, x_t = (part[1:4] for part in noisy())
    exponents = torch.tensor([1.5, 2.0], dtype=torch.float64)

    def loss(output):
        found = target(space, *to_x0_epsilon("x0", output, x_t, signal, noise), signal, noise)
        weight = min_snr_weight(space, signal, noise, 5.0).view(-1, 1)
        return weight * lp_per_channel(found, target(space, x0, epsilon, signal, noise), exponents)

    output = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, output.requires_grad_())


def test_the_gradient_of_uncertainty_matches_finite_differences():
    module = Uncertainty([0, 0, 1]).double()
    terms = torch.tensor([0.3, 2.0, 0.05], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)

    def value(terms, s):
        return torch.func.functional_call(module, {"log_variances": s}, (terms,))

    assert torch.autograd.gradcheck(value, (terms, s))
