"""Volumes that cannot be used: the stage `participants` names the file and the cause, and nothing is made of them."""

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nibabel
import numpy as np
import pytest
from bad_input.cases import STATE, Workplace
from helpers.synthetic import AFFINE, ball, head, save_nifti

WHO = "sub-02"
LESION = ball((20, 14, 16), 3.5)
"""Of WHO, as the good study has it."""


@dataclass(frozen=True)
class Bad:
    """What becomes of WHO's files, and what the refusal says."""

    spoil: Callable[[Workplace], object]
    wanted: tuple[str, ...]
    """Regular expressions, all of them in the message."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the good study, dotted key: value."""


def image_bytes(change: Callable[[bytes], bytes]) -> Callable[[Workplace], object]:
    """Change the image file as it lies on the disk."""
    return lambda place: place.image(WHO).write_bytes(change(place.image(WHO).read_bytes()))


def header_bytes(at: int, value: np.ndarray) -> Callable[[Workplace], object]:
    """Write a value into the image's NIfTI header, at a byte offset of the standard."""

    def change(packed: bytes) -> bytes:
        raw = bytearray(gzip.decompress(packed))
        raw[at : at + value.nbytes] = value.tobytes()
        return gzip.compress(bytes(raw))

    return image_bytes(change)


def image_of(
    make: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE
) -> Callable[[Workplace], object]:
    """Another array in the place of the image's."""

    def spoil(place: Workplace) -> None:
        save_nifti(place.image(WHO), make(np.asarray(nibabel.load(place.image(WHO)).dataobj)), affine)

    return spoil


def mask_of(array: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Workplace], object]:
    return lambda place: save_nifti(place.mask(WHO), array, affine)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    array = array.astype(np.float32)
    array[3, 3, 3] = value
    return array


def scaled_affine(*factors: float) -> np.ndarray:
    return AFFINE @ np.diag([*factors, 1.0])


