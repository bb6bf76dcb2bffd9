"""PNG files from arrays, without an imaging library, which the core does not require."""

import struct
import zlib
from pathlib import Path

import numpy as np

from slimdiff.files import replacing


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W) grey or (H, W, 3) RGB as PNG (ISO/IEC 15948)."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise TypeError(f"{path}: expected uint8 (H, W) or (H, W, 3), found {picture.dtype} {picture.shape}")
    height, width = picture.shape[:2]
    rows = np.ascontiguousarray(picture).reshape(height, -1)
    # Every row begins with its filter type, 0 = none.
    data = zlib.compress(np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes(), 6)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if picture.ndim == 2 else 2, 0, 0, 0)
    with replacing(path) as temporary:
        temporary.write_bytes(
            b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pair_sheet(images: np.ndarray, masks: np.ndarray, columns: int, scale: int = 2) -> np.ndarray:
    """Contact sheet of pairs: image above, mask below, uint8 (rows * 2 * H * scale, columns * W * scale).

    images, masks: (N, H, W) in [-1, 1].
    """
    pairs = np.concatenate([images, masks], axis=1)
    shown = np.clip((np.asarray(pairs, np.float32) + 1) * 127.5, 0, 255).round().astype(np.uint8)
    missing = -len(shown) % columns
    shown = np.concatenate([shown, np.zeros((missing, *shown.shape[1:]), np.uint8)])
    rows = [np.concatenate(list(shown[i : i + columns]), axis=1) for i in range(0, len(shown), columns)]
    return np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)
