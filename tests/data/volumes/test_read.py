"""Volumes from their files, against nibabel; and every way in which a file can be broken."""

import gzip
import os
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import AFFINE, ball, head, save_nifti

from slimdiff.data.participants import Participant
from slimdiff.data.volumes.nifti import FileFault, read_nifti
from slimdiff.data.volumes.read import VolumeError, load_pair, on_grid_of, read_volume
from slimdiff.files import sha256

LESION = ball((12, 14, 16), 3.5).astype(np.uint8)


def fault_of(path: Path) -> tuple[str, str]:
    """Flag and message with which the file is refused."""
    with pytest.raises(VolumeError) as caught:
        read_volume(path, "sub-7")
    assert str(caught.value).startswith(f"sub-7: {path}")
    return caught.value.flag, str(caught.value)


def poke(path: Path, *fields: tuple[int, str, float]) -> Path:
    """Write (offset, struct format, value) into a file's NIfTI-1 header."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    for offset, form, value in fields:
        struct.pack_into(form, raw, offset, value)
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", ">f4", "<f8", "<i4"])
def test_voxels_and_affine_are_those_that_nibabel_reads(kind, ending, dtype, tmp_path):
    rng = np.random.default_rng(5)
    array = rng.integers(0, 200, (7, 6, 5)).astype(dtype)
    affine = AFFINE @ np.diag([1, -1, 0.5, 1])
    image = kind(array, affine)
    image.header.set_data_dtype(dtype)
    image = kind(array, affine, image.header.as_byteswapped(">" if dtype[0] == ">" else "<"))
    path = tmp_path / "v.nii"
    nibabel.save(image, path)
    if ending != ".nii":
        packed = tmp_path / f"v{ending}"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    ours, theirs = read_volume(path, "x"), nibabel.load(path)
    np.testing.assert_array_equal(ours.values, theirs.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    np.testing.assert_array_equal(ours.stored, theirs.dataobj.get_unscaled())
    assert ours.sha256 == sha256(path)
    assert ours.placed and not ours.scaled


@pytest.mark.parametrize("slope, intercept", [(0.25, -3.0), (2.0, 0.0), (0.0, 9.0), (np.nan, np.nan)])
def test_a_slope_of_nought_or_nan_is_no_scaling_and_any_other_scales(slope, intercept, tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = poke(save_nifti(tmp_path / "v.nii.gz", stored), (112, "<f", slope), (116, "<f", intercept))
    expected = stored * slope + intercept if slope > 0 else stored
    volume = read_volume(path, "x")
    np.testing.assert_allclose(volume.values, expected, rtol=1e-6)
    np.testing.assert_array_equal(volume.stored, stored)
    assert volume.scaled == (slope > 0)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    array = head(1)
    volume = read_volume(save_nifti(tmp_path / "v.nii.gz", array[..., None, None]), "x")
    np.testing.assert_array_equal(volume.values, array)
    np.testing.assert_array_equal(volume.stored, array)


def _link(path: Path) -> None:
    path.symlink_to(path.parent / "annex" / "gone.nii.gz")


def _image(path: Path, array=None, affine=AFFINE) -> Path:
    return save_nifti(path, head(1) if array is None else array, affine)


def _cut(path: Path, unpack: bool) -> None:
    _image(path)
    if unpack:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-4]))
    else:
        path.write_bytes(path.read_bytes()[:-9])


def _damaged(path: Path) -> None:
    # Only the checksum sees it: an uncompressed block, so that the stream stays whole.
    raw = _image(path.with_name("whole.nii")).read_bytes()
    packed = bytearray(gzip.compress(raw, 0))
    packed[9000] ^= 1
    path.write_bytes(packed)


def _rgb(path: Path) -> None:
    _image(path, np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))


def _analyze(path: Path) -> None:
    _image(path)
    poke(path, (344, "<i", 0))


# Offsets of NIfTI-1: dim 40, datatype 70, pixdim 76, vox_offset 108, slope 112, codes 252 and 254, quaternion 256,
# sform 280.
def _header(*fields):
    return lambda path: poke(_image(path), *fields)


BY_QFORM = ((252, "<h", 1), (254, "<h", 0))
FAULTS = {
    "nothing there": (lambda p: None, "missing_file", "not found"),
    "a link to nowhere": (_link, "missing_file", "gone.nii.gz"),
    "below a file": (lambda p: p.parent.touch(), "missing_file", "not found", "f/v.nii.gz"),
    "no bytes": (lambda p: p.touch(), "empty_file", "0 bytes"),
    "a folder": (lambda p: p.mkdir(), "unreadable", "folder"),
    "gzip that ends early": (lambda p: _cut(p, False), "truncated", "too early"),
    "fewer voxels than promised": (lambda p: _cut(p, True), "truncated", "131072 bytes"),
    "a bit that turned over": (_damaged, "truncated", "checksum"),
    "a header that ends early": (
        lambda p: p.write_bytes(gzip.compress(b"\x5c\x01\0\0" + b"\0" * 90)),
        "truncated",
        "94 bytes",
    ),
    "more voxels than a disk holds": (_header((42, "<h", 32767), (44, "<h", 32767)), "unreadable", "32767"),
    "named gz and plain": (
        lambda p: p.write_bytes(_image(p.with_name("p.nii")).read_bytes()),
        "unreadable",
        "not gzipped",
    ),
    "named plain and gz": (
        lambda p: p.write_bytes(gzip.compress(_image(p.with_name("p.nii")).read_bytes())),
        "unreadable",
        "gzipped but not named",
        "v.nii",
    ),
    "another ending": (lambda p: p.write_bytes(b"x"), "unreadable", ".nii or .nii.gz", "v.mgz"),
    "an Analyze header": (
        lambda p: nibabel.save(nibabel.Spm99AnalyzeImage(head(1), AFFINE), p),
        "unreadable",
        ".nii or .nii.gz",
        "v.img",
    ),
    "Analyze under a NIfTI name": (_analyze, "unreadable", "Analyze"),
    "a page of text": (lambda p: p.write_bytes(b"<html>" * 90), "unreadable", "no NIfTI", "v.nii"),
    "a pointer of git-annex": (
        lambda p: p.write_bytes(b"/annex/objects/SHA256E-s9--0.nii.gz\n"),
        "unreadable",
        "git-annex",
    ),
    "colours": (_rgb, "unreadable", "RGB"),
    "complex numbers": (lambda p: _image(p, np.zeros((4, 4, 4), np.complex64)), "unreadable", "complex"),
    "an unknown type": (_header((70, "<h", 77)), "unreadable", "datatype 77"),
    "no axes": (_header((40, "<h", 0)), "unreadable", "0 axes"),
    "a negative size": (_header((42, "<h", -32)), "unreadable", "-32"),
    "voxels within the header": (_header((108, "<f", 16)), "unreadable", "byte 16"),
    "an infinite slope": (_header((112, "<f", np.inf)), "unreadable", "scaling"),
    "a slope without intercept": (
        _header((112, "<f", 2), (116, "<f", np.nan)),
        "unreadable",
        "scaling",
    ),
    "voxels of no size": (_header(*BY_QFORM, (84, "<f", 0)), "unreadable", "6 x 0 x 6 mm"),
    "voxels of no number": (_header(*BY_QFORM, (80, "<f", np.nan)), "unreadable", "nan x 6 x 6 mm"),
    "no codes and no size": (
        _header((252, "<h", 0), (254, "<h", 0), (88, "<f", 0)),
        "unreadable",
        "6 x 6 x 0",
    ),
    "no rotation": (_header(*BY_QFORM, (256, "<f", 3.0)), "unreadable", "qform"),
    "an affine of NaN": (_header((280, "<f", np.nan)), "unreadable", "not finite"),
    "an affine of nought": (_header((280, "<f", 0)), "unreadable", "singular"),
    "two axes one way": (
        _header((280, "<f", 0), (296, "<f", 6)),
        "unreadable",
        "singular",
    ),
    "four axes": (lambda p: _image(p, np.stack([head(1)] * 2, -1)), "not_3d", "(32, 32, 32, 2)"),
    "two axes": (lambda p: _image(p, head(1)[:, :, 9]), "not_3d", "(32, 32"),
    "one slice": (lambda p: _image(p, head(1)[:, :, 9:10]), "not_3d", "(32, 32, 1)"),
}


def test_a_qfac_of_zero_means_one(tmp_path):
    """NIfTI-1 standard, method 2: "If pixdim[0] = 0, it is taken as 1"; nibabel refuses such a qform."""
    plain = read_nifti(_header(*BY_QFORM)(tmp_path / "a.nii.gz"))
    found = read_nifti(_header(*BY_QFORM, (76, "<f", 0))(tmp_path / "b.nii.gz"))
    np.testing.assert_array_equal(found.affine, plain.affine)
    mirrored = read_nifti(_header(*BY_QFORM, (76, "<f", -1))(tmp_path / "c.nii.gz"))
    assert not np.array_equal(mirrored.affine, plain.affine)


@pytest.mark.parametrize("excess", [1e-6, 5e-5])
def test_a_quaternion_a_rounding_above_one_is_a_half_turn(tmp_path, excess):
    b = np.float32(1 + excess)
    found = read_nifti(
        _header(*BY_QFORM, (256, "<f", b), (260, "<f", 0), (264, "<f", 0))(tmp_path / "a.nii.gz")
    )
    # Half a turn about x: y and z change their signs.
    np.testing.assert_allclose(found.affine[:3, :3], np.diag([6, -6, -6]), atol=1e-2)


@pytest.mark.parametrize("case", FAULTS)
def test_a_broken_file_is_refused_with_its_flag_name_and_cause(case, tmp_path):
    make, flag, cause, *name = FAULTS[case]
    path = tmp_path / (name[0] if name else "v.nii.gz")
    make(path)
    found, message = fault_of(path)
    assert found == flag
    assert cause in message


def test_a_file_without_permission_is_refused_and_says_so(tmp_path):
    path = save_nifti(tmp_path / "v.nii.gz", head(1))
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            flag, message = fault_of(path)
        finally:
            os.seteuid(0)
    else:
        flag, message = fault_of(path)
    assert flag == "unreadable"
    assert "permission" in message


def test_small_voxels_are_not_taken_for_a_singular_affine(tmp_path):
    affine = np.diag([1e-3, 1e-3, 1e-3, 1])
    np.testing.assert_allclose(read_nifti(save_nifti(tmp_path / "v.nii.gz", head(1), affine)).affine, affine)


def test_header_and_file_faults_are_the_only_ones(tmp_path):
    # Whatever the header's bytes: an array or a fault, never another exception.
    rng = np.random.default_rng(11)
    raw = _image(tmp_path / "good.nii", head(1, (6, 5, 4))).read_bytes()
    path, refused = tmp_path / "v.nii", 0
    for _ in range(400):
        spoilt = bytearray(raw)
        for place in rng.integers(0, 352, 3):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            assert read_nifti(path).stored.size > 0
        except FileFault as fault:
            refused += 1
            assert fault.flag in ("truncated", "unreadable")
    assert 20 < refused < 380


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_volume_is_placed_where_a_code_says_so(codes, tmp_path):
    path = poke(save_nifti(tmp_path / "v.nii.gz", head(1)), (252, "<h", codes[0]), (254, "<h", codes[1]))
    volume = read_volume(path, "x")
    assert volume.placed == any(codes)
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)


def pair(folder: Path, image=None, mask=LESION, brain=None, mask_affine=AFFINE, **options):
    image = save_nifti(folder / "image.nii.gz", head(1) if image is None else image)
    mask = None if mask is None else save_nifti(folder / "mask.nii.gz", mask, mask_affine)
    brain = None if brain is None else save_nifti(folder / "brain.nii.gz", brain)
    return load_pair(Participant("sub-7", "fcd", image, mask, brain_mask=brain), **options)


def _changed(array, value):
    array = array.astype(np.float32)
    array[1, 2, 3] = value
    return array


TWO = LESION + ball((12, 14, 16), 2).astype(np.uint8)
ELSEWHERE = AFFINE + np.array([[0, 0, 0, 2.0], *[[0.0] * 4] * 3])
FAR = AFFINE + np.array([[0, 0, 0, 1e4], *[[0.0] * 4] * 3])
PAIRS = {
    "NaN in the image": ({"image": _changed(head(1), np.nan)}, "not_finite", "1 of 32768"),
    "bytes in the wrong order": ({"image": head(1) * np.float32(1e20)}, "not_finite", "expected intensities"),
    "a constant image": ({"image": np.full((32, 32, 32), 7.0, np.float32)}, "constant", "7 everywhere"),
    "NaN in the mask": ({"mask": _changed(LESION, np.nan)}, "not_finite", "mask"),
    "another shape": ({"mask": LESION[:-1]}, "other_grid", "(31, 32, 32)"),
    "another place": ({"mask_affine": ELSEWHERE}, "other_grid", "2 mm"),
    "two values": ({"mask": TWO}, "mask_not_binary", "1, 2"),
    "no lesion": ({"mask": LESION * 0}, "empty_mask", "no voxel"),
    "below nought": ({"mask": -LESION.astype(np.int8)}, "other_labels", "below 0"),
    "another label": ({"labels": (2,)}, "other_labels", "label 2"),
    "a brain of nothing": ({"brain": LESION * 0}, "empty_brain_mask", "brain"),
    # Not an empty mask, which may stand for a control.
    "a mask beside the image": (
        {"mask_affine": FAR, "mask_grid": "resample"},
        "other_grid",
        "lies outside the image",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_files_that_do_not_belong_together_are_refused(case, tmp_path):
    what, flag, cause = PAIRS[case]
    with pytest.raises(VolumeError, match="sub-7") as caught:
        pair(tmp_path, **what)
    assert caught.value.flag == flag
    assert cause in str(caught.value)


def test_which_labels_are_lesion_is_as_configured(tmp_path):
    np.testing.assert_array_equal(pair(tmp_path, mask=TWO, labels="any").lesion, TWO > 0)
    np.testing.assert_array_equal(pair(tmp_path, mask=TWO, labels=(2, 5)).lesion, TWO == 2)
    np.testing.assert_array_equal(pair(tmp_path, mask=LESION * 9).lesion, LESION > 0)
    assert not pair(tmp_path, mask=None).lesion.any()


def test_a_mask_on_another_grid_lands_where_its_world_coordinates_are(tmp_path):
    # The same lesion, cut out of the volume and stored from right to left.
    cut = LESION[4:28, 6:30, 2:31][::-1]
    affine = AFFINE @ np.array([[-1, 0, 0, 27], [0, 1, 0, 6], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    found = pair(
        tmp_path, mask=cut, mask_affine=affine, brain=(head(1) > 0).astype(np.uint8), mask_grid="resample"
    )
    np.testing.assert_array_equal(found.lesion, LESION > 0)
    np.testing.assert_array_equal(found.brain, head(1) > 0)
    assert found.moved == ("mask",)


def test_nearest_voxels_are_those_of_a_loop_over_the_image(tmp_path):
    rng = np.random.default_rng(2)
    turn = np.array([[0.9, 0.3, 0], [-0.3, 0.9, 0.1], [0, -0.1, 1.1]])
    image = read_volume(save_nifti(tmp_path / "i.nii.gz", rng.random((6, 7, 5), np.float32)), "x")
    affine = AFFINE.copy()
    affine[:3, :3] = AFFINE[:3, :3] @ turn
    mask = read_volume(save_nifti(tmp_path / "m.nii.gz", rng.random((8, 6, 7), np.float32), affine), "x")
    moved = on_grid_of(mask, image)
    for place in np.ndindex(image.values.shape):
        world = image.affine @ [*place, 1]
        there = np.linalg.solve(mask.affine, world)[:3]
        if np.abs(there % 1 - 0.5).min() < 1e-4:
            continue  # as near to one voxel as to the next
        index = np.round(there).astype(int)
        within = np.all((index >= 0) & (index < mask.values.shape))
        assert moved[place] == (mask.values[tuple(index)] if within else 0)
