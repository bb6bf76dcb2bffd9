"""slimdiff-preprocess --back: a mask on the grid is resampled to its source image."""

import shutil

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball

from slimdiff import cli


@pytest.fixture
def study(study_file, study_values, prepared):
    """The tiny study's file, with the volumes of the prepared one."""
    results = study_values["results_dir"]
    shutil.copytree(prepared.paths.root, f"{results}/tiny")
    return study_file, prepared.paths


def test_a_mask_on_the_grid_keeps_its_world_coordinates_in_the_source(study, tmp_path):
    config, paths = study
    grid = nibabel.load(paths.volume("sub-01", "image"))
    drawn = ball((20, 11, 18), 4, grid.shape)
    nibabel.save(nibabel.Nifti1Image(drawn.astype(np.uint8), grid.affine), tmp_path / "drawn.nii.gz")
    out = tmp_path / "native.nii.gz"
    arguments = ["--config", str(config), "--participant", "sub-01", "--back", str(tmp_path / "drawn.nii.gz")]
    assert cli.preprocess([*arguments, "--out", str(out)]) == 0
    back = nibabel.load(out)
    assert back.get_data_dtype() == np.uint8
    voxels = np.argwhere(np.asarray(back.dataobj) > 0)
    found = nibabel.affines.apply_affine(back.affine, voxels.mean(axis=0))
    expected = nibabel.affines.apply_affine(grid.affine, np.argwhere(drawn).mean(axis=0))
    np.testing.assert_allclose(found, expected, atol=0.5)
    assert len(voxels) * abs(np.linalg.det(back.affine[:3, :3])) == pytest.approx(
        drawn.sum() * abs(np.linalg.det(grid.affine[:3, :3])), rel=0.02
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("other shape", ["drawn.nii.gz", "(30, 32, 32)", "sub-01's grid of (32, 32, 32)"]),
        ("other place", ["drawn.nii.gz", "expected sub-01's grid"]),
        ("no participant", ["--participant"]),
        ("no out", ["--out"]),
        ("unknown participant", ["sub-99.json", "preprocess"]),
    ],
)
def test_invalid_arguments_give_a_reason_and_nothing_is_written(study, tmp_path, capsys, change, words):
    config, paths = study
    grid = nibabel.load(paths.volume("sub-01", "image"))
    shape = (30, 32, 32) if change == "other shape" else grid.shape
    affine = grid.affine + (change == "other place") * np.eye(4)[:, [3, 3, 3, 0]]
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.uint8), affine), tmp_path / "drawn.nii.gz")
    name = "sub-99" if change == "unknown participant" else "sub-01"
    arguments = ["--config", str(config), "--back", str(tmp_path / "drawn.nii.gz")]
    arguments += [] if change == "no participant" else ["--participant", name]
    arguments += [] if change == "no out" else ["--out", str(tmp_path / "out.nii.gz")]
    assert cli.preprocess(arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not list(tmp_path.glob("*out.nii*"))
