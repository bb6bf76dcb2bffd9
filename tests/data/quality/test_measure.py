"""What is measured of one participant, against plain numpy, and what it does not depend on."""

import gzip
import hashlib
import json

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball, head, save_nifti

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import Participant
from slimdiff.data.quality.measure import Measured, measure, measure_volume

LESION = ball((12, 14, 16), 3.5).astype(np.uint8)
AFFINE = np.array([[-2.0, 0, 0, 31], [0, 0, 3.0, -46], [0, 2.5, 0, -40], [0, 0, 0, 1]])
"""Axes to the left, superior, anterior; voxels of 2 x 2.5 x 3 mm."""


def subject(folder, image=None, mask=LESION, affine=AFFINE, name="sub-1", **more) -> Participant:
    image = head(1) if image is None else image
    image_path = save_nifti(folder / f"{name}.nii.gz", image, affine)
    mask_path = None if mask is None else save_nifti(folder / f"{name}_roi.nii.gz", mask, affine)
    return Participant(name, "fcd", image_path, mask_path, **more)


def test_numbers_are_those_of_the_arrays(tmp_path):
    image = head(1).astype(np.int16)
    row = subject(tmp_path, image)
    found = measure(row, DataConfig())
    assert found.flags == ()
    assert (found.shape, found.orientation, found.dtype) == ((32, 32, 32), "LSA", "int16")
    assert found.spacing_mm == (2.0, 2.5, 3.0)
    assert (found.minimum, found.maximum) == (image.min(), image.max())
    assert found.lesion_voxels == LESION.sum()
    assert found.lesion_ml == pytest.approx(LESION.sum() * 2 * 2.5 * 3 / 1000)
    assert found.image_sha256 == hashlib.sha256(row.image.read_bytes()).hexdigest()
    assert found.mask_sha256 == hashlib.sha256(row.mask.read_bytes()).hexdigest()
    assert found.wrapped_voxels == 0 and found.clipped_share == 0


def test_a_control_has_no_lesion_and_no_doubt(tmp_path):
    found = measure(subject(tmp_path, mask=None), DataConfig())
    assert (found.lesion_voxels, found.lesion_ml, found.flags) == (0, 0.0, ())
    assert found.lesion_outside_share is found.flip_contrast is found.mask_sha256 is None


def test_the_share_outside_is_of_the_head_or_of_the_brain_mask(tmp_path):
    edge = ball((16, 28, 16), 3)
    row = subject(tmp_path, mask=edge.astype(np.uint8))
    found = measure(row, DataConfig())
    # The head's rim is where Otsu sees it: its outermost voxels may count either way.
    share = (edge & (head(1) == 0)).sum() / edge.sum()
    assert found.lesion_outside_share == pytest.approx(share, abs=0.05)
    assert 0.2 < share < 0.9 and found.outside_of == "head"
    brain = ball((16, 16, 16), 11)
    path = save_nifti(tmp_path / "brain.nii.gz", brain.astype(np.uint8), AFFINE)
    found = measure(Participant("sub-1", "fcd", row.image, row.mask, brain_mask=path), DataConfig())
    assert found.lesion_outside_share == (edge & ~brain).sum() / edge.sum()
    assert found.outside_of == "brain mask"


def test_the_voxel_hash_knows_an_image_again_however_it_is_stored(tmp_path):
    image = head(1).astype(np.int16)
    known = measure(subject(tmp_path / "a", image), DataConfig()).voxel_sha256
    same = {
        "another name": subject(tmp_path / "b", image, name="sub-2"),
        "another header": subject(tmp_path / "c", image, affine=np.diag([1, 1, 5, 1.0])),
        "real numbers": subject(tmp_path / "d", image.astype(np.float64)),
        "mirrored": subject(tmp_path / "e", image[::-1], np.ascontiguousarray(LESION[::-1])),
        "axes in another order": subject(tmp_path / "f", image.transpose(2, 0, 1), LESION.transpose(2, 0, 1)),
        "without a mask": subject(tmp_path / "g", image, None),
    }
    packed = subject(tmp_path / "h", image)
    packed.image.write_bytes(gzip.compress(gzip.decompress(packed.image.read_bytes()), 1))
    same["packed otherwise"] = packed
    for case, row in same.items():
        assert measure(row, DataConfig()).voxel_sha256 == known, case
    other = image.copy()
    other[16, 16, 16] += 1
    reshaped = image.reshape(16, 64, 32)
    for row in (
        subject(tmp_path / "i", other),
        subject(tmp_path / "j", reshaped, None),
        subject(tmp_path / "k", head(2)),
    ):
        assert measure(row, DataConfig()).voxel_sha256 != known


def test_the_voxel_hash_does_not_depend_on_which_axis_is_first(tmp_path):
    image = head(1, (32, 28, 24))
    found = {
        measure(subject(tmp_path / str(axes), image.transpose(axes), None), DataConfig()).voxel_sha256
        for axes in ((0, 1, 2), (2, 0, 1), (1, 0, 2))
    }
    assert len(found) == 1


