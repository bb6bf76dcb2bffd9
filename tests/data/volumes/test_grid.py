"""The one resampling against torchio's three steps, and against numpy's own interpolation."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.synthetic import ball
from scipy import ndimage
from scipy.spatial.transform import Rotation

from slimdiff.data.volumes.grid import Grid, canonical, centred_grid, native_grid, resample, resample_mask


def affine_of(codes: str, spacing, degrees=(0, 0, 0), origin=(11.0, -23.0, 5.0)) -> np.ndarray:
    """Voxel to world for axes that run along `codes`, tilted."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[code]
        affine[row, axis] = sign * spacing[axis]
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = origin
    return affine


def random_source(seed: int, shape, affine) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(100, 20, shape).astype(np.float32), rng.random(shape) > 0.6


def by_torchio(values, lesion, affine, spacing_mm, shape):
    """Reorient, resample, crop or pad: one transform after the other."""
    torchio = pytest.importorskip("torchio", reason="torchio is not installed")
    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=values[None], affine=affine),
        mask=torchio.LabelMap(tensor=lesion[None].astype(np.uint8), affine=affine),
    )
    moved = torchio.Compose([torchio.ToCanonical(), torchio.Resample(spacing_mm)])(subject)
    image = torchio.CropOrPad(shape, padding_mode=float(values.min()))(moved["image"])
    mask = torchio.CropOrPad(shape, padding_mode=0)(moved["mask"])
    return image.numpy()[0], mask.numpy()[0] > 0, image.affine


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR", "SAL", "IPR"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (11, -7, 16)])
@pytest.mark.parametrize(
    ("size", "voxel_mm", "spacing_mm", "shape"),
    [
        ((31, 40, 23), (1.0, 1.03, 0.97), 1.25, (20, 21, 22)),  # cut off on every side
        ((31, 40, 23), (1.0, 1.03, 0.97), 1.25, (47, 52, 50)),  # added on every side
        ((32, 34, 11), (0.72, 0.72, 4.0), 1.25, (21, 17, 40)),  # both, thick slices
        ((18, 17, 19), (2.2, 1.1, 3.1), 2.5, (16, 15, 17)),
    ],
)
def test_torchio_gives_the_same_in_three_steps(codes, degrees, size, voxel_mm, spacing_mm, shape):
    affine = affine_of(codes, voxel_mm, degrees)
    values, lesion = random_source(0, size, affine)
    wanted, wanted_lesion, wanted_affine = by_torchio(values, lesion, affine, spacing_mm, shape)
    turned, turned_affine = canonical(values, affine)
    grid = native_grid(Grid(turned.shape, turned_affine), spacing_mm, shape)
    found = resample(turned, turned_affine, grid, outside=float(values.min()))
    found_lesion = resample(canonical(lesion, affine)[0], turned_affine, grid, linear=False)
    np.testing.assert_allclose(grid.affine, wanted_affine, atol=1e-6)
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(values)
    places = nibabel.affines.apply_affine(
        np.linalg.inv(affine) @ grid.affine, np.indices(shape).reshape(3, -1).T
    )
    # Half way between two voxels both are nearest, and rounding decides.
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-4).all(axis=1).reshape(shape)
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(found_lesion[clear], wanted_lesion[clear])
    assert found.dtype == np.float32 and found_lesion.dtype == bool


def test_a_header_s_rounding_does_not_move_the_grid():
    """40 voxels of 1 mm are 32 of 1.25 mm, also where float32 or a tilt made 39.99999 of them."""
    for error in (-2e-6, 0, 2e-6):
        affine = np.diag([1 + error, 1 + error, 1 + error, 1])
        grid = native_grid(Grid((40, 40, 40), affine), 1.25, (32, 32, 32))
        np.testing.assert_allclose(grid.affine[:3, 3], (39 - 31 * 1.25) / 2, atol=1e-3)


