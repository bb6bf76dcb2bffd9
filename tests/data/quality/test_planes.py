"""The planes for the eye: where they go through, which way is up, and that no lesion is lost."""

import numpy as np
import pytest
from helpers.synthetic import ball, head

from slimdiff.data.quality.planes import NAMES, read_planes, three_planes, write_planes


def marked(shape=(32, 32, 32)):
    """Dark left, bright right; a lesion at the left, front and top."""
    values = np.broadcast_to(np.linspace(0, 1, shape[0])[:, None, None], shape).astype(np.float32)
    lesion = np.zeros(shape, bool)
    lesion[4:7, -8:-4, -6:-3] = True
    return values, lesion, np.ones(shape, bool)


def test_left_is_left_and_up_is_front_or_top():
    values, lesion, inside = marked()
    planes = dict(zip(NAMES, three_planes(values, lesion, np.ones(3), inside), strict=True))
    for name in ("axial", "coronal"):
        image, mask = planes[name]
        assert image[:, 0].max() < 10 and image[:, -1].min() > 245
        rows, columns = np.nonzero(mask)
        assert rows.max() < 10 and columns.max() < 10
    _, mask = planes["sagittal"]
    rows, columns = np.nonzero(mask)
    assert rows.max() < 10 and columns.min() > 20


def test_planes_of_voxels_of_one_millimetre_are_the_volume_itself():
    values, lesion, inside = head(2), ball((10, 20, 8), 3), head(2) > 0
    planes = three_planes(values, lesion, np.ones(3), inside, window=(0.0, 255.0))
    for (image, mask), (axis, at) in zip(planes, ((2, 8), (1, 20), (0, 10)), strict=True):
        plane = np.take(values, at, axis).T[::-1]
        np.testing.assert_array_equal(image, np.round(np.clip(plane, 0, 255)).astype(np.uint8))
        np.testing.assert_array_equal(mask, np.take(lesion, at, axis).T[::-1])


def test_planes_go_through_the_deepest_point_of_the_largest_lesion():
    values = np.zeros((40, 40, 40), np.float32)
    values[25, 26, 27] = 1
    lesion = ball((25, 26, 27), 4, (40, 40, 40)) | ball((8, 8, 8), 2, (40, 40, 40))
    for image, _ in three_planes(values, lesion, np.ones(3), lesion, window=(0, 1)):
        assert image.max() == 255


def test_without_a_lesion_planes_go_through_the_middle_of_the_head():
    inside = np.zeros((40, 40, 40), bool)
    inside[10:21, 4:15, 20:31] = True
    values = np.zeros(inside.shape, np.float32)
    values[15, 9, 25] = 1
    for image, mask in three_planes(values, inside & False, np.ones(3), inside, window=(0, 1)):
        assert image.max() == 255
        assert not mask.any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 4.0), (0.5, 0.5, 0.5), (1.0, 1.2, 0.7)])
def test_pixels_are_isotropic_and_at_most_128_on_a_side(spacing):
    shape = (200, 240, 60)
    values = np.zeros(shape, np.float32)
    planes = three_planes(values, np.zeros(shape, bool), np.array(spacing), np.ones(shape, bool), (0, 1))
    extent = np.array(shape) * spacing
    for (image, _), (up, across) in zip(planes, ((1, 0), (2, 0), (2, 1)), strict=True):
        assert max(image.shape) <= 128
        assert image.shape[0] / image.shape[1] == pytest.approx(extent[up] / extent[across], rel=0.03)


def test_a_lesion_of_one_voxel_is_still_there_when_pixels_are_larger():
    shape = (300, 280, 260)
    for place in ((0, 0, 0), (151, 77, 202), (299, 279, 259)):
        lesion = np.zeros(shape, bool)
        lesion[place] = True
        planes = three_planes(np.zeros(shape, np.float32), lesion, np.ones(3), lesion, (0, 1))
        assert [mask.sum() for _, mask in planes] == [1, 1, 1]


def test_planes_come_back_from_their_file(tmp_path):
    planes = three_planes(head(1), ball((10, 20, 8), 3), np.ones(3), head(1) > 0)
    write_planes(tmp_path / "sub-1.npz", planes)
    for (image, mask), (image_again, mask_again) in zip(
        planes, read_planes(tmp_path / "sub-1.npz"), strict=True
    ):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(mask, mask_again)
        assert image_again.dtype == np.uint8 and mask_again.dtype == bool
    assert [path.name for path in tmp_path.iterdir()] == ["sub-1.npz"]
