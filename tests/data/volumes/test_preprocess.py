"""From a clinical volume to the grid, against nibabel's affines and plain numpy."""

import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.synthetic import AFFINE, SPACING_MM, ball, head, save_nifti
from helpers.tiny_volumes import CONFIG, LESION, files_of, percentile_twin, run, with_brain

from slimdiff.data.participants import Participant


def oriented(
    codes: str, spacing=(5.0, 6.0, 7.0), shape=(36, 34, 30), tilt_degrees: float = 0.0
) -> np.ndarray:
    """An affine of any orientation about the origin, tilted around the left-right axis."""
    diagonal = np.diag([*spacing, 1.0])
    diagonal[:3, 3] = -(np.array(shape) - 1) * spacing / 2
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(codes), nibabel.orientations.axcodes2ornt("RAS")
    )
    permuted = np.array(shape)[np.argsort(turn[:, 0].astype(int))]
    affine = diagonal @ nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        ),
        shape,
    )
    angle = np.deg2rad(tilt_degrees)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert nibabel.aff2axcodes(affine) == tuple(codes)
    return rotation @ affine, tuple(int(n) for n in permuted)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR", "SAL", "IPR"])
@pytest.mark.parametrize("tilt", [0.0, 12.0])
def test_every_orientation_ends_in_ras_with_places_kept(codes, tilt, tmp_path):
    affine, shape = oriented(codes, tilt_degrees=tilt)
    volume = head(0, shape)
    marked = tuple(n // 2 + d for n, d in zip(shape, (4, -3, 5), strict=True))
    lesion = ball(marked, 1.5, shape)
    image = save_nifti(tmp_path / "image.nii.gz", volume, affine)
    mask = save_nifti(tmp_path / "mask.nii.gz", lesion.astype(np.uint8), affine)
    moved, moved_lesion, moved_affine, record = run(tmp_path, image, mask, CONFIG)
    assert nibabel.aff2axcodes(moved_affine) == ("R", "A", "S")
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(moved_affine), SPACING_MM, rtol=1e-5)
    assert moved.shape == (32, 32, 32)
    there = nibabel.affines.apply_affine(moved_affine, np.argwhere(moved_lesion).mean(axis=0))
    np.testing.assert_allclose(there, nibabel.affines.apply_affine(affine, marked), atol=SPACING_MM)
    # The brain's own place, too: the image moves with the mask.
    brain = nibabel.affines.apply_affine(moved_affine, np.argwhere(moved > -1).mean(axis=0))
    source = nibabel.affines.apply_affine(affine, np.argwhere(volume > 0).mean(axis=0))
    np.testing.assert_allclose(brain, source, atol=SPACING_MM / 2)
    assert record["qc"]["source_orientation"] == codes


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_lesion_volume_survives_resampling(codes, tmp_path):
    affine, shape = oriented(codes, spacing=(3.0, 3.0, 4.0), shape=(48, 48, 40))
    lesion = ball(tuple(n // 2 for n in shape), 7, shape)
    image = save_nifti(tmp_path / "image.nii.gz", head(0, shape), affine)
    mask = save_nifti(tmp_path / "mask.nii.gz", lesion.astype(np.uint8), affine)
    _, moved, _, record = run(tmp_path, image, mask, CONFIG)
    source_ml = lesion.sum() * 36 / 1000
    assert record["qc"]["lesion_ml_source"] == pytest.approx(source_ml, rel=1e-6)
    assert record["qc"]["lesion_ml_grid"] == pytest.approx(moved.sum() * SPACING_MM**3 / 1000, rel=1e-6)
    assert moved.sum() * SPACING_MM**3 / 1000 == pytest.approx(source_ml, rel=0.12)


@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (5.0, 90.0)])
@pytest.mark.parametrize("over", ["foreground", "volume"])
def test_intensities_follow_the_percentiles(over, percentiles, tmp_path):
    volume = head(3)
    config = CONFIG.model_copy(update={"percentiles_over": over, "percentiles": percentiles})
    # Same grid as the input, so that nothing but the scaling happens.
    scaled, _, affine, record = run(tmp_path, volume, LESION.astype(np.uint8), config)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-4)
    inside = volume > 0
    taken = volume[inside] if over == "foreground" else volume
    low, high = (percentile_twin(taken, p) for p in percentiles)
    wanted = np.clip(2 * (volume.astype(np.float64) - low) / (high - low) - 1, -1, 1)
    if over == "foreground":
        wanted[~inside] = -1
    np.testing.assert_allclose(scaled, wanted, atol=2e-5)
    assert scaled.dtype == np.float32
    scale = next(step for step in record["history"] if "scale_to_unit_range" in step)
    np.testing.assert_allclose(scale["scale_to_unit_range"], (low, high), rtol=1e-5, atol=1e-4)


