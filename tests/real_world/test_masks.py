"""Masks as they lie on users' disks: soft ones, other codings, other headers than the image's."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball, head
from pydantic import ValidationError

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.quality.exclusion import verdicts
from slimdiff.data.quality.measure import measure
from slimdiff.data.volumes.read import VolumeError, load_pair, read_image

LESION = ball((12, 14, 16), 3.5).astype(np.uint8)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -31
TILTED = AFFINE @ nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.1, 0.05, 0.12), (3.0, -2.0, 1.0)
)


def save(path: Path, values: np.ndarray, sform=AFFINE, qform=None, codes=(1, 0)) -> Path:
    """A NIfTI file with these two forms; codes: of sform and qform."""
    image = nibabel.Nifti1Image(values, None)
    image.set_sform(sform, code=codes[0])
    image.set_qform(sform if qform is None else qform, code=codes[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def subject(folder: Path, mask, name="sub-1", image=None, group="patient", **of_mask) -> Participant:
    image = image or save(folder / f"{name}_FLAIR.nii.gz", head(1) + 50)
    path = None if mask is None else save(folder / f"{name}_roi.nii.gz", mask, **of_mask)
    return Participant(name, group, image, path, group_by_mask=True)


def pair_of(row, **options):
    return load_pair(row, **options)


def refused(row, **options) -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        load_pair(row, **options)
    return caught.value


RNG = np.random.default_rng(0)
NOISE = (RNG.random(LESION.shape) * 2e-7).astype(np.float32)
ALMOST = np.where(LESION, 1 - 1e-4 * RNG.integers(0, 2, LESION.shape), NOISE).astype(np.float32)
"""Noise of 1e-7 as background, 0.9999 beside 1 as lesion."""


@pytest.mark.parametrize("labels, scale", [("binary", 1), ("any", 1), ((1,), 1), ("binary", 0.004)])
def test_noise_of_resampling_is_no_lesion_and_does_not_lose_it(labels, scale, tmp_path):
    row = subject(tmp_path, ALMOST * np.float32(scale))
    np.testing.assert_array_equal(pair_of(row, labels=labels).lesion, LESION > 0)


@pytest.mark.parametrize("labels", ["binary", "any", (255,)])
def test_254_97_is_no_label(labels, tmp_path):
    assert "data.mask_threshold" in str(refused(subject(tmp_path, ALMOST * np.float32(255)), labels=labels))


SOFT = np.clip(1.2 - np.linalg.norm(np.indices((32, 32, 32)).T - [12, 14, 16], axis=-1).T / 6, 0, 1)


@pytest.mark.parametrize("labels", ["binary", "any", (1,)])
def test_a_probability_map_needs_a_threshold_and_the_message_says_so(labels, tmp_path):
    fault = refused(subject(tmp_path, SOFT.astype(np.float32)), labels=labels)
    assert fault.flag == "mask_not_binary"
    assert "data.mask_threshold: 0.5" in str(fault)
    assert ("data.lesion_labels: binary" in str(fault)) == (labels == (1,))


@pytest.mark.parametrize("scale", [1, 100, 0.8])
def test_the_threshold_is_a_share_of_the_largest_value_or_of_1(scale, tmp_path):
    row = subject(tmp_path, (scale * SOFT).astype(np.float32))
    for threshold in (0.5, 0.25):
        expected = scale * SOFT > threshold * max(scale, 1)
        np.testing.assert_array_equal(pair_of(row, threshold=threshold).lesion, expected)
        assert measure(row, DataConfig(mask_threshold=threshold)).lesion_voxels == expected.sum()


def test_a_map_without_a_voxel_above_the_threshold_is_an_empty_mask(tmp_path):
    fault = refused(subject(tmp_path, (0.3 * SOFT).astype(np.float32)), threshold=0.5)
    assert fault.flag == "empty_mask" and "0.3" in str(fault) and "data.mask_threshold" in str(fault)


def test_a_threshold_and_a_list_of_labels_are_refused_together():
    with pytest.raises(ValidationError, match="lesion_labels binary or any"):
        DataConfig(mask_threshold=0.5, lesion_labels=(1,))


def test_whole_labels_are_no_soft_mask(tmp_path):
    several = LESION * np.uint8(3) + ball((20, 20, 20), 2).astype(np.uint8)
    np.testing.assert_array_equal(pair_of(subject(tmp_path, several), labels=(3,)).lesion, several == 3)


def judged(rows, **data):
    config = DataConfig(source="bids", root="x", **data)
    measured = {row.participant_id: measure(row, config) for row in rows}
    return {
        verdict.participant.participant_id: verdict.participant.is_patient
        for verdict in verdicts(rows, measured, QualityConfig(), config)
    }


def test_no_advice_turns_patients_into_controls(tmp_path):
    """Masks of 0 and 255, and label 1 asked for."""
    fault = refused(subject(tmp_path, LESION * np.uint8(255)), labels=(1,))
    assert fault.flag == "other_labels"
    assert "255" in str(fault) and "label 1" in str(fault)
    assert "empty_mask" not in str(fault)


def test_a_lesion_in_another_coding_is_never_a_control(tmp_path):
    """One of three patients has 255 instead of 1."""
    rows = [subject(tmp_path / "a", LESION, "sub-1"), subject(tmp_path / "b", np.roll(LESION, 3), "sub-2")]
    other = subject(
        tmp_path / "c",
        LESION * np.uint8(255),
        "sub-3",
        save(tmp_path / "c" / "other.nii.gz", head(2) + 50),
    )
    rows[1] = subject(tmp_path / "b", LESION, "sub-2", save(tmp_path / "b" / "second.nii.gz", head(3) + 50))
    with pytest.raises(DataError, match="sub-3: other_labels: .*255"):
        judged([*rows, other], lesion_labels=(1,), empty_mask="control")


def test_a_mask_with_other_known_labels_only_can_be_a_control(tmp_path):
    """Tumour without enhancing core: label 4 is asked for, and 2 occurs beside it in another mask."""
    both = LESION * np.uint8(4) + ball((22, 22, 22), 3).astype(np.uint8) * np.uint8(2)
    images = [save(tmp_path / f"{n}.nii.gz", head(n) + 50) for n in (1, 2, 3)]
    rows = [
        subject(tmp_path, both, "sub-1", images[0]),
        subject(tmp_path, (both == 2) * np.uint8(2), "sub-2", images[1]),
        subject(tmp_path, LESION * 0, "sub-3", images[2]),
    ]
    found = judged(rows, lesion_labels=(4,), empty_mask="control")
    assert found == {"sub-1": True, "sub-2": False, "sub-3": False}


FORMS = {
    "the mask has the image's qform": ({"codes": (1, 1), "qform": TILTED}, {"sform": TILTED}),
    "the image has the mask's qform": ({"sform": TILTED}, {"codes": (1, 1), "qform": TILTED}),
    "the mask has no position": ({}, {"codes": (0, 0)}),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_mask_drawn_on_the_image_is_not_moved_by_another_header(case, tmp_path):
    of_image, of_mask = FORMS[case]
    image = save(tmp_path / "image.nii.gz", head(1) + 50, **of_image)
    row = subject(tmp_path, LESION, image=image, **of_mask)
    for grid in ("same", "resample"):
        fault = refused(row, mask_grid=grid)
        assert fault.flag == "other_grid"
        assert "set data.mask_grid: voxels" in str(fault)
        assert "mask_grid: resample" not in str(fault)
    np.testing.assert_array_equal(pair_of(row, mask_grid="voxels").lesion, LESION > 0)


def test_voxels_are_not_taken_where_the_place_differs(tmp_path):
    """The same shape, but 30 mm away by both forms: nobody knows that the voxels belong together."""
    moved = AFFINE.copy()
    moved[0, 3] += 30
    fault = refused(subject(tmp_path, LESION, sform=moved), mask_grid="voxels")
    assert fault.flag == "other_grid" and "30 mm" in str(fault)


def test_a_file_without_a_position_and_of_another_shape_is_never_resampled(tmp_path):
    fault = refused(subject(tmp_path, LESION[:-2], codes=(0, 0)), mask_grid="resample")
    assert "gives no position" in str(fault)
    assert "mask_grid: resample" not in str(fault)


def test_forms_more_than_a_voxel_apart_are_shown(tmp_path):
    near = AFFINE.copy()
    near[0, 3] += 0.5
    for qform, expected in ((TILTED, ["forms_differ"]), (near, []), (AFFINE, [])):
        image = save(tmp_path / "image.nii.gz", head(1) + 50, qform=qform, codes=(1, 1))
        row = subject(tmp_path, LESION, image=image)
        config = DataConfig(source="bids", root="x")
        (verdict,) = verdicts([row], {"sub-1": measure(row, config)}, QualityConfig(), config)
        assert [flag.name for flag in verdict.shown] == expected
        assert not verdict.stopping
    with pytest.raises(DataError, match="forms_differ"):
        image = save(tmp_path / "image.nii.gz", head(1) + 50, qform=TILTED, codes=(1, 1))
        row = subject(tmp_path, LESION, image=image)
        verdicts([row], {"sub-1": measure(row, config)}, QualityConfig(accept={"forms_differ": ()}), config)


def test_the_mask_of_the_brain_is_no_lesion(tmp_path):
    brain = (head(1) > 0).astype(np.uint8)
    row = subject(tmp_path, brain)
    config = DataConfig(source="bids", root="x")
    measured = measure(row, config)
    assert measured.lesion_share == pytest.approx(1, abs=0.1)
    with pytest.raises(DataError, match="implausible_lesion.*mask of the brain"):
        verdicts([row], {"sub-1": measured}, QualityConfig(), config)
    accepted = QualityConfig(accept={"implausible_lesion": ("sub-1",)})
    (verdict,) = verdicts([row], {"sub-1": measured}, accepted, config)
    assert verdict.participant.included
    small = subject(tmp_path / "small", LESION)
    (verdict,) = verdicts([small], {"sub-1": measure(small, config)}, QualityConfig(), config)
    assert "implausible_lesion" not in [flag.name for flag in verdict.shown]


def test_nan_outside_the_field_of_view_is_background_and_counted(tmp_path):
    values = (head(1) + 50).astype(np.float32)
    values[:3] = np.nan
    values[:, :, -1] = np.nan
    path = save(tmp_path / "image.nii.gz", values)
    image = read_image(Participant("sub-1", "patient", path, None))
    outside = np.isnan(values)
    assert image.outside == outside.sum()
    assert (image.values[outside] == np.nanmin(values)).all()
    np.testing.assert_array_equal(image.values[~outside], values[~outside])
    assert measure(Participant("sub-1", "patient", path, None), DataConfig()).outside_voxels == outside.sum()


def test_nan_inside_the_head_is_a_fault(tmp_path):
    values = (head(1) + 50).astype(np.float32)
    values[:3] = np.nan
    values[16, 16, 16] = np.nan
    row = Participant("sub-1", "patient", save(tmp_path / "image.nii.gz", values), None)
    with pytest.raises(VolumeError, match="1 of 32768 voxels are NaN or infinite"):
        read_image(row)
