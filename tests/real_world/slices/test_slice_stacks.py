"""Slices as a volume: which one is where, in mm; gaps, sizes and depths that differ; masks."""

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.slice_tree import numbered, save_picture

from slimdiff.config.data import DataConfig, StackConfig
from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import Participant
from slimdiff.data.quality.exclusion import judge
from slimdiff.data.quality.measure import measure
from slimdiff.data.stack import Stack
from slimdiff.data.volumes.grid import Grid, back_to_source, nearest_planes
from slimdiff.data.volumes.preprocess import preprocess
from slimdiff.data.volumes.read import VolumeError, load_pair, read_image
from slimdiff.data.volumes.stacking import voxels_of

ROWS, COLUMNS = 12, 16
MM = {"pixel_mm": 0.5, "distance_mm": 2.0}


@pytest.fixture
def made(tmp_path):
    """Makes a participant of pictures, masks and places; further keys are those of data.slices."""

    def make(images, masks=None, places=None, relative=False, ending="png", **keys) -> Participant:
        places = tuple(places or range(1, len(images) + 1))
        stack = Stack(
            images=tuple(
                save_picture(tmp_path / f"{p:g}.{ending}", a) for p, a in zip(places, images, strict=True)
            ),
            masks=()
            if masks is None
            else tuple(
                None if a is None else save_picture(tmp_path / f"{p:g}_mask.{ending}", a)
                for p, a in zip(places, masks, strict=True)
            ),
            places=places,
            relative=relative,
            channel=None,
            settings=StackConfig(**{**(MM if not relative else {"pixel_mm": 0.5}), **keys}),
        )
        mask = stack.mask_files[0] if stack.masks else None
        return Participant("p1", "patient", stack.images[0], mask, stack=stack)

    return make


def at(row: Participant, *points_mm) -> list[float]:
    """The image's values at points of the world (right, anterior, superior), nearest voxel."""
    image = read_image(row)
    to_voxel = np.linalg.inv(image.affine)
    places = [np.rint(to_voxel[:3, :3] @ point + to_voxel[:3, 3]).astype(int) for point in points_mm]
    return [float(image.values[tuple(place)]) for place in places]


def refused(row: Participant, flag: str, *words: str) -> None:
    with pytest.raises(VolumeError) as caught:
        load_pair(row)
    assert caught.value.flag == flag and str(caught.value).startswith("p1: ")
    assert all(word in str(caught.value) for word in words), caught.value


# Where a pixel is --------------------------------------------------------------------------------------------------

# First column, first row, first slice of 16 x 12 x 4 voxels of 0.5 x 0.5 x 2 mm around 0.
LEFTMOST, TOPMOST, FIRST = 7.5 * 0.5, 5.5 * 0.5, 1.5 * 2


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (
            "LPS",
            (LEFTMOST, TOPMOST, -FIRST),
        ),  # the left of the picture is the patient's right, its top is the front
        ("RPS", (-LEFTMOST, TOPMOST, -FIRST)),
        ("LAS", (LEFTMOST, -TOPMOST, -FIRST)),
        ("LPI", (LEFTMOST, TOPMOST, FIRST)),
    ],
)
def test_the_first_pixel_of_the_first_slice_is_where_the_orientation_says(made, orientation, corner):
    images = numbered(4)
    row = made(images, orientation=orientation)
    away = -np.array(corner)
    assert at(row, corner, away) == [images[0, 0, 0], images[3, -1, -1]]
    assert "".join(nibabel.aff2axcodes(read_image(row).affine)) == orientation


def test_pictures_of_transposed_arrays(made):
    """Arrays (x, y) that were saved as they were: columns go back, rows go left."""
    images = numbered(4)
    row = made(images, orientation="PLS", ending="npy")
    corner = (5.5 * 0.5, 7.5 * 0.5, -FIRST)
    assert at(row, corner) == [images[0, 0, 0]]
    # One column further is half a millimetre further back.
    assert at(row, np.array(corner) - (0, 0.5, 0)) == [images[0, 0, 1]]


