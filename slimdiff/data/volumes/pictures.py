"""Read one slice from a picture: PNG, TIFF and JPEG-2000 by Pillow, NPY by numpy; values as stored in the file.

What Pillow would change without a message is refused: a second page, transparency, colours of a palette, a rotation
tag, and several channels of 16 bit, which it reduces to 8.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from slimdiff.config.data import PICTURES
from slimdiff.data.volumes.nifti import FileFault
from slimdiff.files import content_hint

FORMATS = ("PNG", "TIFF", "JPEG2000")
MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F", "P", "LA", "RGB", "RGBA")
ORIENTATION_TAG, UPRIGHT = 0x0112, 1
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0
MOST_CHANNELS = 4
START_AND_SIZE, LAST_MARKER, DEPTH_AT = b"\xff\x4f\xff\x51", b"\xff\xd9", 42
"""Of a JPEG-2000 codestream: its first two markers, its last one, and where the depth is after the first."""


def read_picture(path: Path, channel: int | None = None, labels: bool = False) -> np.ndarray:
    """One channel of a picture, (rows, columns), of the type in the file; 1-bit pictures are 0 and 1.

    channel: which one; None: the picture has one channel, or equal ones. labels: whether it is a mask, whose values may
    be the numbers of a palette with black as number 0.
    Raises FileFault: missing_file, empty_file, truncated, unreadable; messages begin with the path.
    """
    path = Path(path)
    hint = content_hint(path)
    if hint or not path.is_file():
        raise FileFault("missing_file", f"{path} {hint or 'not found'}")
    if not path.stat().st_size:
        raise FileFault("empty_file", f"{path} has no bytes; copy it again")
    if path.suffix.lower() not in PICTURES:
        raise FileFault(
            "unreadable", f"{path}: expected {', '.join(PICTURES)}, found another ending; convert it"
        )
    try:
        values = _array(path) if path.suffix.lower() == ".npy" else _pixels(path, labels)
    except FileFault:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow has no type of its own for a file that ends too early.
        flag = "truncated" if "truncated" in str(error) else "unreadable"
        raise FileFault(flag, f"{path} cannot be read: {error}; copy or convert it again") from None
    if values.dtype.kind not in "buif" or min(values.shape) < 1:
        raise FileFault(
            "unreadable", f"{path}: expected numbers, found {values.dtype} {values.shape}; convert it"
        )
    # Byte orders make no difference to the values.
    return _one_channel(values.astype(values.dtype.newbyteorder("="), copy=False), channel, labels, path)


def size_of(path: Path) -> tuple[int, int] | None:
    """Rows and columns by the header alone; None if it cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False).shape[:2]
        with Image.open(path, formats=FORMATS) as picture:
            return picture.height, picture.width
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def _array(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] > MOST_CHANNELS):
        raise FileFault(
            "unreadable",
            f"{path}: expected an array (rows, columns) or (rows, columns, channels) with at most {MOST_CHANNELS} "
            f"channels, found {values.shape}; save the slice again",
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def _pixels(path: Path, labels: bool) -> np.ndarray:
    with Image.open(path, formats=FORMATS) as picture:
        pages = getattr(picture, "n_frames", 1)
        if pages != 1:
            raise FileFault(
                "unreadable",
                f"{path}: expected one picture, found {pages} pages or frames; save each slice as a file",
            )
        if picture.mode not in MODES:
            raise FileFault(
                "unreadable", f"{path}: expected grey or RGB, found mode {picture.mode}; convert the picture"
            )
        _refuse_lost_depth(picture, path)
        if picture.getexif().get(ORIENTATION_TAG, UPRIGHT) != UPRIGHT:
            raise FileFault(
                "unreadable",
                f"{path}: a tag of the file says that it is to be rotated; save it upright, without the tag",
            )
        picture.load()
        if picture.has_transparency_data:
            opaque = np.asarray(picture.convert("RGBA"))[..., 3].min() == 255
            if not opaque:
                raise FileFault(
                    "unreadable",
                    f"{path}: parts of the picture are transparent; save it without transparency",
                )
        if picture.mode == "P":
            return _without_palette(picture, labels, path)
        values = np.asarray(picture)
        values = values[..., :-1] if picture.mode in ("LA", "RGBA") else values
        return values.astype(np.uint8) if values.dtype == bool else values


def _refuse_lost_depth(picture: Image.Image, path: Path) -> None:
    """Raise FileFault for pictures of 16 bit that Pillow reads with 8, or with black and white exchanged."""
    several = picture.mode in ("LA", "RGB", "RGBA")
    bits = _bits_of_jpeg2000(path) if picture.format == "JPEG2000" else 8
    deep = bits > 8 or ";16" in str(picture.tile)
    if several and deep:
        raise FileFault(
            "unreadable",
            f"{path}: expected one channel where a picture has 16 bit, found mode {picture.mode}; save the channel "
            "as a picture of its own, or as NPY",
        )
    tags = getattr(picture, "tag_v2", {})
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO and picture.mode not in ("1", "L"):
        raise FileFault("unreadable", f"{path}: 0 is white (TIFF tag 262); save it with 0 as black")


def _bits_of_jpeg2000(path: Path) -> int:
    """Bits of the first component, by the markers of the codestream (ISO/IEC 15444-1, annex A).

    Raises FileFault for a codestream without its last marker, which Pillow may read with other values.
    """
    content = path.read_bytes()
    place = content.find(START_AND_SIZE)
    # No other data has the bytes of a marker.
    if place < 0 or LAST_MARKER not in content[place:]:
        raise FileFault("truncated", f"{path} ends before the last marker of its codestream; copy it again")
    return (content[place + DEPTH_AT] & 0x7F) + 1


def _without_palette(picture: Image.Image, labels: bool, path: Path) -> np.ndarray:
    """Grey values of a palette of greys; of a mask with colours the numbers in the palette."""
    numbers = np.asarray(picture)
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = colours[np.unique(numbers)]
    if (used == used[:, :1]).all():
        return colours[numbers, 0]
    if labels and not colours[0].any():
        return numbers
    raise FileFault(
        "unreadable", f"{path}: expected grey, found a palette of colours; save it as a grey picture"
    )


def _one_channel(values: np.ndarray, channel: int | None, labels: bool, path: Path) -> np.ndarray:
    count = 1 if values.ndim == 2 else values.shape[2]
    if channel is not None and channel >= count:
        raise FileFault(
            "unreadable",
            f"{path}: expected channel {channel} (data.channel, from 0), found a picture with {count} channel"
            f"{'s' * (count > 1)}; correct data.channel",
        )
    if values.ndim == 2:
        return values
    if channel is None and not (values == values[..., :1]).all():
        to_do = "save the mask with one channel" if labels else f"set data.channel to one of 0 to {count - 1}"
        raise FileFault("unreadable", f"{path}: found {count} different channels; {to_do}")
    return values[..., channel or 0]
