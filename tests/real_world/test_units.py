"""Volumes whose header counts in metres or micrometres: everything later is in mm."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import AFFINE, ball, head, study_mapping, write_bids

from slimdiff import cli
from slimdiff.config import study_from_mapping
from slimdiff.data.volumes.read import VolumeError, read_volume
from slimdiff.files import read_object, read_table
from slimdiff.generation.conditioning_inputs import SliceGrid, read_masks

PER_MM = {"meter": 1e-3, "mm": 1.0, "micron": 1e3, "unknown": 1.0}
TILTED = AFFINE @ nibabel.affines.from_matvec(
    np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.diag([0.3, -0.25, 0.4]), (5, -7, 11)
)


def save_in(path: Path, array: np.ndarray, affine_mm: np.ndarray, unit: str, by: str = "sform") -> Path:
    """A file whose affine, and voxel size, is in `unit`."""
    affine = affine_mm.copy()
    affine[:3] *= PER_MM[unit]
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1 if by in ("sform", "both") else 0)
    image.set_qform(affine, code=1 if by in ("qform", "both") else 0)
    image.header.set_xyzt_units(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("by", ["sform", "qform"])
@pytest.mark.parametrize("unit", PER_MM)
def test_affine_and_voxel_size_are_in_mm_whatever_the_unit(tmp_path, unit, by):
    volume = read_volume(save_in(tmp_path / "v.nii.gz", head(1), TILTED, unit, by), "sub-01")
    np.testing.assert_allclose(volume.affine, TILTED, atol=2e-4)
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(volume.affine), [1.8, 1.5, 2.4], rtol=1e-5)


@pytest.mark.parametrize("unit", PER_MM)
def test_both_forms_are_in_mm(tmp_path, unit):
    volume = read_volume(save_in(tmp_path / "v.nii.gz", head(1), TILTED, unit, "both"), "sub-01")
    np.testing.assert_allclose(volume.affine, TILTED, atol=2e-4)
    np.testing.assert_allclose(volume.qform, TILTED, atol=1e-3)


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_volume_without_a_position_has_its_voxel_size_in_mm(tmp_path, unit):
    path = save_in(tmp_path / "v.nii.gz", head(1), AFFINE, unit, by="none")
    volume = read_volume(path, "sub-01")
    assert not volume.placed
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(volume.affine), 6.0, rtol=1e-5)


@pytest.mark.parametrize("time", ["sec", "msec", "unknown"])
def test_the_unit_of_time_is_ignored(tmp_path, time):
    image = nibabel.Nifti1Image(head(1), np.diag([0.006, 0.006, 0.006, 1]))
    image.header.set_xyzt_units("meter", time)
    nibabel.save(image, tmp_path / "v.nii")
    sizes = nibabel.affines.voxel_sizes(read_volume(tmp_path / "v.nii", "sub-01").affine)
    np.testing.assert_allclose(sizes, 6.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("unit", "word", "found"),
    [("meter", "metre", "6000 x 6000 x 6000 mm"), ("micron", "micrometre", "0.006 x 0.006 x 0.006 mm")],
)
def test_a_unit_that_does_not_fit_its_numbers_is_refused(tmp_path, unit, word, found):
    """Numbers in mm with another unit: which of the two is wrong is not guessed."""
    image = nibabel.Nifti1Image(head(1), AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "v.nii.gz")
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path / "v.nii.gz", "sub-01")
    assert caught.value.flag == "unreadable"
    for part in ("v.nii.gz", word, found, "xyzt_units"):
        assert part in str(caught.value)


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_study_of_such_volumes_is_the_study_in_mm(tmp_path, unit):
    """Image in the unit, mask in mm: quality control and preprocessing find the same as for mm."""
    found = []
    for name in ("mm", unit):
        root = write_bids(tmp_path / name / "bids", 3, 1)
        for path in root.glob("sub-*/anat/*_FLAIR.nii.gz"):
            save_in(path, np.asarray(nibabel.load(path).dataobj), AFFINE, name)
        study = study_from_mapping(study_mapping(root, tmp_path / name / "results"))
        for stage in ("participants", "preprocess"):
            assert cli.run_stage(stage, ["--config", study.model_dump_json()]) == 0
        rows = [
            {k: v for k, v in row.items() if "sha256" not in k} for row in read_table(study.paths.quality)
        ]
        volume = nibabel.load(study.paths.volume("sub-01", "image"))
        qc = read_object(study.paths.volume_json("sub-01"))["qc"]
        found.append((rows, qc, np.asarray(volume.dataobj), volume.affine))
    (rows, qc, voxels, affine), (other_rows, other_qc, other_voxels, other_affine) = found
    assert (
        [row["spacing_mm"] for row in rows] == [row["spacing_mm"] for row in other_rows] == ["6 x 6 x 6"] * 4
    )
    assert [row["verdict"] for row in rows] == [row["verdict"] for row in other_rows]
    assert other_qc["lesion_ml_source"] == pytest.approx(qc["lesion_ml_source"], rel=1e-5)
    np.testing.assert_allclose(other_voxels, voxels, atol=1e-3)
    np.testing.assert_allclose(other_affine, affine, atol=1e-3)


@pytest.mark.parametrize("unit", PER_MM)
def test_a_drawn_mask_for_conditional_sampling_may_have_any_unit(tmp_path, unit):
    mask = ball((16, 16, 0), 3, (32, 32, 1)).astype(np.uint8)
    path = save_in(tmp_path / "mask.nii.gz", mask, AFFINE, unit)
    grid = SliceGrid((32, 32), 6.0, (0, 31), 3)
    found = read_masks([path], grid, 1)
    assert len(found) == 1
