"""Weights in a safetensors file with a JSON record in its metadata; damage anywhere in the file is found.

The record holds the sha256 of its other values and of the tensors. A file without them is of an earlier version.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimdiff.files import CHECKSUM, object_sha256, replacing, require_file

TENSORS = "tensors"


def write_archive(
    path: Path, tensors: Mapping[str, torch.Tensor], key: str, record: Mapping[str, Any]
) -> None:
    """Write tensors, and the record under this key of the metadata, atomically."""
    on_host = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    record = json.loads(json.dumps(record))
    record[CHECKSUM] = {"record": object_sha256(record), TENSORS: hash_of_tensors(on_host)}
    size = sum(value.nbytes for value in on_host.values())
    with replacing(path, size=size) as temporary:
        save_file(on_host, temporary, metadata={key: json.dumps(record)})


def read_record(
    path: Path, key: str, what: str, remedy: str
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The record, with its checksum, and the shapes of the tensors; no tensor is read.

    Args:
        path: the file.
        key: of the metadata.
        what: what the record is, for messages.
        remedy: what to do about a damaged file.

    Raises FileNotFoundError, or ValueError naming the file.
    """
    path = Path(path)
    require_file(path, "checkpoint not found")
    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            shapes = {name: tuple(archive.get_slice(name).get_shape()) for name in archive.keys()}  # noqa: SIM118
    except Exception as error:
        # Every kind of damage has an error type of its own.
        raise ValueError(f"{path}: not a safetensors file: {error}; {remedy}") from None
    if key not in metadata:
        raise ValueError(f"{path}: expected the {what} in its metadata, found none; is it the right file?")
    try:
        record = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its {what} is not readable as JSON: {error}; {remedy}") from None
    if not isinstance(record, dict):
        raise ValueError(
            f"{path}: its {what}: expected a JSON object, found {type(record).__name__}; {remedy}"
        )
    if CHECKSUM in record:
        own = {name: value for name, value in record.items() if name != CHECKSUM}
        hashes = record[CHECKSUM]
        if (
            not isinstance(hashes, dict)
            or hashes.get("record") != object_sha256(own)
            or TENSORS not in hashes
        ):
            raise ValueError(
                f"{path}: its {what} is not what was written, by its checksum: it was damaged; {remedy}"
            )
    return record, shapes


def read_tensors(path: Path, record: Mapping[str, Any], remedy: str) -> dict[str, torch.Tensor]:
    """The tensors of a file whose record was read; raises ValueError for damaged ones, and for NaN and infinities."""
    with safe_open(path, framework="pt") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    if CHECKSUM in record and record[CHECKSUM][TENSORS] != hash_of_tensors(tensors):
        raise ValueError(
            f"{path}: its weights are not what was written, by their checksum: they were damaged; {remedy}"
        )
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{path}: weight {name}: {count} of {value.numel()} values are NaN or infinite, expected none; {remedy}"
            )
    return tensors


def hash_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