def sheared() -> np.ndarray:
    affine = affine_of("LPS", (0.9, 1.1, 2.0), (5, 10, -8))
    affine[:3, 2] += 0.3 * affine[:3, 0]
    return affine


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(
    "affine", [affine_of("PIR", (1.1, 0.8, 2.0), (14, 3, -9)), sheared()], ids=["tilted", "sheared"]
)
def test_any_affine_and_any_transform_are_composed_into_one_interpolation(affine, linear):
    values, _ = random_source(1, (24, 22, 16), affine)
    middle = nibabel.affines.apply_affine(affine, (np.array(values.shape) - 1) / 2)
    to_source = np.eye(4)
    to_source[:3, :3] = Rotation.from_euler("xyz", (9, -20, 31), degrees=True).as_matrix() * 1.1
    grid = centred_grid((3.0, 4.0, -5.0), 1.3, (20, 19, 18))
    to_source[:3, 3] = middle - to_source[:3, :3] @ [3.0, 4.0, -5.0]
    to_voxel = np.linalg.inv(affine) @ to_source @ grid.affine
    places = nibabel.affines.apply_affine(to_voxel, np.indices(grid.shape).reshape(3, -1).T)
    wanted = ndimage.map_coordinates(values.astype(float), places.T, order=int(linear)).reshape(grid.shape)
    found = resample(values, affine, grid, to_source, linear=linear)
    inside = ((places > 0) & (places < np.array(values.shape) - 1)).all(axis=1).reshape(grid.shape)
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-4).all(axis=1).reshape(grid.shape)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(found[inside & clear], wanted[inside & clear], atol=1e-3)


def test_the_edge_goes_on_for_half_a_voxel_and_then_comes_the_outside():
    values = np.arange(5 * 5 * 5, dtype=np.float32).reshape(5, 5, 5)
    for offset, inside in ((-0.49, True), (-0.51, False)):
        affine = np.eye(4)
        affine[0, 3] = offset
        found = resample(values, np.eye(4), Grid((1, 5, 5), affine), outside=-7)
        np.testing.assert_allclose(found[0], values[0] if inside else -7)


def test_threads_do_not_change_a_bit():
    affine = affine_of("LPS", (0.72, 0.72, 4.0), (3, 1, -11))
    values, _ = random_source(2, (90, 80, 12), affine)
    grid = centred_grid(nibabel.affines.apply_affine(affine, [45, 40, 6]), 1.0, (70, 70, 50))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 2, 5):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(resample(values, affine, grid).tobytes())
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert len(set(found)) == 1


@pytest.mark.parametrize("codes", ["LAS", "PIR", "IPR"])
def test_canonical_keeps_every_voxel_where_it_is(codes):
    affine = affine_of(codes, (1, 2, 3), (5, -4, 8))
    values, _ = random_source(3, (4, 5, 6), affine)
    turned, moved = canonical(values, affine)
    assert nibabel.aff2axcodes(moved) == ("R", "A", "S")
    there = {
        tuple(np.round(nibabel.affines.apply_affine(affine, i), 6)): values[i] for i in np.ndindex(4, 5, 6)
    }
    for index in np.ndindex(turned.shape):
        assert there[tuple(np.round(nibabel.affines.apply_affine(moved, index), 6))] == turned[index]


@pytest.mark.parametrize("seed", range(12))
def test_a_mask_resampled_about_its_lesion_is_the_mask_resampled_whole(seed):
    """Balls anywhere, at the volume's border and outside of the grid too, through turns, flips and shears."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(8, 30, 3))
    centre = tuple(int(rng.integers(0, n)) for n in shape)
    mask = ball(centre, float(rng.uniform(0, 6)), shape)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(rng.choice([-1, 1], 3) * rng.uniform(0.5, 4, 3)) @ (
        np.eye(3) + rng.normal(0, 0.2, (3, 3))
    )
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2) + rng.normal(0, 5, 3)
    target = Grid(
        (20, 22, 24), np.diag([1.5, 1.5, 1.5, 1.0]) + np.pad([[-15], [-16], [-18]], ((0, 1), (3, 0)))
    )
    move = np.eye(4)
    move[:3] += rng.normal(0, 0.1, (3, 4))
    for to_source in (None, move):
        wanted = resample(mask, affine, target, to_source, linear=False)
        found = resample_mask(mask, affine, target, to_source)
        np.testing.assert_array_equal(found, wanted)
    assert not resample_mask(np.zeros(shape, bool), affine, target).any()
