"""Blocks of the network against independent implementations."""

import pytest
import torch
from torch.nn import functional as F

from slimdiff.model.blocks import GroupNorm, MultiHeadAttention, Upsample, plain_attention


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 4)])
def test_upsampling_is_nearest_neighbour_then_a_convolution(size):
    torch.manual_seed(0)
    layer = Upsample(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    found = layer(x)
    expected = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    inputs = (x, *layer.parameters())
    of_found, of_expected = (torch.autograd.grad((out * weight).sum(), inputs) for out in (found, expected))
    for one, other in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(2, 16, 9, 7), (3, 64, 20, 20)])
def test_group_norm_in_bfloat16_is_the_rounded_float64_one(shape):
    """Output and all three gradients against torch in float64 on the same values. The data have an offset, so that
    terms of the gradient cancel."""
    torch.manual_seed(0)
    norm = GroupNorm(8, shape[1])
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (torch.randn(shape) * 2 + 3).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(shape).bfloat16()
    found = norm(x)
    assert found.dtype == torch.bfloat16
    exact = [value.detach().double().requires_grad_() for value in (x, norm.weight, norm.bias)]
    expected = F.group_norm(exact[0], 8, exact[1], exact[2], norm.eps)
    # Rounded once: half a step of bfloat16.
    assert ((found - expected).abs() <= 2**-8 * expected.abs() + 1e-6).all()
    of_found = torch.autograd.grad(found, (x, norm.weight, norm.bias), gradient)
    of_expected = torch.autograd.grad(expected, exact, gradient.double())
    for one, other in zip(of_found, of_expected, strict=True):
        assert (one - other).norm() < 0.006 * other.norm()


@pytest.mark.parametrize("context", [None, 6])
def test_attention_under_autocast_is_close_to_float32(context):
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 8, context)
    tokens = torch.randn(2, 9, 16, requires_grad=True)
    seen = None if context is None else torch.randn(2, 5, context)
    exact = attention(tokens, seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(tokens, seen)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 0.01 * exact.norm()
    gradients = [torch.autograd.grad(out.float().square().sum(), tokens)[0] for out in (found, exact)]
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()


def test_plain_and_fused_attention_agree():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn((2, 3, count, 8), generator=generator, dtype=torch.float64) for count in (7, 5, 5)
    )
    torch.testing.assert_close(
        plain_attention(query, key, value), F.scaled_dot_product_attention(query, key, value)
    )