def test_slices_lie_at_their_number_times_the_distance(made):
    images = numbered(3)
    near, far = made(images, places=[4, 5, 6]), made(images, places=[10, 20, 30])
    assert [at(near, (LEFTMOST, TOPMOST, z))[0] for z in (-2, 0, 2)] == [image[0, 0] for image in images]
    # Every tenth slice: 20 mm apart.
    assert [at(far, (LEFTMOST, TOPMOST, z))[0] for z in (-20, 0, 20)] == [image[0, 0] for image in images]


def test_relative_heights_lie_on_the_nominal_height(made):
    """Slices at the heights 1/8, 3/8, 5/8, 7/8 of 80 mm."""
    images = numbered(4)
    row = made(images, places=[0.125, 0.375, 0.625, 0.875], relative=True, height_mm=80.0)
    assert [at(row, (LEFTMOST, TOPMOST, 80 * (h - 0.5)))[0] for h in row.stack.places] == list(
        images[:, 0, 0]
    )


def test_relative_heights_of_the_upper_half_stay_there(made):
    images = numbered(3)
    row = made(images, places=[0.625, 0.75, 0.875], relative=True, height_mm=80.0, orientation="LPI")
    assert [at(row, (LEFTMOST, TOPMOST, 80 * (h - 0.5)))[0] for h in row.stack.places] == list(
        images[:, 0, 0]
    )
    # Below them is nothing: the lowest value.
    assert at(row, (LEFTMOST, TOPMOST, -30.0)) == [images.min()]


def brain_slices(shown: int, below: int, above: int) -> np.ndarray:
    """Slices of 20 x 20 with a bright disc that names its slice, and empty ones."""
    rows, columns = np.indices((20, 20))
    disc = (rows - 9.5) ** 2 + (columns - 9.5) ** 2 < 60
    full = [np.where(disc, 150 + number, 0) for number in range(shown)]
    return np.array([*[0 * disc] * below, *full, *[0 * disc] * above]).astype(np.uint8)


@pytest.mark.parametrize(("shown", "below", "above"), [(5, 0, 0), (5, 3, 1), (9, 0, 4)])
def test_with_an_unknown_distance_the_brain_has_the_nominal_height_whatever_lies_around_it(
    made, shown, below, above
):
    row = made(brain_slices(shown, below, above), pixel_mm=1.0, distance_mm=None, height_mm=45.0)
    image = read_image(row)
    distance = 45 / shown
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(image.affine), (1, 1, distance))
    for number in range(shown):
        height = (number - (shown - 1) / 2) * distance
        assert at(row, (0.5, 0.5, height)) == [150 + number]


def test_a_lesion_in_a_slice_that_shows_no_brain_is_refused(made):
    images = brain_slices(4, 2, 0)
    masks = np.zeros_like(images)
    masks[0, 5, 5] = 255
    refused(
        made(images, masks, distance_mm=None, height_mm=40.0), "other_grid", "1_mask.png", "show the brain"
    )


# Gaps --------------------------------------------------------------------------------------------------------------


def test_missing_numbers_are_named(made):
    refused(
        made(numbered(4), places=[1, 2, 5, 6]),
        "missing_slice",
        "found no z 3, 4",
        "data.slices.gaps: nearest",
    )


def test_a_gap_is_filled_with_the_nearest_slice_and_its_mask(made):
    images = numbered(4)
    masks = np.zeros_like(images)
    masks[2] = 255
    row = made(images, masks, places=[1, 2, 5, 6], gaps="nearest")
    pair = load_pair(row)
    # z = 3 takes 2 and z = 4 takes 5.
    assert list(pair.image.values[0, 0]) == [images[n, 0, 0] for n in (0, 1, 1, 2, 2, 3)]
    assert list(pair.lesion[0, 0]) == [False, False, False, True, True, False]
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(pair.image.affine), (0.5, 0.5, 2))
    assert pair.image.layout.record(row.stack)["repeated"] == 2


