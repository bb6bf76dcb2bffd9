import warnings

import numpy as np
import pytest
import torch

from slimdiff import weights
from slimdiff.evaluation.metrics.features import lpips_distance, to_uint8
from slimdiff.evaluation.metrics.lpips import perceptual_loss


def public_lpips(net: str, name: str):
    """The authors' module with its own linear layers, and our backbone for the one it would download."""
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    tensors = weights.load(name)
    convolutions = [module for module in model.net.modules() if isinstance(module, torch.nn.Conv2d)]
    for i, convolution in enumerate(convolutions):
        convolution.weight.data = tensors[f"conv{i}.weight"]
        convolution.bias.data = tensors[f"conv{i}.bias"]
    return model


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_distance_is_that_of_the_public_package(net, name, request, slice_pairs):
    request.getfixturevalue(name)
    images = slice_pairs[0][:6]
    colour = torch.from_numpy(to_uint8(images).astype(np.float32) / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        theirs = public_lpips(net, name)(colour[:3], colour[3:]).flatten().numpy()
    ours = lpips_distance(images[:3], images[3:], net)
    assert ours.shape == (3,)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert (ours > 0.01).all()


def test_equal_slices_are_at_distance_zero_and_order_does_not_matter(alexnet, slice_pairs):
    a, b = slice_pairs[0][:4], slice_pairs[0][4:8]
    assert lpips_distance(a, a).tolist() == [0, 0, 0, 0]
    assert lpips_distance(a, b) == pytest.approx(lpips_distance(b, a))
    assert lpips_distance(a, b, batch_size=1) == pytest.approx(lpips_distance(a, b), abs=1e-6)


def test_small_slices_are_seen_twice_as_large(alexnet, slice_pairs):
    small, other = slice_pairs[0][:2, 16:48, 16:48], slice_pairs[0][2:4, 16:48, 16:48]
    grey = [torch.from_numpy(to_uint8(x) / 127.5 - 1)[:, None] for x in (small, other)]
    large = [torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[:, 0].numpy() for x in grey]
    assert lpips_distance(small, other) == pytest.approx(lpips_distance(*large), abs=0.01)


def test_f12_precision_does_not_show(alexnet, slice_pairs):
    single = slice_pairs[0][:3].astype(np.float32) * np.float32(0.999)
    assert lpips_distance(single, single.astype(np.float16)).tolist() == [0, 0, 0]


def test_what_does_not_fit_is_refused(slice_pairs):
    images = slice_pairs[0]
    with pytest.raises(ValueError, match="31 x 64 px are too small"):
        lpips_distance(images[:1, :31], images[:1, :31])
    with pytest.raises(ValueError, match="pairs of slices"):
        lpips_distance(images[:2], images[:3])
    with pytest.raises(TypeError, match="uint8"):
        lpips_distance(to_uint8(images[:1]), to_uint8(images[:1]))
    with pytest.raises(KeyError, match="alex, vgg"):
        lpips_distance(images[:1], images[:1], net="squeeze")


@pytest.mark.parametrize("side", [32, 64])
def test_as_a_loss_it_is_the_same_distance_with_a_gradient(alexnet, slice_pairs, side):
    grey = to_uint8(slice_pairs[0][:4, :side, :side]) / np.float32(127.5) - 1
    a, b = (torch.from_numpy(images)[:, None].float() for images in (grey[:2], grey[2:]))
    a.requires_grad_()
    found = perceptual_loss("alex", "cpu")(a, b)
    wanted = lpips_distance(grey[:2], grey[2:])
    assert found.detach().numpy() == pytest.approx(wanted, abs=1e-5)
    found.sum().backward()
    # A step against the gradient brings them closer.
    closer = perceptual_loss("alex", "cpu")((a - 0.02 * a.grad / a.grad.abs().max()).detach(), b)
    assert (closer < found).all()


def test_as_a_loss_its_gradient_is_finite_where_nothing_fires(alexnet):
    black = torch.full((1, 1, 64, 64), -1.0, requires_grad=True)
    distance = perceptual_loss("alex", "cpu")
    for other in (torch.full((1, 1, 64, 64), -1.0), torch.zeros(1, 1, 64, 64)):
        (gradient,) = torch.autograd.grad(distance(black, other).sum(), black)
        assert torch.isfinite(gradient).all()
