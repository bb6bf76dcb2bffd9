"""DINOv2's backbone against another implementation, with random weights: the published ones cannot be had here."""

import hashlib

import numpy as np
import pytest
import torch

from slimdiff import weights
from slimdiff.evaluation.metrics import features
from slimdiff.evaluation.metrics.extractors import TRAINED_SIDE, WIDTH, VisionTransformer


@pytest.fixture(scope="module")
def randomised():
    torch.manual_seed(0)
    network = VisionTransformer()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def given(randomised, tmp_path, monkeypatch):
    """The weights folder with a file under the published name."""
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    features._network.cache_clear()
    torch.save(randomised.state_dict(), tmp_path / "dinov2_vits14_pretrain.pth")
    yield tmp_path
    features._network.cache_clear()


def test_class_token_agrees_with_another_implementation(randomised):
    timm = pytest.importorskip("timm")
    other = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, num_classes=0, global_pool="token"
    )
    state = {name: value for name, value in randomised.state_dict().items() if name != "mask_token"}
    other.load_state_dict(state)
    image = torch.rand(1, 3, 14 * TRAINED_SIDE, 14 * TRAINED_SIDE)
    with torch.inference_mode():
        ours = randomised(image)
        theirs = other.eval()((image - randomised.mean) / randomised.sd)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' kernel (1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def test_positions_are_resized_as_the_authors_resize_them(randomised):
    side = 16
    at = (np.arange(side) + 0.5) * TRAINED_SIDE / (side + 0.1) - 0.5
    matrix = np.zeros((side, TRAINED_SIDE))
    for row, x in enumerate(at):
        for neighbour in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            matrix[row, np.clip(neighbour, 0, TRAINED_SIDE - 1)] += cubic(x - neighbour)
    learned = randomised.pos_embed.detach().double().numpy()[0]
    grid = learned[1:].reshape(TRAINED_SIDE, TRAINED_SIDE, WIDTH)
    expected = np.einsum("ij,kl,jlc->ikc", matrix, matrix, grid).reshape(-1, WIDTH)
    with torch.inference_mode():
        found = randomised._positions(side, side)[0].numpy()
    np.testing.assert_allclose(found[0], learned[0], rtol=1e-6)
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)


def test_features_of_given_weights_and_their_fingerprint(given, slice_pairs):
    grey = features.to_uint8(slice_pairs[0][:4])
    found = features.extract(grey, "dinov2", progress=False)
    assert found.shape == (4, WIDTH)
    assert np.std(found, axis=0).max() > 1e-3
    np.testing.assert_allclose(
        features.extract(grey, "dinov2", batch_size=1, progress=False), found, atol=1e-4
    )
    content = (given / "dinov2_vits14_pretrain.pth").read_bytes()
    assert weights.fingerprint("dinov2") == hashlib.sha256(content).hexdigest()


def test_without_weights_the_error_says_which_file_to_put_where(tmp_path, monkeypatch, slice_pairs):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "none"))
    features._network.cache_clear()
    with pytest.raises(weights.WeightsUnavailable, match=r"never downloaded. Put dinov2_vits14_pretrain.pth"):
        features.extract(features.to_uint8(slice_pairs[0][:1]), "dinov2", progress=False)


def test_another_network_s_weights_are_refused(given, slice_pairs):
    torch.save({"cls_token": torch.zeros(1, 1, 768)}, given / "dinov2_vits14_pretrain.pth")
    with pytest.raises(weights.WeightsUnavailable, match=r"no DINOv2 ViT-S/14 backbone"):
        features.extract(features.to_uint8(slice_pairs[0][:1]), "dinov2", progress=False)
