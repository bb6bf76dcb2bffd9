"""What cannot go onto the grid, what is left out, and what the source may say of its masks."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import AFFINE, SPACING_MM, ball, head, save_nifti
from helpers.tiny_volumes import CONFIG, LESION, files_of, percentile_twin, run, with_brain

from slimdiff.config.preprocess import BrainConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.files import CHECKSUM


def _shifted():
    affine = AFFINE.copy()
    affine[0, 3] += 2
    return affine


def _zoomed():
    affine = AFFINE.copy()
    affine[0, 0] += 0.05  # 1.6 mm at the far end
    return affine


def _with(volume, value):
    volume = volume.copy()
    volume[3, 3, 3] = value
    return volume


def _truncated(path: Path, array: np.ndarray) -> Path:
    save_nifti(path, array)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _no_nifti(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"hello" * 100))
    return path


BAD = {
    "4-D image": ("image", "expected a 3-D volume", lambda p: save_nifti(p, np.stack([head(1)] * 2, -1))),
    "NaN in the image": ("image", "NaN", lambda p: save_nifti(p, _with(head(1), np.nan))),
    "infinity in the image": ("image", "infinite", lambda p: save_nifti(p, _with(head(1), np.inf))),
    "constant image": ("image", "constant", lambda p: save_nifti(p, np.full((32, 32, 32), 7.0, np.float32))),
    "two values": (
        "image",
        "different intensities",
        lambda p: save_nifti(p, (head(1) > 0).astype(np.float32)),
    ),
    "truncated image": ("image", "ends too early", lambda p: _truncated(p, head(1))),
    "no NIfTI": ("image", "cannot be read", _no_nifti),
    "absent image": ("image", "not found", lambda p: p),
    "absent mask": ("mask", "not found", lambda p: p),
    "truncated mask": ("mask", "ends too early", lambda p: _truncated(p, head(1))),
    "empty mask": ("mask", "empty", lambda p: save_nifti(p, np.zeros((32, 32, 32), np.uint8))),
    "mask of another shape": ("mask", "shape", lambda p: save_nifti(p, LESION[:-1].astype(np.uint8))),
    "mask elsewhere": ("mask", "affine", lambda p: save_nifti(p, LESION.astype(np.uint8), _shifted())),
    "mask of other voxels": ("mask", "affine", lambda p: save_nifti(p, LESION.astype(np.uint8), _zoomed())),
    "NaN in the mask": ("mask", "NaN", lambda p: save_nifti(p, _with(LESION.astype(np.float32), np.nan))),
    "4-D mask": ("mask", "3-D", lambda p: save_nifti(p, np.stack([LESION.astype(np.uint8)] * 2, -1))),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_subject_file_and_cause_and_leaves_nothing(case, tmp_path):
    kind, cause, make = BAD[case]
    image = save_nifti(tmp_path / "good_image.nii.gz", head(1))
    mask = save_nifti(tmp_path / "good_mask.nii.gz", LESION.astype(np.uint8))
    bad = make(tmp_path / "bad.nii.gz")
    with pytest.raises(DataError) as caught:
        run(tmp_path, bad if kind == "image" else image, bad if kind == "mask" else mask, name="sub-77")
    message = str(caught.value)
    assert "sub-77" in message
    assert str(bad) in message
    assert cause in message
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


def test_a_lesion_outside_of_the_grid_is_an_error(tmp_path):
    lesion = np.zeros((32, 32, 32), np.uint8)
    lesion[0:2, 0:2, 0:2] = 1
    config = CONFIG.model_copy(update={"grid": (16, 16, 16)})
    with pytest.raises(DataError, match=r"sub-1.*mask\.nii\.gz: expected a lesion.*found none"):
        run(tmp_path, head(1), lesion, config)
    assert not (tmp_path / "out").exists()


def test_a_grid_that_misses_the_brain_is_an_error(tmp_path):
    volume = np.zeros((32, 32, 32), np.float32)
    volume[:4, :4, :4] = np.arange(64).reshape(4, 4, 4)
    config = CONFIG.model_copy(update={"grid": (8, 8, 8)})
    with pytest.raises(DataError, match=r"sub-1.*image\.nii\.gz.*background"):
        run(tmp_path, volume, None, config)


BY_SOURCE = CONFIG.model_copy(update={"brain": BrainConfig(method="source")})


def test_percentiles_are_of_the_brain_mask_and_outside_of_it_is_background(tmp_path):
    brain = ball((15, 15, 16), 9)
    files_of(with_brain(tmp_path, brain), BY_SOURCE, tmp_path / "out")
    scaled = np.asarray(nibabel.load(tmp_path / "out" / "image.nii.gz").dataobj)
    volume = head(1) + 50
    low, high = (percentile_twin(volume[brain], p) for p in BY_SOURCE.percentiles)
    np.testing.assert_allclose(
        scaled[brain], np.clip(2 * (volume[brain].astype(float) - low) / (high - low) - 1, -1, 1), atol=2e-5
    )
    assert (scaled[~brain] == -1).all()
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["qc"]["foreground_ml"] == pytest.approx(brain.sum() * SPACING_MM**3 / 1000)


def test_more_than_half_of_the_lesion_outside_of_the_brain_is_an_error(tmp_path):
    lesion = np.zeros((32, 32, 32), bool)
    lesion[10:20, 16, 16] = True
    for inside, refused in ((5, False), (4, True)):
        brain = np.zeros_like(lesion)
        brain[10 : 10 + inside] = True
        participant = with_brain(tmp_path / str(inside), brain, lesion)
        if not refused:
            files_of(participant, BY_SOURCE, tmp_path / "kept")
            continue
        with pytest.raises(DataError, match=r"sub-1: .*image\.nii\.gz: .*found 6 of 10 .*data\.exclude"):
            files_of(participant, BY_SOURCE, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()


def test_what_was_accepted_and_the_limit_hold_where_the_brain_is_extracted_too(tmp_path):
    """Quality control sees the head only, as long as there is no brain."""
    participant = with_brain(tmp_path, ball((15, 15, 16), 9), ball((25, 25, 25), 3))
    for allowed in ({"accept": {"lesion_outside_brain": ("sub-1",)}}, {"max_lesion_outside": 1.0}):
        assert all(files_of(participant, BY_SOURCE, tmp_path / "kept", QualityConfig(**allowed)))
    for refused in (
        {},
        {"accept": {"lesion_outside_brain": ("sub-2",)}},
        {"accept": {"thick_slices": "all"}},
    ):
        with pytest.raises(DataError, match=r"at most 50 % .*quality\.accept: lesion_outside_brain"):
            files_of(participant, BY_SOURCE, tmp_path / "refused", QualityConfig(**refused))


def test_a_few_voxels_far_brighter_than_the_head_are_no_head(tmp_path):
    volume = head(1)
    volume[10:12, 10:12, 10:12] = np.linspace(20_000, 25_000, 8).reshape(2, 2, 2)
    image = save_nifti(tmp_path / "image.nii.gz", volume)
    with pytest.raises(DataError, match=r"sub-1: .*image\.nii\.gz: .*at least 1 % .*found 0\.024 %"):
        files_of(Participant("sub-1", "hc", image, None), CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def told(record: bytes) -> dict:
    return {key: value for key, value in json.loads(record).items() if key not in ("made_of", CHECKSUM)}


FAULTS = ["no image", "NaN", "no brain mask", "lesion outside"]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_excluded_participant_that_cannot_be_used_gets_empty_files_and_a_record(fault, tmp_path):
    participant = with_brain(
        tmp_path,
        {"no brain mask": None, "lesion outside": ball((25, 25, 25), 3)}.get(fault, ball((15, 15, 16), 9)),
    )
    if fault == "no image":
        participant.image.unlink()
    elif fault == "NaN":
        save_nifti(participant.image, _with(head(1), np.nan))
    with pytest.raises(DataError) as caught:
        files_of(participant, BY_SOURCE, tmp_path / "included")
    named = {"participant": "sub-1", "not_preprocessed": str(caught.value)}
    image, mask, record = files_of(participant.without("a broken file"), BY_SOURCE, tmp_path / "excluded")
    assert image == mask == b""
    assert told(record) == {**named, "excluded": "a broken file"}
    # What quality control could not see (no brain, no registration) is left out by the same policy.
    lenient = QualityConfig(policy="exclude")
    image, mask, record = files_of(participant, BY_SOURCE, tmp_path / "left out", lenient)
    assert image == mask == b""
    assert told(record) == named


def test_an_excluded_participant_that_can_be_used_is_processed_as_usual(tmp_path):
    participant = with_brain(tmp_path, None)
    *volumes, record = files_of(participant, CONFIG, tmp_path / "included")
    *excluded_volumes, excluded = files_of(participant.without("moved"), CONFIG, tmp_path / "excluded")
    assert volumes == excluded_volumes
    assert told(excluded) == {**told(record), "excluded": "moved"}


def test_which_labels_are_lesion_and_where_the_mask_lies_is_the_source_s_to_say(tmp_path):
    """Labels 1 and 3 of a mask with twice as fine voxels; label 2 is none."""
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = AFFINE[:3, 3] - SPACING_MM / 4
    fine = np.zeros((64, 64, 64), np.uint8)
    fine[20:30, 20:30, 20:30] = 1
    fine[30:36, 20:30, 20:30] = 2
    fine[36:40, 20:30, 20:30] = 3
    participant = Participant(
        "sub-1",
        "fcd",
        save_nifti(tmp_path / "i.nii.gz", head(1)),
        save_nifti(tmp_path / "m.nii.gz", fine, affine),
    )
    with pytest.raises(DataError, match="mask_grid"):
        files_of(participant, CONFIG, tmp_path / "out", lesion_labels=(1, 3))
    files_of(participant, CONFIG, tmp_path / "out", lesion_labels=(1, 3), mask_grid="resample")
    found = np.asarray(nibabel.load(tmp_path / "out" / "mask.nii.gz").dataobj) > 0
    wanted = np.zeros((32, 32, 32), bool)
    wanted[10:15, 10:15, 10:15] = wanted[18:20, 10:15, 10:15] = True
    np.testing.assert_array_equal(found, wanted)