@pytest.mark.parametrize("spacing", [1.0, 4.0])
def test_a_mask_on_the_wrong_side_of_a_brain_beside_the_volumes_middle_is_seen(spacing, tmp_path):
    shape = (72, 64, 64)
    lesion = ball((20, 30, 32), 4, shape)
    image = head(6, shape)
    image[lesion] += 40
    # 24 voxels of air on the left: the volume's own middle is no plane of symmetry.
    image, lesion = (np.pad(array, ((24, 0), (0, 0), (0, 0))) for array in (image, lesion))
    mirrored = np.zeros_like(lesion)
    mirrored[24:] = lesion[24:][::-1]
    affine = np.diag([spacing, spacing, spacing, 1])
    true = measure(subject(tmp_path / "a", image, lesion.astype(np.uint8), affine), DataConfig())
    turned = measure(subject(tmp_path / "b", image, mirrored.astype(np.uint8), affine), DataConfig())
    assert turned.flip == "mirrored left to right"
    assert turned.flip_contrast == pytest.approx(true.lesion_contrast, rel=0.2)
    assert turned.lesion_contrast < 0.2 * true.lesion_contrast


def test_minus_nought_is_nought(tmp_path):
    image = head(1)
    known = measure(subject(tmp_path / "a", image), DataConfig()).voxel_sha256
    image[image == 0] = -0.0
    assert np.signbit(image).any()
    assert measure(subject(tmp_path / "b", image), DataConfig()).voxel_sha256 == known


def test_the_order_and_direction_of_stored_axes_changes_no_measurement(tmp_path):
    image = head(4)
    image[LESION > 0] += 30
    found = []
    for codes in ("LSA", "RAS", "PIR"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(codes)
        )
        turned = nibabel.Nifti1Image(image, AFFINE).as_reoriented(turn)
        mask = nibabel.Nifti1Image(LESION, AFFINE).as_reoriented(turn)
        row = subject(tmp_path / codes, np.asarray(turned.dataobj), np.asarray(mask.dataobj), turned.affine)
        measured, planes = measure_volume(row, DataConfig())
        assert measured.orientation == codes
        found.append((measured, planes))
    first, planes = found[0]
    for other, others in found[1:]:
        for key in (
            "voxel_sha256",
            "lesion_ml",
            "lesion_outside_share",
            "lesion_contrast",
            "flip",
            "flip_contrast",
        ):
            assert getattr(other, key) == pytest.approx(getattr(first, key)), key
        for (image_a, mask_a), (image_b, mask_b) in zip(planes, others, strict=True):
            np.testing.assert_array_equal(image_a, image_b)
            np.testing.assert_array_equal(mask_a, mask_b)


def test_what_is_wrong_with_image_and_masks_is_said_of_each(tmp_path):
    row = subject(tmp_path, mask=LESION * 0)
    brain = save_nifti(tmp_path / "brain.nii.gz", LESION[:-1], AFFINE)
    row = Participant("sub-1", "fcd", row.image, row.mask, brain_mask=brain)
    measured, planes = measure_volume(row, DataConfig())
    assert [flag.name for flag in measured.flags] == ["empty_mask", "other_grid"]
    assert str(row.mask) in measured.flags[0].reason and str(brain) in measured.flags[1].reason
    assert measured.voxel_sha256 and planes
    row.image.write_bytes(b"")
    measured, planes = measure_volume(row, DataConfig())
    assert [flag.name for flag in measured.flags] == ["empty_file"]
    assert measured.shape is None and planes is None
    assert measured.mask_sha256


def test_labels_and_grid_are_as_configured(tmp_path):
    two = LESION + ball((12, 14, 16), 2).astype(np.uint8)
    row = subject(tmp_path, mask=two)
    assert [flag.name for flag in measure(row, DataConfig()).flags] == ["mask_not_binary"]
    assert measure(row, DataConfig(lesion_labels=(2,))).lesion_voxels == (two == 2).sum()
    assert measure(row, DataConfig(source="brats", root="x")).lesion_voxels == LESION.sum()
    save_nifti(row.mask, LESION[:, :, 2:], AFFINE @ np.array([*np.eye(4)[:2], [0, 0, 1, 2], [0, 0, 0, 1]]))
    assert [flag.name for flag in measure(row, DataConfig()).flags] == ["other_grid"]
    found = measure(row, DataConfig(mask_grid="resample"))
    assert (found.lesion_voxels, found.mask_moved, found.flags) == (LESION.sum(), True, ())


def test_a_measurement_survives_json(tmp_path):
    for mask in (LESION, LESION * 0, None):
        found = measure(subject(tmp_path, mask=mask), DataConfig())
        assert Measured.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(TypeError, match="lesion_litres"):
        Measured.from_dict({**found.to_dict(), "lesion_litres": 1})


def test_a_whole_volume_of_a_patient_has_no_flag(shared_data):
    folder = shared_data / "open_ms"
    row = Participant("p", "p", folder / "patient07_FLAIR_MNI.nii.gz", folder / "patient07_lesion_MNI.nii.gz")
    found = measure(row, DataConfig())
    assert found.flags == () and found.wrapped_voxels == 0 and found.clipped_share == 0
    assert found.orientation == "LAS" and found.lesion_outside_share < 0.01
