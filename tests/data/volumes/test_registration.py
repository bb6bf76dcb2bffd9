"""Registration of FLAIR-like images made of the template itself, whose place is therefore known."""

from functools import cache
from itertools import product

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from slimdiff.config.preprocess import RegistrationConfig
from slimdiff.data.participants import DataError
from slimdiff.data.volumes import registration
from slimdiff.data.volumes.grid import Grid, canonical, resample
from slimdiff.data.volumes.registration import as_matrix, check, register, template, template_centre_mm

RIGID, AFFINE = (RegistrationConfig(transform=kind) for kind in ("rigid", "affine"))


@pytest.fixture(autouse=True)
def few_voxels(monkeypatch):
    """For time."""
    monkeypatch.setattr(registration, "SAMPLING", 0.05)


def moved_world(degrees, shift_mm, scales=(1, 1, 1), shear=0.0) -> np.ndarray:
    """The template's world to the subject's, (4, 4)."""
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(scales) @ (np.eye(3) + shear * np.eye(3, k=1))
    matrix[:3, 3] = shift_mm
    return matrix


@cache
def flair_like() -> tuple[np.ndarray, np.ndarray]:
    """The template at 4 mm, grey brighter than white and fluid dark, as in FLAIR; noise; and its affine."""
    values, affine = template()
    coarse = affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    small = values[::4, ::4, ::4]
    bright = np.where(small > 0.45, 1.3 - small, small)
    noise = np.random.default_rng(0).normal(0, 0.02, small.shape)
    return np.where(small > 0, 100 * (bright + noise), 0).astype(np.float32), coarse


def brain_corners() -> np.ndarray:
    """The box around the template's brain, (8, 3), mm."""
    values, affine = template()
    brain = np.argwhere(values > 0)
    corners = list(product(*zip(brain.min(axis=0), brain.max(axis=0), strict=True)))
    return nibabel.affines.apply_affine(affine, corners)


def error_mm(found: np.ndarray, true: np.ndarray) -> float:
    """Of the subject's world to the template's, at the brain's corners, at most."""
    apply = nibabel.affines.apply_affine
    return float(np.linalg.norm(apply(found @ true, brain_corners()) - brain_corners(), axis=1).max())


@pytest.mark.parametrize(
    ("config", "true"),
    [
        (RIGID, moved_world((8, 0, 0), (12, 0, 0))),
        (RIGID, moved_world((-20, 12, 15), (60, -80, 35))),
        (AFFINE, moved_world((6, -5, 4), (-12, 9, 7), (0.93, 1.06, 0.9), 0.06)),
    ],
)
def test_a_known_place_is_found_to_two_millimetres(config, true):
    values, affine = flair_like()
    found = register(values, true @ affine, values > 0, config)
    assert error_mm(found.to_template_mm, true) < 2
    assert error_mm(np.eye(4), true) > 12
    assert found.information[1] > found.information[0]


def test_a_rigid_transform_keeps_distances():
    """Also where the brain is smaller than the template's, and its middle and its turn are still found."""
    true = moved_world((8, -4, 0), (12, 0, 5), (0.8, 0.8, 0.8))
    values, affine = flair_like()
    found = register(values, true @ affine, values > 0, RIGID).to_template_mm
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)
    turn = found[:3, :3] @ true[:3, :3] / 0.8
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 1
    middle = nibabel.affines.apply_affine(found @ true, template_centre_mm())
    assert np.linalg.norm(middle - template_centre_mm()) < 3


def test_the_same_place_is_found_whatever_the_order_of_the_axes_and_the_tilt_of_the_box():
    """A subject's anatomy in a tilted box of thick, flipped voxels."""
    true = moved_world((5, 3, -6), (8, -6, 4))
    values, affine = flair_like()
    box = np.array([[0, 0, 6, 0], [-3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1.0]])
    box[:3, :3] = Rotation.from_euler("xyz", (4, -10, 3), degrees=True).as_matrix() @ box[:3, :3]
    shape = (80, 66, 40)
    box[:3, 3] = true[:3, :3] @ template_centre_mm() + true[:3, 3] - box[:3, :3] @ ((np.array(shape) - 1) / 2)
    tilted = resample(values, true @ affine, Grid(shape, box))
    assert (tilted > 0).any(axis=(1, 2)).sum() < 80
    found = register(tilted, box, tilted > 5, RIGID)
    assert error_mm(found.to_template_mm, true) < 3
    turned, turned_affine = canonical(tilted, box)
    again = register(turned, turned_affine, turned > 5, RIGID)
    np.testing.assert_allclose(again.to_template_mm, found.to_template_mm, atol=0.05)


def test_bits_depend_on_the_seed_and_not_on_the_threads(monkeypatch):
    values, affine = flair_like()
    moved = moved_world((3, 0, 0), (5, 0, 0)) @ affine
    first = register(values, moved, values > 0, RIGID)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(3)
    try:
        second = register(values, moved, values > 0, RIGID)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    np.testing.assert_array_equal(first.to_template_mm, second.to_template_mm)
    assert first.information == second.information
    monkeypatch.setattr(registration, "SEED", 1)
    other = register(values, moved, values > 0, RIGID)
    assert not np.array_equal(first.to_template_mm, other.to_template_mm)
    assert error_mm(other.to_template_mm, np.linalg.inv(first.to_template_mm)) < 1


@pytest.mark.parametrize(
    ("to_source", "before", "after", "cause"),
    [
        (np.eye(4), 0.5, 0.4, "information did not increase"),
        (moved_world((0, 0, 70), (0, 0, 0)), 0.3, 0.4, "at most 60°, found 70°"),
        (moved_world((40, 50, 0), (0, 0, 0), (0.9, 0.9, 0.9)), 0.3, 0.4, "at most 60°, found 63°"),
        (moved_world((0, 0, 20), (0, 0, 0), (0.55, 1, 1)), 0.3, 0.4, "found 0.55 to 1.00"),
        (moved_world((0, 0, 0), (0, 0, 0), (1, 1.7, 1)), 0.3, 0.4, "found 1.00 to 1.70"),
        (np.diag([-1.0, 1, 1, 1]), 0.3, 0.4, "mirror"),
    ],
)
def test_what_cannot_be_right_is_refused(to_source, before, after, cause):
    with pytest.raises(DataError, match=rf"{cause}.*inspect the image.*transform: none"):
        check(to_source, before, after)


def test_what_can_be_right_is_not_refused():
    check(moved_world((20, 30, -25), (99, 0, 0), (0.7, 1.5, 1.2), 0.1), 0.3, 0.31)


def test_noise_is_not_registered():
    values = np.random.default_rng(0).normal(100, 10, (40, 40, 40)).astype(np.float32)
    values[:3] = 0
    with pytest.raises(DataError, match="registration failed"):
        register(values, np.diag([1.0, 1.0, 6.0, 1.0]), values > 50, AFFINE)


def test_a_transform_with_a_centre_is_the_matrix_that_moves_points_alike():
    transform = sitk.Similarity3DTransform()
    transform.SetCenter((3, -4, 5))
    transform.SetTranslation((7, 8, -9))
    transform.SetScale(1.2)
    transform.SetRotation((1.0, 2.0, 3.0), 0.4)
    for point in ((0, 0, 0), (10, -20, 30)):
        np.testing.assert_allclose(
            nibabel.affines.apply_affine(as_matrix(transform), point),
            transform.TransformPoint(point),
            atol=1e-12,
        )
