"""Read a Lightning checkpoint without executing anything in it.

PyTorch's `weights_only` unpickler admits tensors and plain containers. A configuration may also contain a few classes
of OmegaConf. They are replaced by inert classes, which hold the pickled state and have no methods.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    try:
        with torch.serialization.safe_globals(_ADMITTED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises pickle, runtime, key or end-of-file errors, depending on the file.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "GLOBAL" in line), lines[0])
        if "weights_only" in reason:
            # torch's advice there is to execute whatever the file holds.
            reason = "it holds more than tensors and plain values"
        raise ValueError(f"{path}: not readable as a Lightning checkpoint: {reason.strip()[:300]}") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path}: expected a Lightning .ckpt with a state_dict, found none")
    if "hyper_parameters" in content:
        content["hyper_parameters"] = _plain(content["hyper_parameters"])
    return content


def _plain(node: Any) -> Any:
    """Convert OmegaConf's containers and nodes to plain values; interpolations remain text."""
    if isinstance(node, _Held):
        state = vars(node)
        return _plain(state["_content"] if "_content" in state else state.get("_val"))
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return node


def averaged_weights(content: dict[str, Any]) -> dict[str, Tensor] | None:
    """The EMA weights: exported by the published code, or in the state of its callback; None if there are none."""
    if isinstance(content.get("ema_state_dict"), dict):
        return content["ema_state_dict"]
    for state in (content.get("callbacks") or {}).values():
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