def test_scaling_ignores_the_scanner_s_units(tmp_path):
    volume = head(3)
    first, *_ = run(tmp_path / "a", volume)
    second, *_ = run(tmp_path / "b", volume * 7 + 300)
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("grid", [(40, 40, 40), (32, 40, 24)])
def test_padding_is_never_lesion_and_never_tissue(grid, tmp_path):
    lesion = np.zeros((32, 32, 32), np.uint8)
    lesion[5:, 14:20, 12:18] = 1  # up to the very edge
    config = CONFIG.model_copy(update={"grid": grid})
    image, mask, affine, _ = run(tmp_path, head(1), lesion, config)
    places = nibabel.affines.apply_affine(np.linalg.inv(AFFINE) @ affine, np.argwhere(np.ones(grid))).round()
    outside = ((places < 0) | (places > 31)).any(axis=1).reshape(grid)
    assert outside.any()
    assert not mask[outside].any()
    assert (image[outside] == -1).all()
    assert mask.sum() == lesion.sum()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_mask_types_and_labels_do_not_matter(dtype, tmp_path):
    """A single value above 0 is lesion; masks come as every type that NIfTI has."""
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image((LESION * 3).astype(dtype), AFFINE, dtype=dtype), path)
    _, mask, _, _ = run(tmp_path, head(1), path)
    np.testing.assert_array_equal(mask, LESION)
    assert mask.dtype == np.uint8


def test_a_control_gets_an_empty_mask(tmp_path):
    _, mask, _, record = run(tmp_path, head(1))
    assert not mask.any()
    assert record["qc"]["lesion_ml_grid"] == 0


def test_a_fourth_axis_of_one_is_no_obstacle(tmp_path):
    image = save_nifti(tmp_path / "image.nii.gz", head(1)[..., None])
    one, *_ = run(tmp_path / "a", image)
    two, *_ = run(tmp_path / "b", head(1))
    np.testing.assert_array_equal(one, two)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """At another time, under another name, with another number of threads."""
    image = save_nifti(tmp_path / "image.nii.gz", head(1), oriented("LPS", tilt_degrees=7)[0])
    mask = save_nifti(tmp_path / "mask.nii.gz", LESION.astype(np.uint8), oriented("LPS", tilt_degrees=7)[0])
    participant = Participant("sub-1", "fcd", image, mask)
    first = files_of(participant, CONFIG, tmp_path / "a")
    time.sleep(1.1)  # the unit of gzip's time stamp
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        second = files_of(participant, CONFIG, tmp_path / "b")
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert first == second


def test_whatever_the_order_of_its_axes_a_volume_gives_the_same_slices(tmp_path):
    """Half way between two voxels, too, where rounding would go with the order of the axes."""
    rng, lesion = np.random.default_rng(0), ball((12, 14, 16), 5.5)
    volume = head(1) + rng.normal(0, 1, (32, 32, 32)).astype(np.float32)
    config = CONFIG.model_copy(update={"spacing_mm": 4.0, "grid": (48, 48, 48)})
    ras = run(tmp_path / "ras", volume, lesion.astype(np.uint8), config)
    for codes in ("LAS", "LPI", "PIR"):
        turn = nibabel.orientations.axcodes2ornt(codes)
        there = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
        affine = AFFINE @ nibabel.orientations.inv_ornt_aff(there, volume.shape)
        image, mask = (
            save_nifti(
                tmp_path / codes / f"{name}.nii.gz",
                nibabel.orientations.apply_orientation(array, there),
                affine,
            )
            for name, array in (("image", volume), ("mask", lesion.astype(np.uint8)))
        )
        assert nibabel.aff2axcodes(affine) == tuple(codes)
        other = run(tmp_path / codes / "out", image, mask, config)
        np.testing.assert_array_equal(other[0], ras[0])
        np.testing.assert_array_equal(other[1], ras[1])


def test_no_torch_is_imported_unless_deepbet_is_asked_for(tmp_path):
    """It costs seconds and 0.6 GB a job; torchio, scikit-learn and pandas would bring theirs."""
    participant = with_brain(tmp_path, ball((15, 15, 16), 9))
    script = f"""
import sys
from pathlib import Path
from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import Participant
from slimdiff.data.volumes.preprocess import preprocess
config = PreprocessConfig(spacing_mm=6, grid=(32, 32, 32), brain={{"method": "source"}})
config = config.model_copy(update={{"bias_field": config.bias_field.model_copy(update={{"n4": True}})}})
folder = Path({str(tmp_path)!r})
participant = Participant("sub-1", "fcd", *(folder / f"{{kind}}.nii.gz" for kind in ("image", "mask")),
                          brain_mask=folder / "brain.nii.gz")
preprocess(participant, DataConfig(), config, folder / "a.nii.gz", folder / "b.nii.gz", folder / "c.json")
print(sorted({{"torch", "torchio", "sklearn", "pandas", "deepbet", "nilearn"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert participant.image.is_file()