def moved_affine(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


def folder_instead(place: Workplace) -> None:
    place.image(WHO).unlink()
    place.image(WHO).mkdir()


def broken_link(place: Workplace) -> None:
    place.image(WHO).unlink()
    place.image(WHO).symlink_to("../../../.git/annex/objects/gone.nii.gz")


def thick(place: Workplace) -> None:
    affine = scaled_affine(1, 1, 1.5)
    save_nifti(place.image(WHO), np.asarray(nibabel.load(place.image(WHO)).dataobj), affine)
    save_nifti(place.mask(WHO), LESION.astype(np.uint8), affine)


def twin(place: Workplace) -> None:
    place.image("sub-05").write_bytes(place.image("sub-04").read_bytes())


def repacked_twin(place: Workplace) -> None:
    raw = gzip.decompress(place.image("sub-04").read_bytes())
    place.image("sub-05").write_bytes(gzip.compress(raw, 1))


def mirrored_twin(place: Workplace) -> None:
    values = np.asarray(nibabel.load(place.image("sub-04")).dataobj)
    save_nifti(place.image("sub-05"), values[::-1], scaled_affine(-1, 1, 1))


TWINS = (twin, repacked_twin, mirrored_twin)


def rgb(array: np.ndarray) -> np.ndarray:
    pixels = np.zeros(array.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    pixels["R"] = array / 2
    return pixels


def wrapped(array: np.ndarray) -> np.ndarray:
    # The brightest tissue is more than int16 can hold and comes out at its other end.
    return np.round(array * 270).astype(np.int32).astype(np.int16)


IMAGE, MASK = rf"{WHO}_FLAIR\.nii\.gz", rf"{WHO}_FLAIR_roi\.nii\.gz"

FILES = {
    "no bytes": Bad(image_bytes(lambda packed: b""), (IMAGE, "empty")),
    "half of the gzip stream": Bad(
        image_bytes(lambda packed: packed[: len(packed) // 2]), (IMAGE, "too early")
    ),
    "the last byte missing": Bad(image_bytes(lambda packed: packed[:-1]), (IMAGE, "too early")),
    "a flipped bit in the gzip stream": Bad(
        image_bytes(lambda packed: packed[:5000] + bytes([packed[5000] ^ 4]) + packed[5001:]),
        (IMAGE, "damaged"),
    ),
    "random bytes": Bad(
        image_bytes(lambda packed: np.random.default_rng(0).bytes(5000)),
        (IMAGE, "cannot be read", "gzip|NIfTI"),
    ),
    "gzipped random bytes": Bad(
        image_bytes(lambda packed: gzip.compress(np.random.default_rng(0).bytes(5000))), (IMAGE, "NIfTI")
    ),
    "a text file": Bad(image_bytes(lambda packed: b"<html>404 Not Found</html>"), (IMAGE, "gzip|NIfTI")),
    "a pointer of Git LFS": Bad(
        image_bytes(lambda packed: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        (IMAGE, "Git LFS", "fetch"),
    ),
    "a NIfTI that is not packed": Bad(image_bytes(gzip.decompress), (IMAGE, "not gzipped")),
    "a header that is cut": Bad(
        image_bytes(lambda packed: gzip.compress(gzip.decompress(packed)[:200])), (IMAGE, "header", "200")
    ),
    "voxels that are cut": Bad(
        image_bytes(lambda packed: gzip.compress(gzip.decompress(packed)[:-1000])),
        (IMAGE, "promises|too early", "131072"),
    ),
    "a header with more voxels than there are": Bad(
        header_bytes(42, np.array([32767] * 3, "<i2")), (IMAGE, "32767", "at most")
    ),
    "a header with a negative size": Bad(header_bytes(42, np.array([-32], "<i2")), (IMAGE, "-32", "shape")),
    "a header with an unknown type of voxels": Bad(header_bytes(70, np.array([77], "<i2")), (IMAGE, "77")),
    "a header with the voxels before its own end": Bad(
        header_bytes(108, np.array([16], "<f4")), (IMAGE, "byte 16")
    ),
    "a folder": Bad(folder_instead, (WHO, "folder|not found|no .*FLAIR")),
    "a link to nothing": Bad(broken_link, (IMAGE, "link|not there")),
    "a mask of no bytes": Bad(lambda place: place.mask(WHO).write_bytes(b""), (MASK, "empty")),
    "a mask that is cut": Bad(
        lambda place: place.mask(WHO).write_bytes(place.mask(WHO).read_bytes()[:-20]), (MASK, "too early")
    ),
}

VALUES = {
    "four dimensions": Bad(
        image_of(lambda array: np.stack([array] * 2, -1)), (IMAGE, r"\(32, 32, 32, 2\)", "3-D")
    ),
    "two dimensions": Bad(image_of(lambda array: array[:, :, 16]), (IMAGE, r"\(32, 32", "3-D")),
    "one slice": Bad(image_of(lambda array: array[:, :, 16:17]), (IMAGE, r"\(32, 32, 1\)", "3-D")),
    "NaN": Bad(image_of(lambda array: with_value(array, np.nan)), (IMAGE, "1 .*voxels are NaN")),
    "infinity": Bad(image_of(lambda array: with_value(array, np.inf)), (IMAGE, "1 .*voxels are .*infinite")),
    "constant": Bad(image_of(lambda array: np.full_like(array, 7)), (IMAGE, "constant", "7")),
    "colours": Bad(image_of(rgb), (IMAGE, "RGB")),
    "complex numbers": Bad(image_of(lambda array: array.astype(np.complex64)), (IMAGE, "complex")),
    "a slope that is infinite": Bad(header_bytes(112, np.array([np.inf], "<f4")), (IMAGE, "scal|infinite")),
    "intensities that wrapped": Bad(image_of(wrapped), (IMAGE, "wrap|overflow|int16")),
}

PLACES = {
    "an affine of zeros": Bad(
        header_bytes(280, np.zeros(12, "<f4")), (IMAGE, "affine", "singular|0 x 0 x 0")
    ),
    "an affine of NaN": Bad(header_bytes(280, np.full(12, np.nan, "<f4")), (IMAGE, "affine", "finite")),
    "two axes of one direction": Bad(
        header_bytes(280, np.array([6, 6, 0, -93, 0, 0, 0, -93, 0, 0, 6, -93], "<f4")),
        (IMAGE, "affine", "singular"),
    ),
    "neither sform nor qform": Bad(header_bytes(252, np.zeros(2, "<i2")), (IMAGE, "sform", "qform")),
    "thick slices": Bad(thick, (IMAGE, "9", "mm", "max_spacing_mm|thick")),
    "the same file under two names": Bad(twin, ("sub-04", "sub-05", "same")),
    "the same voxels under two names, packed anew": Bad(repacked_twin, ("sub-04", "sub-05", "same")),
    "the same voxels, mirrored": Bad(mirrored_twin, ("sub-04", "sub-05", "same")),
}

MASKS = {
    "another shape": Bad(mask_of(LESION[:-1].astype(np.uint8)), (MASK, r"\(31, 32, 32\)", r"\(32, 32, 32\)")),
    "another place": Bad(mask_of(LESION.astype(np.uint8), moved_affine(2)), (MASK, "affine", "2 mm")),
    "other voxels": Bad(mask_of(LESION.astype(np.uint8), scaled_affine(1.01, 1, 1)), (MASK, "affine", "mm")),
    "the other side of the world": Bad(
        mask_of(LESION.astype(np.uint8), scaled_affine(-1, 1, 1)), (MASK, "affine")
    ),
    "three labels": Bad(
        mask_of(sum(ball((20, 14, 16), radius).astype(np.uint8) for radius in (3.5, 2, 1))),
        (MASK, "1, 2, 3", r"data\.lesion_labels"),
    ),
    "a label that nobody drew": Bad(
        mask_of(LESION.astype(np.uint8)), ("FLAIR_roi", "label 2"), {"data.lesion_labels": [2]}
    ),
    "probabilities": Bad(
        mask_of(np.where(LESION, np.random.default_rng(0).random(LESION.shape), 0).astype(np.float32)),
        (MASK, "other values"),
    ),
    "nothing": Bad(mask_of(np.zeros(LESION.shape, np.uint8)), (MASK, "no voxel|empty")),
    "below zero alone": Bad(mask_of(-LESION.astype(np.int8)), (MASK, "no voxel|empty|negative|-1")),
    "NaN": Bad(mask_of(with_value(LESION, np.nan)), (MASK, "NaN")),
    "outside of the head": Bad(mask_of(ball((2, 2, 2), 2).astype(np.uint8)), (MASK, "outside")),
    "the image itself": Bad(mask_of(head(2)), (MASK, "other values|image")),
    "left for right": Bad(
        mask_of(LESION[::-1].astype(np.uint8)),
        (MASK, "left|right|flip|mirror"),
        {"quality.accept": {"flip_suspected": []}},
    ),
}


def check(place: Workplace, bad: Bad) -> None:
    place.configure(bad.changes)
    if not bad.changes:
        assert place.run("participants")[0] == 0, "the study has to be right before it is spoilt"
    bad.spoil(place)
    message = place.refuses(WHO if bad.spoil not in TWINS else "", *bad.wanted)
    assert "sub-01" not in message or "data.lesion_labels" in bad.changes, "nobody else is to blame"


def test_a_good_study_is_accepted_again_and_nothing_changes(place):
    before = place.files()
    status, message = place.run("participants")
    assert status == 0, message
    assert place.files() == before


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read_is_refused_by_name(case, place):
    check(place, FILES[case])


@pytest.mark.parametrize("case", VALUES)
def test_an_image_whose_values_cannot_be_used_is_refused_by_name(case, place):
    check(place, VALUES[case])


@pytest.mark.parametrize("case", PLACES)
def test_an_image_in_a_doubtful_place_is_refused_by_name(case, place):
    check(place, PLACES[case])


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_that_does_not_fit_is_refused_by_name(case, place):
    check(place, MASKS[case])


def test_everybody_who_is_broken_is_named_in_one_message(place):
    place.image("sub-01").write_bytes(b"")
    save_nifti(place.mask("sub-03"), np.zeros(LESION.shape, np.uint8))
    twin(place)
    place.refuses(r"sub-01_FLAIR\.nii\.gz", r"sub-03_FLAIR_roi\.nii\.gz", "sub-04", "sub-05")


def test_more_left_out_than_allowed_stop_the_run(place):
    place.configure({"quality.policy": "exclude", "quality.max_excluded": 1})
    place.image("sub-01").write_bytes(b"")
    place.image("sub-04").write_bytes(b"")
    place.refuses("sub-01", "sub-04", r"quality\.max_excluded", "2")


def test_a_study_that_loses_all_its_patients_is_stopped(place):
    place.configure({"quality.policy": "exclude"})
    for name in ("sub-01", "sub-02", "sub-03"):
        place.image(name).write_bytes(b"")
    place.refuses("no subject with a lesion mask|no patient")


def test_several_workers_say_the_same_as_one(place):
    place.image("sub-01").write_bytes(b"")
    place.mask("sub-03").write_bytes(b"\x1f\x8b")
    said = []
    for arguments in ((), ("--workers", "2")):
        # What one run measured would be remembered by the next.
        shutil.rmtree(place.folder / STATE)
        wanted = (r"sub-01_FLAIR\.nii\.gz", r"sub-03_FLAIR_roi\.nii\.gz")
        said.append(place.refuses(*wanted, arguments=arguments).partition("error:")[2])
    assert said[0] == said[1] != ""