def test_heights_at_other_than_equal_distances_are_named(made):
    row = made(numbered(4), places=[0.1, 0.2, 0.7, 0.8], relative=True, height_mm=50.0)
    refused(row, "missing_slice", "equal distances", "0.2, 0.7")


def test_one_slice_is_no_volume(made):
    refused(made(numbered(1)), "not_3d", "expected several slices")


# Sizes and depths --------------------------------------------------------------------------------------------------


def test_smaller_pictures_are_padded_around_their_centre(made):
    big, small = numbered(1, (12, 16))[0], numbered(1, (8, 10))[0]
    lesion = np.zeros((8, 10), np.uint8)
    lesion[3, 4] = 255
    pair = load_pair(made([big, small], [np.zeros((12, 16), np.uint8), lesion]))
    assert pair.image.values.shape == (16, 12, 2)
    expected = np.full((12, 16), min(big.min(), small.min()))
    expected[2:10, 3:13] = small
    np.testing.assert_array_equal(pair.image.values[..., 1].T, expected)
    assert np.argwhere(pair.lesion).tolist() == [[3 + 4, 2 + 3, 1]]


def test_padding_and_missing_heights_have_the_background_of_a_stripped_image_with_a_mean_of_0(made):
    """Its background is 0, and parts of the brain are darker."""
    images = [np.where(image > 0, image - 152.0, 0).astype(np.float32) for image in brain_slices(5, 0, 0)]
    images[1] = images[1][2:-2, 2:-2]
    row = made(images, places=[0.3, 0.4, 0.5, 0.6, 0.7], relative=True, height_mm=50.0, ending="npy")
    values = read_image(row).values
    assert values.min() == -2 and set(values[0].ravel()) == {0}
    above = made(images[2:], places=[0.5, 0.6, 0.7], relative=True, height_mm=50.0, ending="npy")
    assert set(read_image(above).values[..., 0].ravel()) == {0}


def test_the_brain_of_such_an_image_is_found_whatever_lies_around_it(made):
    images = [np.where(i > 0, i - 152.0 + 2 * np.indices(i.shape)[0] % 3, 0) for i in brain_slices(5, 3, 1)]
    row = made([image.astype(np.float32) for image in images], ending="npy", distance_mm=None, height_mm=45.0)
    assert read_image(row).values.shape[2] == 5


