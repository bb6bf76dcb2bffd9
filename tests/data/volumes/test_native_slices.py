"""Thick slices as they are: resampled in plane only, at their own heights, against a slow twin of one slice each."""

import json

import nibabel
import numpy as np
import pytest
from helpers.synthetic import save_nifti
from helpers.thick_slices import THICK_MM, stack
from scipy.ndimage import map_coordinates

from slimdiff.config.data import DataConfig
from slimdiff.config.paths import StudyPaths
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes.grid import Grid, canonical, centred_grid, native_grid, resample
from slimdiff.data.volumes.preprocess import preprocess, volume_to_source

CONFIG = PreprocessConfig(spacing_mm=(3.0, 3.0, "native"), grid=(64, 64, 40))


def on_grid(folder, values, lesion, affine, config=CONFIG) -> StudyPaths:
    """The participant `a` after preprocessing."""
    paths = StudyPaths.of(folder, "s")
    image = save_nifti(folder / "a_FLAIR.nii.gz", values, affine)
    mask = save_nifti(folder / "a_mask.nii.gz", lesion.astype(np.uint8), affine)
    files = (paths.volume("a", "image"), paths.volume("a", "mask"), paths.volume_json("a"))
    preprocess(Participant("a", "patient", image, mask), DataConfig(), config, *files, QualityConfig())
    return paths


@pytest.mark.parametrize(("codes", "tilt"), [("RAS", 0.0), ("LPS", 0.3), ("SAL", 0.0), ("AIR", -0.2)])
def test_every_slice_is_resampled_in_plane_only(codes, tilt):
    values, _, affine = stack(codes, tilt)
    turned, turned_affine = canonical(values, affine)
    grid = native_grid(Grid(turned.shape, turned_affine), CONFIG.spacing_mm, CONFIG.grid)
    assert grid.shape == (64, 64, 20)
    assert np.linalg.norm(grid.affine[:3, :3], axis=0) == pytest.approx([3, 3, THICK_MM])
    found = resample(turned, turned_affine, grid)
    # Twin: each slice by itself, its pixel centres placed by hand about the centre of 80 x 90 pixels.
    along = [(np.arange(64) - 31.5) * 1.5 + (n - 1) / 2 for n in turned.shape[:2]]
    rows, columns = np.meshgrid(*along, indexing="ij")
    within = (rows > -0.5) & (rows < 79.5) & (columns > -0.5) & (columns < 89.5)
    ahead = 1.5 * 0.5 * (np.floor(np.array([80, 90]) / 1.5 + 1e-3) % 2)  # an odd number of whole voxels
    for z in range(20):
        places = np.stack([rows - ahead[0], columns - ahead[1]])
        slow = map_coordinates(turned[:, :, z], places, order=1, mode="nearest")
        np.testing.assert_allclose(found[:, :, z][within], slow[within], atol=2e-4)
    # A slice stays at its height: its centre lies in the source's slice of the same number.
    for z in (0, 7, 19):
        centre = np.linalg.inv(turned_affine) @ grid.affine @ (31.5, 31.5, z, 1)
        assert centre[2] == pytest.approx(z, abs=1e-9)


def test_pixels_of_the_grid_s_size_are_copied():
    values, _, affine = stack("LPS")
    turned, turned_affine = canonical(values, affine)
    grid = native_grid(Grid(turned.shape, turned_affine), (2.0, 2.0, "native"), (80, 90, 20))
    np.testing.assert_allclose(grid.affine, turned_affine, atol=1e-12)
    np.testing.assert_array_equal(resample(turned, turned_affine, grid), turned)


def test_three_numbers_are_a_grid_of_their_own_and_three_equal_ones_the_isotropic_grid():
    values, _, affine = stack()
    source = Grid(values.shape, affine)
    grid = native_grid(source, (3.0, 3.0, 5.0), (64, 64, 16))
    assert np.diag(grid.affine).tolist() == [3, 3, 5, 1] and grid.shape == (64, 64, 16)
    middle = (np.array(values.shape) - 1) / 2
    assert abs(grid.affine[2, 3] + 5 * 7.5 - (affine[2, 3] + THICK_MM * middle[2])) <= 2.5
    three, one = native_grid(source, (3.0, 3.0, 3.0), (64, 64, 32)), native_grid(source, 3.0, (64, 64, 32))
    np.testing.assert_array_equal(three.affine, one.affine)
    template = centred_grid(np.array([1.0, 2.0, 3.0]), (1.0, 1.0, 4.0), (3, 3, 3))
    assert (template.affine @ (1, 1, 1, 1)).tolist() == [1, 2, 3, 1]
    np.testing.assert_array_equal(
        centred_grid(np.ones(3), 0.7, (5, 6, 7)).affine,
        centred_grid(np.ones(3), (0.7,) * 3, (5, 6, 7)).affine,
    )


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_files_record_and_the_way_back(tmp_path, codes):
    values, lesion, affine = stack(codes, tilt=0.15)
    paths = on_grid(tmp_path, values, lesion, affine)
    written = nibabel.load(paths.volume("a", "image"))
    assert written.shape == (64, 64, 20)
    assert np.allclose(written.header.get_zooms(), (3, 3, THICK_MM), atol=1e-5)
    record = json.loads(paths.volume_json("a").read_text())
    step = next(step for step in record["history"] if step["step"] == "resample")
    assert (step["spacing_mm"], step["grid"]) == ([3.0, 3.0, "native"], [64, 64, 20])
    np.testing.assert_allclose(record["affine"], written.affine, atol=1e-5)
    ml = lesion.sum() * 4 * THICK_MM / 1000
    assert record["qc"]["lesion_ml_source"] == pytest.approx(ml)
    assert record["qc"]["lesion_ml_grid"] == pytest.approx(ml, rel=0.05)
    mask = np.asarray(nibabel.load(paths.volume("a", "mask")).dataobj)
    assert record["qc"]["lesion_ml_grid"] == pytest.approx(mask.sum() * 9 * THICK_MM / 1000)
    turned = canonical(lesion, affine)[0]
    np.testing.assert_array_equal(mask.any(axis=(0, 1)), turned.any(axis=(0, 1)), "the same slices")
    out = tmp_path / "back.nii.gz"
    volume_to_source(paths, "a", paths.volume("a", "mask"), out)
    back = nibabel.load(out)
    assert back.shape == values.shape
    np.testing.assert_allclose(back.affine, affine, atol=1e-4)
    found = np.asarray(back.dataobj) > 0
    assert 2 * (found & lesion).sum() / (found.sum() + lesion.sum()) > 0.9
    through = nibabel.orientations.axcodes2ornt(codes)[:, 0].tolist().index(2)
    planes = tuple(axis for axis in range(3) if axis != through)
    np.testing.assert_array_equal(found.any(axis=planes), lesion.any(axis=planes))


def test_more_slices_than_the_grid_allows_are_refused(tmp_path):
    values, lesion, affine = stack(slices=41)
    with pytest.raises(DataError, match=r"a: .*at most 40 native slices, found 41; raise.*preprocess\.grid"):
        on_grid(tmp_path, values, lesion, affine)
