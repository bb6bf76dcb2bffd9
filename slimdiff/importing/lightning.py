"""Read a Lightning checkpoint without executing anything in it.

PyTorch's `weights_only` unpickler admits tensors and plain containers. A configuration may also contain a few classes
of OmegaConf. They are replaced by inert classes, which hold the pickled state and have no methods.
"""

import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimdiff.config.loading import check_size
from slimdiff.files import require_file


class _Held:
    """Holds the state of an object whose class is not imported."""


def _stand_in(name: str) -> tuple[type, str]:
    return type(name.rpartition(".")[2], (_Held,), {}), name


# The classes that OmegaConf pickles, and plain types, also under their Python 2 module names.
_STAND_INS = [
    _stand_in(f"omegaconf.{name}")
    for name in (
        "dictconfig.DictConfig",
        "listconfig.ListConfig",
        "base.ContainerMetadata",
        "base.Metadata",
        "nodes.AnyNode",
        "nodes.StringNode",
        "nodes.IntegerNode",
        "nodes.FloatNode",
        "nodes.BooleanNode",
    )
]
_ADMITTED = [
    *_STAND_INS,
    _stand_in("typing.Any"),
    *[
        (kind, f"{module}.{kind.__name__}")
        for kind in (dict, list, int, str)
        for module in ("builtins", "__builtin__")
    ],
    (int, "__builtin__.long"),
    (defaultdict, "collections.defaultdict"),
]


WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a weight's name that torch.compile, DataParallel or DDP, FSDP and activation checkpointing add."""


def read_lightning(path: Path) -> dict[str, Any]:
    """The content of the checkpoint; the configuration in `hyper_parameters` as plain dicts, lists and values.

    Raises FileNotFoundError, or ValueError if the file is not a Lightning checkpoint or contains other classes.
    """
    path = Path(path)
    require_file(path, "checkpoint not found")
    _refuse_compressed(path)
    try:
        with torch.serialization.safe_globals(_ADMITTED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises pickle, runtime, key or end-of-file errors, depending on the file.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "GLOBAL" in line), lines[0])
        # torch's advice is to admit what the file holds, or to execute it.
        reason = reason.partition(" by default")[0].partition(" Please ")[0]
        if "weights_only" in reason:
            reason = "it holds more than tensors and plain values"
        raise ValueError(f"{path}: not readable as a Lightning checkpoint: {reason.strip()[:300]}") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path}: expected a Lightning .ckpt with a state_dict, found none")
    _refuse_beyond_file(content, path)
    if "hyper_parameters" in content:
        # An object that is in a list a hundred times, and that list in the next one, has no end written out.
        check_size(content["hyper_parameters"], f"{path}: hyper_parameters", _parts)
        content["hyper_parameters"] = _plain(content["hyper_parameters"])
    return content


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError for a zip file with compressed or overlapping records, which can unpack to any size.

    torch saves none.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records, size = archive.infolist(), path.stat().st_size
            packed = [record for record in records if record.compress_type != zipfile.ZIP_STORED]
            whole = sum(record.file_size for record in records)
    except Exception as error:
        raise ValueError(f"{path}: not readable as a Lightning checkpoint: {error}; copy it again") from None
    if packed:
        raise ValueError(
            f"{path}: {packed[0].filename}: expected a record as torch saves it, found a compressed one of "
            f"{packed[0].file_size} bytes; nothing was unpacked; save the checkpoint with torch again"
        )
    if whole > size:
        raise ValueError(
            f"{path}: expected records of at most {size} bytes, the size of the file, found {whole}: they overlap; "
            "nothing was unpacked; save the checkpoint with torch again"
        )


def _refuse_beyond_file(content: Any, path: Path) -> None:
    """Raise ValueError for tensors that are no plain arrays, or that have more values than the file has bytes for."""
    size, seen, stack = path.stat().st_size, set(), [("", content)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.numel() * value.element_size() > size:
                raise ValueError(
                    f"{path}: {name}: expected the values of a tensor, found {value.layout} on {value.device} of shape "
                    f"{tuple(value.shape)} in a file of {size} bytes; save the checkpoint with torch again"
                )
        elif id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else enumerate(_parts(value))
            stack += [(f"{name}.{key}" if name else str(key), part) for key, part in parts]


def _parts(value: Any) -> list[Any]:
    """What a container or a held object contains; of the latter its content, not the objects around it."""
    if isinstance(value, _Held):
        return [_content(value)]
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple | set) else []


def _plain(node: Any) -> Any:
    """Convert OmegaConf's containers and nodes to plain values; interpolations remain text."""
    if isinstance(node, _Held):
        return _plain(_content(node))
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return node


def _content(node: _Held) -> Any:
    state = vars(node)
    return state["_content"] if "_content" in state else state.get("_val")


def averaged_weights(content: dict[str, Any]) -> dict[str, Tensor] | None:
    """The EMA weights: exported by the published code, or in the state of its callback; None if there are none."""
    if isinstance(content.get("ema_state_dict"), dict):
        return content["ema_state_dict"]
    callbacks = content.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, dict) else ():
        if isinstance(state, dict) and isinstance(state.get("ema"), dict):
            return state["ema"]
    return None


def without_wrappers(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under the names of the bare network, whichever wrappers (torch.compile, DDP, FSDP) it was saved in.

    Raises ValueError if the file holds two weights that differ only by a wrapper.
    """
    bare = {}
    for name, value in weights.items():
        own = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
        if own in bare:
            raise ValueError(
                f"{path}: weight {own} is duplicate, once in a wrapper ({name}); save one of the two"
            )
        bare[own] = value
    return bare
