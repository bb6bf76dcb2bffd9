"""DINOv2 against plain tensor algebra, with random weights: the published weights are never downloaded."""

import hashlib
import sys

import numpy as np
import pytest
import torch

from slimdiff import weights
from slimdiff.evaluation.metrics import features
from slimdiff.evaluation.metrics.extractors import DINOV2_TRAINED_SIDE as TRAINED_SIDE
from slimdiff.evaluation.metrics.extractors import DINOV2_WIDTH as WIDTH
from slimdiff.evaluation.metrics.extractors import MEAN, SD, dinov2, resized_positions


def random_weights() -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of the published file."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, WIDTH), "mask_token": (1, WIDTH), "pos_embed": (1, 1 + 37 * 37, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,)}
    for i in range(12):
        block = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (WIDTH,), f"{block}{norm}.bias": (WIDTH,)}
        layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for name, (out, into) in layers.items():
            shapes[f"{block}{name}.weight"] = (out * WIDTH, into * WIDTH)
            shapes[f"{block}{name}.bias"] = (out * WIDTH,)
        shapes |= {f"{block}ls1.gamma": (WIDTH,), f"{block}ls2.gamma": (WIDTH,)}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    tensors = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in tensors:
        if name.endswith((".gamma", "norm.weight", "norm1.weight", "norm2.weight")):
            tensors[name] += 1
    return tensors


@pytest.fixture(scope="module")
def tensors():
    return random_weights()


@pytest.fixture
def local_weights(tensors, tmp_path, monkeypatch):
    """The weights folder with a file under the published name."""
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    features._network.cache_clear()
    torch.save(tensors, tmp_path / "dinov2_vits14_pretrain.pth")
    yield tmp_path
    features._network.cache_clear()


def class_token_by_hand(image: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The vision transformer (Dosovitskiy et al. 2021) with layer scale, in plain tensor algebra."""
    w = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    image = (image.double() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SD).view(3, 1, 1)
    side = image.shape[-1] // 14
    patches = (
        image.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).reshape(len(image), side**2, -1)
    )
    tokens = patches @ w["patch_embed.proj.weight"].reshape(WIDTH, -1).T + w["patch_embed.proj.bias"]
    tokens = torch.cat([w["cls_token"].expand(len(image), -1, -1), tokens], 1)
    tokens = tokens + resized_positions(w["pos_embed"], side)
    for i in range(12):
        qkv = linear(norm(tokens, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        heads = qkv.reshape(*qkv.shape[:2], 3, 6, WIDTH // 6)
        query, key, value = (heads[:, :, j].transpose(1, 2) for j in range(3))
        attention = torch.softmax(query @ key.transpose(2, 3) / (WIDTH // 6) ** 0.5, -1) @ value
        attended = linear(attention.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        tokens = tokens + w[f"blocks.{i}.ls1.gamma"] * attended
        hidden = linear(norm(tokens, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        hidden = linear(0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)), f"blocks.{i}.mlp.fc2")
        tokens = tokens + w[f"blocks.{i}.ls2.gamma"] * hidden
    return norm(tokens, "norm")[:, 0]


def test_class_token_agrees_with_plain_algebra(local_weights, tensors):
    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    scaled = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SD).view(3, 1, 1)
    with torch.inference_mode():
        found = dinov2(224)(scaled).double()
        expected = class_token_by_hand(image, tensors)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' kernel (1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def test_position_embeddings_are_resized_as_in_the_original_code(tensors):
    side = 16
    at = (np.arange(side) + 0.5) * TRAINED_SIDE / (side + 0.1) - 0.5
    matrix = np.zeros((side, TRAINED_SIDE))
    for row, x in enumerate(at):
        for neighbour in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            matrix[row, np.clip(neighbour, 0, TRAINED_SIDE - 1)] += cubic(x - neighbour)
    learned = tensors["pos_embed"].double().numpy()[0]
    grid = learned[1:].reshape(TRAINED_SIDE, TRAINED_SIDE, WIDTH)
    expected = np.einsum("ij,kl,jlc->ikc", matrix, matrix, grid).reshape(-1, WIDTH)
    found = resized_positions(tensors["pos_embed"], side)[0].numpy()
    np.testing.assert_allclose(found[0], learned[0], rtol=1e-6)
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)


def test_features_and_fingerprint_of_local_weights(local_weights, slice_pairs):
    grey = features.to_uint8(slice_pairs[0][:4])
    found = features.extract(grey, "dinov2", progress=False)
    assert found.shape == (4, WIDTH)
    assert np.std(found, axis=0).max() > 1e-3
    np.testing.assert_allclose(
        features.extract(grey, "dinov2", batch_size=1, progress=False), found, atol=1e-4
    )
    content = (local_weights / "dinov2_vits14_pretrain.pth").read_bytes()
    assert weights.fingerprint("dinov2") == hashlib.sha256(content).hexdigest()


def test_missing_weights_error_names_the_file_to_provide(tmp_path, monkeypatch, slice_pairs):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "none"))
    features._network.cache_clear()
    with pytest.raises(
        weights.WeightsUnavailable, match=r"does not download these weights. Put dinov2_vits14_pretrain.pth"
    ):
        features.extract(features.to_uint8(slice_pairs[0][:1]), "dinov2", progress=False)


def test_weights_of_another_network_are_refused(local_weights, slice_pairs):
    torch.save({"cls_token": torch.zeros(1, 1, 768)}, local_weights / "dinov2_vits14_pretrain.pth")
    with pytest.raises(weights.WeightsUnavailable, match=r"expected a DINOv2 ViT-S/14 backbone"):
        features.extract(features.to_uint8(slice_pairs[0][:1]), "dinov2", progress=False)


def test_missing_timm_error_names_the_package_to_install(local_weights, monkeypatch, slice_pairs):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(weights.WeightsUnavailable, match=r"pip install 'slimdiff\[dinov2\]'"):
        features.extract(features.to_uint8(slice_pairs[0][:1]), "dinov2", progress=False)
