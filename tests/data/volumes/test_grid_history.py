"""From the grid back to the source: points, masks and images, against world coordinates worked out apart."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball, save_nifti
from scipy import ndimage
from scipy.spatial.transform import Rotation

from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import BrainConfig, PreprocessConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes.grid import Grid, back_to_source, resample, to_grid_mm, to_source_mm
from slimdiff.data.volumes.preprocess import preprocess
from slimdiff.data.volumes.registration import template, template_centre_mm

RADIUS_MM = 10.0
TO_SUBJECT = np.eye(4)
"""The template's world to the subject's."""
TO_SUBJECT[:3, :3] = Rotation.from_euler("xyz", (8, -5, 12), degrees=True).as_matrix()
TO_SUBJECT[:3, 3] = (14, -30, 22)
apply = nibabel.affines.apply_affine


def tilted_lps(shape: tuple[int, int, int], spacing, centre) -> np.ndarray:
    """An affine of flipped axes, oblique, about a point in mm."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (9, -6, 4), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def ball_at(shape, affine: np.ndarray, centre, radius_mm: float) -> np.ndarray:
    """Voxels whose centres lie within a ball in the world."""
    places = apply(affine, np.indices(shape).reshape(3, -1).T)
    return (np.linalg.norm(places - centre, axis=1) <= radius_mm).reshape(shape)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def made(folder: Path, values, affine, mask, config: PreprocessConfig) -> tuple[dict, np.ndarray, np.ndarray]:
    """Through the stage; returns record, image and mask on the grid."""
    participant = Participant(
        "sub-1",
        "fcd",
        save_nifti(folder / "image.nii.gz", values, affine),
        save_nifti(folder / "mask.nii.gz", mask.astype(np.uint8), affine),
    )
    out = [folder / "out" / name for name in ("image.nii.gz", "mask.nii.gz", "record.json")]
    preprocess(participant, DataConfig(), config, *out)
    image, lesion = nibabel.load(out[0]), nibabel.load(out[1])
    record = json.loads(out[2].read_text())
    np.testing.assert_allclose(image.affine, record["affine"], atol=1e-5)
    return record, np.asarray(image.dataobj), np.asarray(lesion.dataobj) > 0


