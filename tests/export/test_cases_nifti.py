import nibabel
import numpy as np
import pytest

from slimdiff.data.slices import axial
from slimdiff.export.cases import canonical_affine, slice_affine, to_volume


def test_a_slice_is_placed_at_its_position_in_the_volume():
    volume = np.random.default_rng(0).normal(size=(5, 7, 4))
    for z in range(4):
        assert np.array_equal(to_volume(axial(volume, z)), volume[:, :, z : z + 1])


def test_voxels_of_a_slice_have_the_coordinates_of_the_volume():
    affine = nibabel.affines.from_matvec([[0, -2, 0.1], [2, 0, 0], [0, 0.1, 2]], [3, 5, -7])
    for i, j, z in ((0, 0, 0), (4, 1, 3), (2, 6, 1)):
        expected = affine @ (i, j, z, 1)
        assert slice_affine(affine, z) @ (i, j, 0, 1) == pytest.approx(expected)


def test_the_canonical_grid_is_centred_at_the_origin_in_ras_orientation():
    affine = canonical_affine((10, 12, 9), 2.0)
    corners = np.array([affine @ (0, 0, 0, 1), affine @ (9, 11, 8, 1)])
    assert corners[:, :3].sum(axis=0) == pytest.approx([0, 0, 0])
    assert corners[0, :3] == pytest.approx([-9, -11, -8])
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
