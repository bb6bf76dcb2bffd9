"""World coordinates through reorientation and resampling: images whose intensities are their own coordinates.

Linear interpolation reproduces an image whose values are x, y or z in mm, so each voxel of the grid gives the world
coordinates that it came from, independently of the affine.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slimdiff.config.data import DataConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import Participant
from slimdiff.data.volumes.grid import Grid, back_to_source, resample, to_grid_mm
from slimdiff.data.volumes.preprocess import preprocess

SOME = settings(deadline=None, derandomize=True, max_examples=40)
TOLERANCE_MM = 0.01
LIFT = 1000.0
"""Added to coordinates, so that no intensity is below zero."""
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@dataclass(frozen=True)
class Place:
    """Shape (X, Y, Z) and affine (4, 4), mm, RAS+."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    def world(self) -> np.ndarray:
        """Coordinates of every voxel, (3, X, Y, Z), mm."""
        voxels = np.indices(self.shape).reshape(3, -1)
        return (self.affine[:3, :3] @ voxels + self.affine[:3, 3:]).reshape(3, *self.shape)

    def voxels_at(self, world: np.ndarray) -> np.ndarray:
        """Voxel coordinates (3, N) of points (3, N) in mm."""
        return np.linalg.solve(self.affine[:3, :3], world - self.affine[:3, 3:])


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rodrigues' formula; (3, 3)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@st.composite
def tilts(draw, degrees: float) -> np.ndarray:
    axis = np.array([draw(st.integers(-5, 5)) for _ in range(3)], float)
    return rotation(axis if axis.any() else np.array([0, 0, 1.0]), draw(st.floats(-degrees, degrees)))


@st.composite
def places(draw) -> Place:
    """Any of the 48 orientations, tilted up to 30 degrees, voxels of 0.4 to 5 mm, near the scanner's centre."""
    order, signs = draw(st.sampled_from(ORIENTATIONS))
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = draw(tilts(30)) @ axes @ np.diag([draw(st.floats(0.4, 5)) for _ in range(3)])
    affine[:3, 3] = [draw(st.floats(-150, 150)) for _ in range(3)]
    # Rounded to float32 as in a file, so that its rounding is not attributed to the code.
    return Place(tuple(draw(st.integers(8, 24)) for _ in range(3)), affine.astype(np.float32).astype(float))


@st.composite
def grids(draw, source: Place) -> PreprocessConfig:
    """At least two voxels across the source; the whole intensity range is kept, without a background."""
    thinnest_mm = min(np.linalg.norm(source.affine[:3, :3], axis=0) * source.shape)
    return PreprocessConfig(
        spacing_mm=draw(st.floats(0.5, min(4.0, thinnest_mm / 2))),
        grid=tuple(draw(st.integers(6, 30)) for _ in range(3)),
        percentiles=(0, 100),
        percentiles_over="volume",
    )


@st.composite
def sources_and_grids(draw) -> tuple[Place, PreprocessConfig]:
    source = draw(places())
    config = draw(grids(source))
    # Preprocessing refuses a grid with less than 1 % of head.
    source_mm3 = abs(np.linalg.det(source.affine[:3, :3])) * np.prod(source.shape)
    assume(source_mm3 > 0.03 * config.spacing_mm**3 * np.prod(config.grid))
    return source, config


@dataclass(frozen=True)
class Made:
    """The output of the stage."""

    intensity: np.ndarray
    """(X, Y, Z), in the units of the source."""
    lesion: np.ndarray
    affine: np.ndarray
    record: dict

    @property
    def place(self) -> Place:
        return Place(self.intensity.shape, self.affine)


def made(
    folder: Path, source: Place, values: np.ndarray, lesion: np.ndarray, config: PreprocessConfig
) -> Made:
    """Preprocess through files and the stage, like the volumes of a user."""
    paths = {kind: folder / f"{kind}.nii.gz" for kind in ("source", "roi", "image", "mask")}
    for kind, array in (("source", values.astype(np.float64)), ("roi", lesion.astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, source.affine), paths[kind])
    participant = Participant("sub-1", "fcd", paths["source"], paths["roi"])
    preprocess(participant, DataConfig(), config, paths["image"], paths["mask"], folder / "record.json")
    record = json.loads((folder / "record.json").read_text())
    low, high = next(step["scale_to_unit_range"] for step in record["history"] if step["step"] == "scale")
    image, mask = nibabel.load(paths["image"]), nibabel.load(paths["mask"])
    np.testing.assert_array_equal(image.affine, mask.affine)
    intensity = (np.asarray(image.dataobj, np.float64) + 1) / 2 * (high - low) + low
    return Made(intensity, np.asarray(mask.dataobj) > 0, image.affine, record)