def registered_head(affine: np.ndarray, shape) -> np.ndarray:
    """The template, dark and bright exchanged, where TO_SUBJECT puts it."""
    values, template_affine = template()
    values = np.where(values > 0, 1.3 - values, 0)[::2, ::2, ::2].astype(np.float32)
    coarse = TO_SUBJECT @ template_affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return 100 * resample(values, coarse, Grid(shape, affine))


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A head that is the template, dark and bright exchanged, elsewhere, in an oblique box of flipped thick voxels."""
    shape = (100, 110, 46)
    affine = tilted_lps(shape, (2.0, 2.0, 4.0), apply(TO_SUBJECT, template_centre_mm()))
    head = registered_head(affine, shape)
    centre = apply(TO_SUBJECT, (30.0, -20.0, 20.0))
    lesion = ball_at(shape, affine, centre, RADIUS_MM)
    config = PreprocessConfig(spacing_mm=1.25, grid=(144, 168, 152))
    config = config.model_copy(
        update={
            "registration": config.registration.model_copy(update={"transform": "affine", "sampling": 0.05})
        }
    )
    made_of = made(tmp_path_factory.mktemp("registered"), head, affine, lesion, config)
    return *made_of, TO_SUBJECT, affine, shape, lesion


def test_points_go_to_the_grid_and_back(registered):
    record, _, _, to_subject, *_ = registered
    points = np.random.default_rng(0).uniform(-120, 120, (50, 3))
    assert np.abs(apply(to_source_mm(record), apply(to_grid_mm(record), points)) - points).max() < 0.01
    # And where they go is where the template has them.
    inside = np.array([[0, -17, 5], [50, -17, 5], [-40, 30, 10], [0, -80, 0], [5, 0, 60]], float)
    assert np.linalg.norm(apply(to_grid_mm(record), apply(to_subject, inside)) - inside, axis=1).max() < 2


def test_the_lesion_lies_in_the_template_s_world_where_it_is_in_the_brain(registered):
    record, _, lesion, *_ = registered
    found = apply(np.array(record["affine"]), np.argwhere(lesion).mean(axis=0))
    assert np.linalg.norm(found - (30, -20, 20)) < 2


def test_what_an_affine_registration_adds_to_the_lesion_is_told_from_what_is_lost(registered):
    qc = registered[0]["qc"]
    assert qc["registration_volume_ratio"] == pytest.approx(np.linalg.det(to_grid_mm(registered[0])[:3, :3]))
    assert qc["lesion_ml_grid"] == pytest.approx(
        qc["lesion_ml_source"] * qc["registration_volume_ratio"], rel=0.05
    )


def test_the_grid_is_the_template_s_and_not_the_subject_s(registered):
    affine = np.array(registered[0]["affine"])
    np.testing.assert_allclose(affine[:3, :3], 1.25 * np.eye(3), atol=1e-9)
    middle = apply(affine, (np.array((144, 168, 152)) - 1) / 2)
    np.testing.assert_allclose(middle, template_centre_mm(), atol=1e-6)


def test_a_mask_on_the_registered_grid_comes_back_to_native_space(registered):
    record, image, lesion, to_subject, affine, shape, source_lesion = registered
    back = back_to_source(lesion, record, 0)
    assert back.shape == shape and back.get_data_dtype() == np.uint8
    np.testing.assert_allclose(back.affine, affine, atol=1e-4)
    assert dice(np.asarray(back.dataobj) > 0, source_lesion) > 0.9
    # One that was drawn on the grid: its own place in the world, not the lesion's.
    drawn = ball_at(image.shape, np.array(record["affine"]), (-25.0, 10.0, 15.0), RADIUS_MM)
    wanted = ball_at(shape, affine, apply(to_source_mm(record), (-25.0, 10.0, 15.0)), RADIUS_MM)
    assert dice(np.asarray(back_to_source(drawn, record, 0).dataobj) > 0, wanted) > 0.9
    assert np.linalg.norm(apply(to_source_mm(record), (-25, 10, 15)) - apply(to_subject, (-25, 10, 15))) < 2


def test_an_image_comes_back_with_its_contrast(registered):
    record, image, _, _, affine, shape, _ = registered
    back = np.asarray(back_to_source(image, record, 1).dataobj)
    low, high = record["history"][-1]["scale_to_unit_range"]
    head = registered_head(affine, shape)
    wanted = np.clip(2 * (head - low) / (high - low) - 1, -1, 1)
    inside = ndimage.binary_erosion(head > 0, iterations=2)
    assert np.corrcoef(back[inside], wanted[inside])[0, 1] > 0.95
    assert (back[head == 0] == -1).mean() > 0.9


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)])
def test_a_ball_comes_back_from_a_grid_without_registration(spacing, tmp_path):
    shape = tuple(int(90 / s) for s in spacing)
    affine = tilted_lps(shape, spacing, (5.0, -8.0, 13.0))
    values = np.random.default_rng(0).normal(100, 5, shape).astype(np.float32)
    values[: shape[0] // 4] = 0
    lesion = ball_at(shape, affine, (1.0, -2.0, 14.0), RADIUS_MM)
    config = PreprocessConfig(spacing_mm=1.25, grid=(80, 76, 70))
    record, _, on_grid = made(tmp_path, values, affine, lesion, config)
    np.testing.assert_array_equal(to_grid_mm(record), np.eye(4))
    back = back_to_source(on_grid, record, 0)
    np.testing.assert_allclose(back.affine, affine, atol=1e-4)
    assert back.shape == shape
    assert dice(np.asarray(back.dataobj) > 0, lesion) > 0.9
    # A linear ramp of the world comes back as itself.
    x, y, z = np.moveaxis(
        apply(np.array(record["affine"]), np.moveaxis(np.indices((80, 76, 70)), 0, -1)), -1, 0
    )
    ramp = np.asarray(back_to_source((x + 2 * y - z).astype(np.float32), record, 1).dataobj)
    places = apply(affine, np.moveaxis(np.indices(shape), 0, -1))
    wanted = places @ [1, 2, -1]
    middle = tuple(slice(n // 4, 3 * n // 4) for n in shape)
    np.testing.assert_allclose(ramp[middle], wanted[middle], atol=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_labels_come_back_as_they_are(dtype):
    record = {
        "qc": {"source_shape": [8, 8, 8]},
        "source_affine": np.eye(4).tolist(),
        "affine": np.eye(4).tolist(),
        "history": [{"step": "resample"}],
    }
    labels = np.random.default_rng(0).integers(0, 100, (8, 8, 8)).astype(dtype)
    back = back_to_source(labels, record, 0)
    np.testing.assert_array_equal(np.asarray(back.dataobj), labels)
    assert back.get_data_dtype() == dtype
    with pytest.raises(ValueError, match="order: .*found 3"):
        back_to_source(labels, record, 3)


def test_outside_of_the_grid_there_is_no_lesion_and_only_background():
    record = {
        "qc": {"source_shape": [12, 4, 4]},
        "source_affine": np.eye(4).tolist(),
        "affine": np.eye(4).tolist(),
        "history": [],
    }
    assert not np.asarray(back_to_source(np.ones((4, 4, 4), bool), record, 0).dataobj)[5:].any()
    image = np.full((4, 4, 4), 0.5, np.float32)
    image[0] = -1
    assert (np.asarray(back_to_source(image, record, 1).dataobj)[5:] == -1).all()


def test_an_excluded_participant_has_nothing_to_bring_back():
    with pytest.raises(DataError, match=r"sub-3: excluded \(thick slices\)"):
        to_grid_mm({"participant": "sub-3", "excluded": "thick slices"})


def test_steps_stand_in_the_record_in_order_with_their_parameters(tmp_path):
    shape, brain = (40, 40, 40), ball((20, 20, 20), 14, (40, 40, 40))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    values = np.where(brain, np.random.default_rng(0).normal(100, 5, shape), 30).astype(np.float32)
    participant = Participant(
        "sub-1",
        "hc",
        save_nifti(tmp_path / "image.nii.gz", values, affine),
        None,
        brain_mask=save_nifti(tmp_path / "brain.nii.gz", brain.astype(np.uint8), affine),
    )
    config = PreprocessConfig(spacing_mm=3.0, grid=shape, brain=BrainConfig(method="source", dilate_mm=-3.0))
    config = config.model_copy(update={"bias_field": config.bias_field.model_copy(update={"n4": True})})
    out = [tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "c.json")]
    preprocess(participant, DataConfig(), config, *out)
    record = json.loads(out[2].read_text())
    steps = {step["step"]: step for step in record["history"]}
    assert list(steps) == ["reorient", "extract_brain", "correct_bias_field", "resample", "scale"]
    assert steps["extract_brain"]["method"] == "source" and steps["extract_brain"]["dilate_mm"] == -3.0
    assert steps["correct_bias_field"]["iterations"] == [50, 50, 30, 20]
    assert steps["resample"]["spacing_mm"] == 3.0 and steps["resample"]["grid"] == list(shape)
    low, high = steps["scale"]["scale_to_unit_range"]
    assert 70 < low < high < 130
    assert record["source_affine"] == affine.tolist()