def test_pictures_of_one_field_of_view_are_scaled_to_the_largest(made):
    """A matrix of 128 and one of 256 pixels that show the same 200 mm."""
    rows, columns = np.indices((256, 256))
    fine = (columns // 2 + rows // 4).astype(np.uint8)
    coarse = fine[::2, ::2] + np.uint8(0)
    disc = (rows - 100) ** 2 + (columns - 150) ** 2 < 40**2
    masks = [np.where(disc, 255, 0).astype(np.uint8), np.where(disc[::2, ::2], 255, 0).astype(np.uint8)]
    pair = load_pair(made([fine, coarse], masks, pixel_mm=None, field_mm=200.0))
    assert pair.image.values.shape == (256, 256, 2)
    assert nibabel.affines.voxel_sizes(pair.image.affine)[0] == pytest.approx(200 / 256)
    assert np.abs(pair.image.values[..., 0] - pair.image.values[..., 1]).max() <= 2
    one, two = pair.lesion[..., 0], pair.lesion[..., 1]
    assert 2 * (one & two).sum() / (one.sum() + two.sum()) > 0.98


def test_participants_of_one_field_of_view_have_lesions_of_the_same_size_whatever_their_matrix(made):
    def lesion_ml(side: int) -> float:
        image, mask = np.zeros((2, 2, side, side), np.uint8)
        image[:, side // 4 : -side // 4, side // 4 : -side // 4] = 100
        mask[:, : side // 2, : side // 4] = 255
        row = made(image, mask, pixel_mm=None, field_mm=200.0)
        return measure(row, DataConfig(source="slices")).lesion_ml

    # Half of 200 mm times a quarter of it, in two slices of 2 mm.
    assert lesion_ml(64) == pytest.approx(20.0) == lesion_ml(128)


def test_a_mask_of_another_size_than_its_image_is_refused(made):
    images = numbered(2)
    masks = [np.zeros((12, 16), np.uint8), np.zeros((12, 15), np.uint8)]
    refused(
        made(images, masks),
        "other_grid",
        "2_mask.png",
        "expected the size of the image, 12 x 16, found 12 x 15",
    )


def test_8_and_16_bit_in_one_participant_are_refused(made):
    eight = numbered(1)[0]
    refused(
        made([eight, eight.astype(np.uint16)]), "slices_differ", "2.png", "expected uint8", "found uint16"
    )


def test_values_of_16_bit_are_kept(made):
    images = numbered(3).astype(np.uint16) * 250
    image = read_image(made(images, ending="tif"))
    assert image.stored.dtype == np.uint16
    np.testing.assert_array_equal(image.values, images.transpose(2, 1, 0))


def test_memory_is_requested_by_all_pixels_of_the_slices(made):
    assert voxels_of(made(numbered(3)).stack) == 3 * ROWS * COLUMNS


# Masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_of_any_one_value_is_the_lesion(made, value):
    masks = np.zeros((3, ROWS, COLUMNS), np.uint8)
    masks[1, 2:5, 3] = value
    expected = masks.transpose(2, 1, 0) > 0
    np.testing.assert_array_equal(load_pair(made(numbered(3), masks)).lesion, expected)


def test_a_slice_without_a_mask_file_has_no_lesion(made):
    mask = np.full((ROWS, COLUMNS), 255, np.uint8)
    lesion = load_pair(made(numbered(3), [None, mask, None])).lesion
    assert lesion.any(axis=(0, 1)).tolist() == [False, True, False]


def test_masks_with_several_values_need_their_labels(made):
    masks = np.zeros((3, ROWS, COLUMNS), np.uint8)
    masks[0, 0, 0], masks[1, 0, 0] = 1, 2
    row = made(numbered(3), masks)
    refused(row, "mask_not_binary", "1_mask.png to 3_mask.png", "data.lesion_labels")
    assert np.argwhere(load_pair(row, labels=(2,)).lesion).tolist() == [[0, 0, 1]]


def test_masks_with_the_noise_of_compression_need_a_threshold(made):
    masks = np.zeros((3, ROWS, COLUMNS), np.uint8)
    masks[1, 4, 4:8] = (3, 120, 200, 251)
    row = made(numbered(3), masks)
    refused(row, "mask_not_binary", "4 values above 0")
    assert np.argwhere(load_pair(row, threshold=0.5).lesion)[:, 0].tolist() == [6, 7]


def test_masks_that_are_all_empty_are_flagged(made):
    refused(made(numbered(3), np.zeros((3, ROWS, COLUMNS), np.uint8)), "empty_mask", "data.empty_mask")


# Quality control and the grid --------------------------------------------------------------------------------------


def test_the_hash_of_the_image_is_that_of_its_files_in_order(made):
    row = made(numbered(3), np.full((3, ROWS, COLUMNS), 255, np.uint8))
    measured = measure(row, DataConfig(source="slices"))
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in row.stack.images)).hexdigest()
    assert measured.image_sha256 == expected == read_image(row).sha256
    assert measured.mask_sha256 == hashlib.sha256(b"".join(p.read_bytes() for p in row.masks)).hexdigest()


def test_a_damaged_picture_is_a_flag_of_its_participant(made):
    images = np.random.default_rng(0).integers(0, 255, (3, ROWS, COLUMNS), np.uint8)
    row = made(images, np.full((3, ROWS, COLUMNS), 255, np.uint8))
    row.stack.images[1].write_bytes(row.stack.images[1].read_bytes()[:120])
    flags = measure(row, DataConfig(source="slices")).flags
    assert [flag.name for flag in flags] == ["truncated"]
    assert str(row.stack.images[1]) in flags[0].reason


def test_thick_slices_are_shown_but_stop_nothing(made):
    images = brain_slices(4, 0, 0)
    masks = np.where(images > 0, 0, 0).astype(np.uint8)
    masks[1, 8:11, 8:11] = 255
    row, data = made(images, masks, distance_mm=6.0), DataConfig(source="slices")
    verdict = judge([row], {"p1": measure(row, data)}, QualityConfig(), data)[0]
    assert "thick_slices" in [flag.name for flag in verdict.shown] and not verdict.stopping


def on_grid(row: Participant, folder: Path, spacing_mm: float, grid: tuple[int, int, int], **keys):
    """Image in units of the files and lesion (X, Y, Z) on the grid, and the record."""
    config = PreprocessConfig(
        spacing_mm=spacing_mm, grid=grid, percentiles_over="volume", percentiles=(0, 100), **keys
    )
    out = [folder / "out" / name for name in ("image.nii.gz", "mask.nii.gz", "record.json")]
    preprocess(row, DataConfig(source="slices"), config, *out)
    record = json.loads(out[2].read_text())
    low, high = record["history"][-1]["scale_to_unit_range"]
    image, mask = (np.asarray(nibabel.load(path).dataobj) for path in out[:2])
    return low + (image + 1) / 2 * (high - low), mask > 0, record


def test_a_plane_of_the_grid_is_one_slice_not_a_mixture(made, tmp_path):
    """Five slices of 4 mm on planes of 2.5 mm: eight planes within them."""
    images = brain_slices(5, 0, 0)
    masks = np.where(images == 152, 255, 0).astype(np.uint8)
    row = made(images, masks, pixel_mm=2.5, distance_mm=4.0)
    image, lesion, record = on_grid(row, tmp_path, 2.5, (20, 20, 8))
    centres = (np.arange(8) - 3.5) * 2.5
    expected = np.abs((np.arange(5) - 2)[:, None] * 4.0 - centres).argmin(axis=0)
    np.testing.assert_allclose(image[10, 10], 150 + expected, atol=1e-3)
    np.testing.assert_array_equal(lesion[10, 10], expected == 2)
    # Rows and columns of the slice are those of the picture.
    np.testing.assert_allclose(image[..., 3], images[expected[3]].T[::-1, ::-1], atol=1e-3)
    steps = {step["step"]: step for step in record["history"]}
    assert steps["resample"]["planes"] == "nearest" and steps["stack"]["files"] == 5


def test_a_grid_that_is_deeper_than_the_slices_has_background_around_them(made, tmp_path):
    row = made(brain_slices(5, 0, 0), pixel_mm=4.0, distance_mm=4.0)
    image, _, _ = on_grid(row, tmp_path, 4.0, (20, 20, 9))
    np.testing.assert_allclose(image[10, 10], [0, 0, 150, 151, 152, 153, 154, 0, 0], atol=1e-3)


def test_of_two_slices_that_are_equally_near_the_lower_one_counts():
    source = Grid((4, 4, 4), np.diag([1.0, 1.0, 2.0, 1.0]))
    target = Grid((4, 4, 7), np.diag([1.0, 1.0, 1.0, 1.0]))
    planes, affine = nearest_planes(source, target)
    assert planes.tolist() == [0, 0, 1, 1, 2, 2, 3]
    np.testing.assert_array_equal(affine, target.affine)


def test_a_mask_on_the_grid_goes_back_to_the_stack(made, tmp_path):
    images = brain_slices(5, 0, 0)
    masks = np.where(images == 153, 255, 0).astype(np.uint8)
    row = made(images, masks, pixel_mm=2.0, distance_mm=2.0)
    _, lesion, record = on_grid(row, tmp_path, 2.0, (20, 20, 8))
    back = np.asarray(back_to_source(lesion.astype(np.uint8), record, 0).dataobj)
    np.testing.assert_array_equal(back > 0, masks.transpose(2, 1, 0) > 0)