def within(source: Place, world: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Which points (3, N) lie between the source's outermost voxel centres, bool (N,)."""
    voxels, last = source.voxels_at(world), np.array(source.shape)[:, None] - 1
    return ((voxels > margin) & (voxels < last - margin)).all(axis=0)


@given(sources_and_grids())
@SOME
def test_every_voxel_of_the_grid_lies_where_its_affine_says(tmp_path_factory, drawn):
    source, config = drawn
    # Lesion everywhere, so that some of it is left on any grid.
    lesion = np.ones(source.shape, bool)
    coordinates = source.world()
    outcomes = [
        made(tmp_path_factory.mktemp("made"), source, values + LIFT, lesion, config) for values in coordinates
    ]
    place = outcomes[0].place
    assert place.shape == config.grid
    claimed = place.world().reshape(3, -1)
    inside = within(source, claimed)
    assert inside.any(), "the grid lies about the source's centre"
    came_from = np.stack([outcome.intensity.ravel() - LIFT for outcome in outcomes])
    assert np.abs(came_from - claimed)[:, inside].max() < TOLERANCE_MM
    # The axes are closest to right, anterior, superior, and voxels are cubes of the configured size.
    axes = place.affine[:3, :3] / config.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-3)
    assert nibabel.aff2axcodes(place.affine) == ("R", "A", "S")


@given(sources_and_grids(), st.integers(0, 2**32 - 1))
@SOME
def test_a_mask_voxel_has_the_value_of_the_nearest_source_voxel(tmp_path_factory, drawn, seed):
    source, config = drawn
    lesion = np.random.default_rng(seed).random(source.shape) < 0.6
    outcome = made(tmp_path_factory.mktemp("made"), source, source.world()[0] + LIFT, lesion, config)
    places_in_source = source.voxels_at(outcome.place.world().reshape(3, -1))
    nearest = np.rint(places_in_source).astype(int)
    there = ((nearest >= 0) & (nearest < np.array(source.shape)[:, None])).all(axis=0)
    expected = np.zeros(there.size, bool)
    expected[there] = lesion[tuple(nearest[:, there])]
    # Points half way between two voxels are left out: either voxel is nearest.
    clear = (np.abs(places_in_source - np.floor(places_in_source) - 0.5) > 1e-2).all(axis=0)
    np.testing.assert_array_equal(outcome.lesion.ravel()[clear], expected[clear])


@given(sources_and_grids())
@SOME
def test_the_record_maps_from_the_source_to_the_grid_and_back(tmp_path_factory, drawn):
    source, config = drawn
    lesion = np.ones(source.shape, bool)
    outcome = made(tmp_path_factory.mktemp("made"), source, source.world()[1] + LIFT, lesion, config)
    # Without registration nothing moves in the world.
    corners = np.vstack([source.world().reshape(3, -1), np.ones(lesion.size)])
    moved = to_grid_mm(outcome.record) @ corners
    assert np.abs(moved - corners)[:3].max() < TOLERANCE_MM
    # World coordinates on the grid, resampled back to the voxels of the source.
    for axis, coordinate in enumerate(outcome.place.world()):
        returned = back_to_source(coordinate.astype(np.float32), outcome.record, 1)
        assert returned.shape == source.shape
        assert np.abs(returned.affine - source.affine).max() < 1e-4
        seen = within(outcome.place, corners[:3], margin=1e-3)
        found = np.asarray(returned.dataobj).ravel()
        assert np.abs(found - corners[axis])[seen].max(initial=0) < TOLERANCE_MM


@given(places(), places(), tilts(180), st.tuples(*[st.floats(-2, 2)] * 3))
@settings(SOME, max_examples=100)
def test_a_transform_between_two_worlds_is_applied(source, target, turned, moved_mm):
    to_source = np.eye(4)
    to_source[:3, :3] = turned
    middle = {
        name: place.world().reshape(3, -1).mean(axis=1) for name, place in (("s", source), ("t", target))
    }
    # Rotated about both centres, so that the volumes overlap.
    to_source[:3, 3] = middle["s"] - turned @ middle["t"] + np.array(moved_mm)
    expected = turned @ target.world().reshape(3, -1) + to_source[:3, 3:]
    inside = within(source, expected)
    # Coarse voxels of the target may all lie outside a thin source.
    assume(inside.any())
    for axis, coordinate in enumerate(source.world()):
        found = resample(
            coordinate.astype(np.float32), source.affine, Grid(target.shape, target.affine), to_source
        )
        assert found.shape == target.shape
        assert np.abs(found.ravel() - expected[axis])[inside].max() < TOLERANCE_MM


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_rotation_returns_a_rotation_matrix(degrees):
    turn = rotation(np.array([0, 0, 1.0]), degrees)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    angle = np.deg2rad(degrees)
    np.testing.assert_allclose(turn @ [1, 0, 0], [np.cos(angle), np.sin(angle), 0], atol=1e-12)
