"""Pictures of single slices as they come: formats, depths, channels, palettes, and what is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from slimdiff.data.volumes.nifti import FileFault
from slimdiff.data.volumes.pictures import _bits_of_jpeg2000, read_picture, size_of

ROWS, COLUMNS = 9, 14
WHERE = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
EIGHT = (2 * WHERE).astype(np.uint8)
SIXTEEN = (517 * WHERE).astype(np.uint16)


def refused(path: Path, *words: str, flag: str = "unreadable", **options) -> None:
    with pytest.raises(FileFault) as caught:
        read_picture(path, **options)
    assert caught.value.flag == flag and str(caught.value).startswith(str(path))
    assert all(word in str(caught.value) for word in words), caught.value


def saved(path: Path, picture: np.ndarray | Image.Image, **options) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("values", [EIGHT, SIXTEEN], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("ending", ["png", "tif", "TIFF", "jp2", "j2k"])
def test_every_format_keeps_every_value_and_the_depth(tmp_path, ending, values):
    path = saved(tmp_path / f"a.{ending}", values)
    found = read_picture(path)
    assert found.dtype.kind == "u" and found.dtype.itemsize == values.dtype.itemsize
    np.testing.assert_array_equal(found, values)
    assert size_of(path) == (ROWS, COLUMNS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff_of_16_bit(tmp_path, compression):
    path = saved(tmp_path / "a.tif", SIXTEEN, compression=compression)
    np.testing.assert_array_equal(read_picture(path), SIXTEEN)


@pytest.mark.parametrize("kind", [">u2", "<i2", "<f4"])
def test_tiff_of_other_types_and_byte_orders(tmp_path, kind):
    values = (SIXTEEN / 3 - (200 if kind != ">u2" else 0)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=kind[0])
    found = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, values)
    assert found.dtype.isnative


@pytest.mark.parametrize("kind", [bool, np.int16, np.uint16, np.float32])
def test_npy_of_any_number(tmp_path, kind):
    values = (WHERE - 40).astype(kind)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.npy"), values)
    assert size_of(tmp_path / "a.npy") == (ROWS, COLUMNS)


def test_npy_with_pickled_objects_or_the_slices_of_a_volume_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"run": "code"}]), allow_pickle=True)
    refused(tmp_path / "a.npy", "cannot be read")
    np.save(tmp_path / "b.npy", np.zeros((4, 160, 160)))
    refused(tmp_path / "b.npy", "(rows, columns)", "(4, 160, 160)")


def test_the_channel_that_is_named_is_read(tmp_path):
    path = saved(tmp_path / "a.tif", np.stack([EIGHT // 2, EIGHT, 255 - EIGHT], axis=-1))
    np.testing.assert_array_equal(read_picture(path, channel=1), EIGHT)
    np.testing.assert_array_equal(read_picture(path, channel=2), 255 - EIGHT)


def test_different_channels_without_a_choice_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", np.stack([EIGHT // 2, EIGHT, 255 - EIGHT], axis=-1))
    refused(path, "3 different channels", "set data.channel to one of 0 to 2")
    refused(path, "save the mask with one channel", labels=True)


def test_grey_saved_as_rgb_is_one_channel(tmp_path):
    path = saved(tmp_path / "a.png", np.stack([EIGHT] * 3, axis=-1))
    np.testing.assert_array_equal(read_picture(path), EIGHT)


def test_a_channel_out_of_range_names_the_key(tmp_path):
    refused(saved(tmp_path / "a.png", EIGHT), "expected channel 1 (data.channel", "1 channel;", channel=1)
    path = saved(tmp_path / "b.png", np.stack([EIGHT] * 3, axis=-1))
    refused(path, "expected channel 3", "3 channels", channel=3)


def test_a_channel_of_an_array(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([SIXTEEN, SIXTEEN // 2], axis=-1))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.npy", channel=1), SIXTEEN // 2)


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    opaque = np.stack([EIGHT] * 3 + [np.full_like(EIGHT, 255)], axis=-1)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "a.png", opaque)), EIGHT)
    grey = Image.merge("LA", [Image.fromarray(EIGHT), Image.fromarray(opaque[..., 3])])
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "b.png", grey)), EIGHT)
    opaque[0, 0, 3] = 0
    refused(saved(tmp_path / "c.png", opaque), "transparent")


def test_a_transparent_grey_value_is_refused(tmp_path):
    refused(saved(tmp_path / "a.png", EIGHT, transparency=20), "transparent")


def with_palette(numbers: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    picture = Image.fromarray(numbers.astype(np.uint8)).convert("L")
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def test_a_palette_of_greys_gives_its_greys(tmp_path):
    """Not the numbers of its entries, which may be in any order."""
    numbers = WHERE % 3
    path = saved(tmp_path / "a.png", with_palette(numbers, [(200,) * 3, (0,) * 3, (70,) * 3]))
    np.testing.assert_array_equal(read_picture(path), np.array([200, 0, 70])[numbers])


def test_a_palette_of_colours_is_refused_but_in_masks_it_numbers_the_labels(tmp_path):
    numbers = WHERE % 3
    path = saved(tmp_path / "a.png", with_palette(numbers, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]))
    refused(path, "palette of colours")
    np.testing.assert_array_equal(read_picture(path, labels=True), numbers)
    path = saved(tmp_path / "b.png", with_palette(numbers, [(255, 255, 255), (128, 0, 0), (0, 128, 0)]))
    refused(path, "palette of colours", labels=True)


def test_a_picture_of_one_bit_is_0_and_1(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray((WHERE % 2 * 255).astype(np.uint8)).convert("1"))
    np.testing.assert_array_equal(read_picture(path), WHERE % 2)


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_several_pages_or_frames_are_refused(tmp_path, ending):
    more = Image.fromarray(EIGHT[::-1].copy())
    refused(saved(tmp_path / f"a.{ending}", EIGHT, save_all=True, append_images=[more]), "2 pages or frames")


def test_a_tag_that_rotates_the_picture_is_refused(tmp_path):
    """Pillow would rotate the TIFF; other readers of the same file do not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.tif", "b.png"):
        refused(saved(tmp_path / name, EIGHT, exif=exif), "rotated")
    exif[0x0112] = 1
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "c.tif", EIGHT, exif=exif)), EIGHT)


