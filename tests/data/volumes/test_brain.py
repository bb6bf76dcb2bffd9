"""Brain masks: growing in mm, and what happens where there is none."""

from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic import AFFINE, ball, head

from slimdiff.config.preprocess import BrainConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes import brain
from slimdiff.data.volumes.brain import brain_mask, dilated
from slimdiff.data.volumes.registration import template

WHO = Participant("sub-9", "fcd", Path("sub-9_FLAIR.nii.gz"), None)


def grown_twin(mask: np.ndarray, by_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Every voxel against every voxel of the mask (or of its outside)."""
    seeds = np.argwhere(mask if by_mm > 0 else ~mask) * spacing
    found = np.zeros_like(mask)
    for index in np.ndindex(mask.shape):
        near = np.linalg.norm(seeds - np.array(index) * spacing, axis=1).min() <= abs(by_mm)
        found[index] = near if by_mm > 0 else not near
    return found


@pytest.mark.parametrize("by_mm", [3.05, 4.45, -2.05, -3.05])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 4.0), (2.0, 1.0, 1.5)])
def test_a_mask_grows_by_millimetres_in_voxels_of_any_shape(by_mm, spacing):
    mask = ball((8, 7, 6), 4, (16, 15, 13)) | ball((12, 11, 9), 1.5, (16, 15, 13))
    np.testing.assert_array_equal(
        dilated(mask, by_mm, np.array(spacing)), grown_twin(mask, by_mm, np.array(spacing))
    )


def test_a_mask_at_the_border_grows_along_it():
    mask = np.zeros((9, 9, 9), bool)
    mask[0, 4, 4] = True
    np.testing.assert_array_equal(dilated(mask, 2.0, np.ones(3)), grown_twin(mask, 2.0, np.ones(3)))


def test_the_source_s_mask_is_taken_and_grown():
    given = ball((15, 15, 16), 6)
    config = BrainConfig(method="source", dilate_mm=6.5)
    found = brain_mask(head(1), AFFINE, given, WHO, config)
    np.testing.assert_array_equal(found, grown_twin(given, 6.5, np.full(3, 6.0)))


def test_no_method_gives_no_mask():
    assert brain_mask(head(1), AFFINE, ball((15, 15, 16), 6), WHO, BrainConfig()) is None


def test_source_without_a_mask_is_an_error_that_says_what_to_give():
    with pytest.raises(DataError, match=r"sub-9.*sub-9_FLAIR.*data\.brain_suffix.*brain_mask.*deepbet"):
        brain_mask(head(1), AFFINE, None, WHO, BrainConfig(method="source"))


def test_no_brain_in_the_image_is_an_error_that_names_the_file():
    """The real network, on nothing."""
    pytest.importorskip("deepbet", reason="deepbet is not installed")
    config = BrainConfig(method="deepbet")
    with pytest.raises(DataError, match=r"sub-9: sub-9_FLAIR\.nii\.gz: deepbet.*data\.exclude"):
        brain_mask(np.zeros((40, 40, 40), np.float32), np.diag([4.0, 4.0, 4.0, 1.0]), None, WHO, config)


def test_the_network_is_loaded_once_a_process():
    pytest.importorskip("deepbet", reason="deepbet is not installed")
    assert brain._network() is brain._network()


def test_deepbet_finds_the_template_s_brain_and_refuses_one_of_a_mouse_or_a_giant():
    """1.9 litres, or what they become with a header that says other voxels."""
    pytest.importorskip("deepbet", reason="deepbet is not installed")
    config = BrainConfig(method="deepbet")
    values = template()[0][::2, ::2, ::2]
    found = brain_mask(values, np.diag([2.0, 2.0, 2.0, 1.0]), None, WHO, config)
    given = values > 0
    assert 2 * (found & given).sum() / (found.sum() + given.sum()) > 0.9
    for voxel_mm in (0.9, 2.4):
        with pytest.raises(DataError, match=r"deepbet's brain mask is \d+ ml, .* 300 to 3000"):
            brain_mask(values, np.diag([voxel_mm] * 3 + [1.0]), None, WHO, config)