def png_of_16_bit_rgb(path: Path) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.stack([row] * 3, axis=-1).astype(">u2").tobytes() for row in SIXTEEN)
    header = struct.pack(">IIBBBBB", COLUMNS, ROWS, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def test_several_channels_of_16_bit_are_refused_instead_of_reduced_to_8(tmp_path):
    refused(png_of_16_bit_rgb(tmp_path / "a.png"), "16 bit", "NPY", channel=1)
    for compression in (None, "zlib"):
        path = tmp_path / f"{compression}.tif"
        tifffile.imwrite(path, np.stack([SIXTEEN] * 3, axis=-1), photometric="rgb", compression=compression)
        refused(path, "16 bit", channel=1)


def test_the_depth_of_jpeg_2000_is_read_from_its_codestream(tmp_path):
    for values, bits in ((EIGHT, 8), (SIXTEEN, 16)):
        for ending in ("jp2", "j2k"):
            assert _bits_of_jpeg2000(saved(tmp_path / f"{bits}.{ending}", values)) == bits


def test_white_as_zero_is_inverted_or_refused(tmp_path):
    """8 bit: Pillow inverts it. 16 bit: it does not."""
    tifffile.imwrite(tmp_path / "a.tif", EIGHT, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), 255 - EIGHT)
    tifffile.imwrite(tmp_path / "b.tif", SIXTEEN, photometric="miniswhite")
    refused(tmp_path / "b.tif", "0 is white")


def test_print_colours_are_refused(tmp_path):
    refused(saved(tmp_path / "a.tif", Image.fromarray(EIGHT).convert("CMYK")), "CMYK")


def test_missing_empty_cut_off_and_foreign_files(tmp_path):
    refused(tmp_path / "no.png", "not found", flag="missing_file")
    (tmp_path / "a.png").touch()
    refused(tmp_path / "a.png", "no bytes", flag="empty_file")
    content = saved(
        tmp_path / "b.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    ).read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "b.png", "cannot be read", flag="truncated")
    (tmp_path / "c.tif").write_text("not a picture")
    refused(tmp_path / "c.tif", "cannot be read")
    saved(tmp_path / "d.bmp", EIGHT)
    refused(tmp_path / "d.bmp", "another ending")
    # A JPEG under another name: what its losses do to a mask is not seen in the name.
    saved(tmp_path / "e.png", EIGHT, format="JPEG")
    refused(tmp_path / "e.png", "cannot be read")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("ending", ["png", "tif", "jp2", "j2k", "npy"])
def test_no_file_that_was_cut_off_gives_other_values(tmp_path, ending):
    """Wherever it ends, it is refused, or no pixel was lost."""
    mask = np.where(np.indices((64, 64))[0] > 30, 255, 0).astype(np.uint8)
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, mask)
    else:
        saved(path, mask)
    content = path.read_bytes()
    read = 0
    for end in [*range(1, min(len(content), 320)), *range(320, len(content), 97)]:
        path.write_bytes(content[:end])
        try:
            np.testing.assert_array_equal(read_picture(path), mask)
            read += 1
        except FileFault as fault:
            assert fault.flag in ("truncated", "unreadable")
    # Its last bytes at most: a checksum, or the end of an index.
    assert read < 30


def test_a_link_without_its_content_names_the_command(tmp_path):
    (tmp_path / "a.png").symlink_to(".git/annex/objects/Xx/Yy/MD5E-s9--abc/MD5E-s9--abc")
    refused(tmp_path / "a.png", "datalad get", flag="missing_file")
