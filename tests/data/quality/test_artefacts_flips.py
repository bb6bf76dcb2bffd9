"""Masks that were turned over: found on phantoms and real patients, and true ones left alone."""

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball, head
from scipy import ndimage

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import Participant
from slimdiff.data.phantom.cohort import subject_volumes
from slimdiff.data.quality.artefacts import flip_contrasts, symmetry_plane
from slimdiff.data.quality.exclusion import FLIP_SD, doubts
from slimdiff.data.quality.measure import measure
from slimdiff.data.volumes.read import read_volume

TURNS = {"left to right": (0,), "front to back": (1,), "top to bottom": (2,), "180 degrees": (0, 1)}


def suspected(folder, image_path, mask: np.ndarray, like: nibabel.Nifti1Image) -> bool:
    """Whether a mask array on the image's grid is taken for one that was turned over."""
    path = folder / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), like.affine), path)
    participant = Participant("sub-1", "fcd", image_path, path)
    config = QualityConfig(max_spacing_mm=9.0)
    measured = measure(participant, DataConfig())
    assert not measured.flags
    return "flip_suspected" in [flag.name for flag in doubts(participant, measured, config)]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    found = []
    for number in range(1, 7):
        image, mask, affine = subject_volumes(f"sub-{number:03d}", "fcd", 8, 3.0)
        path = folder / f"{number}.nii.gz"
        # Stored from left to right for every second one.
        if number % 2:
            image, mask, affine = image[::-1], mask[::-1], affine @ np.diag([-1, 1, 1, 1.0])
            affine[0, 3] = -affine[0, 0] * (len(image) - 1) / 2
        nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), path)
        found.append((path, np.asarray(mask) > 0, nibabel.load(path)))
    return found


def test_true_masks_of_phantoms_are_left_alone_and_turned_ones_found(phantoms, tmp_path):
    for path, mask, like in phantoms:
        assert not suspected(tmp_path, path, mask, like), path.name
    for turn, axes in TURNS.items():
        found = [suspected(tmp_path, path, np.flip(mask, axes), like) for path, mask, like in phantoms]
        assert sum(found) >= 5, turn


@pytest.mark.parametrize("patient", ["07", "19"])
def test_of_real_patients_the_true_mask_passes_and_the_mirrored_one_does_not(patient, shared_data, tmp_path):
    image = shared_data / "open_ms" / f"patient{patient}_FLAIR_MNI.nii.gz"
    like = nibabel.load(image)
    lesion = read_volume(shared_data / "open_ms" / f"patient{patient}_lesion_MNI.nii.gz", "x").values > 0
    assert not suspected(tmp_path, image, lesion, like)
    assert suspected(tmp_path, image, lesion[::-1], like)


def test_contrasts_are_those_of_a_plain_computation():
    values, brain = head(3), head(3) > 0
    lesion = ball((11, 15, 17), 3)
    values[lesion] += 30
    spacing = np.array([2.0, 3.0, 2.5])
    found = flip_contrasts(values, lesion, brain, spacing, plane=14.5)

    def plain(mask):
        distance = ndimage.distance_transform_edt(~mask, sampling=spacing)
        shell = (distance > 1.5) & (distance <= 6) & brain
        return (values[mask & brain].mean() - values[shell].mean()) / values[brain].std()

    mirrored = np.zeros_like(lesion)
    mirrored[:30] = lesion[:30][::-1]
    expected = {
        "as stored": plain(lesion),
        "mirrored left to right": plain(mirrored),
        "reversed left to right": plain(lesion[::-1]),
        "reversed front to back": plain(lesion[:, ::-1]),
        "reversed top to bottom": plain(lesion[:, :, ::-1]),
        "turned by 180 degrees": plain(lesion[::-1, ::-1]),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert found["as stored"] - max(value for name, value in found.items() if name != "as stored") > FLIP_SD


def test_contrasts_do_not_depend_on_the_scale_of_intensities():
    values, brain, lesion = head(3), head(3) > 0, ball((11, 15, 17), 3)
    once = flip_contrasts(values, lesion, brain, np.ones(3) * 3, 15.5)
    again = flip_contrasts(values * 37 + 5, lesion, brain, np.ones(3) * 3, 15.5)
    assert once == pytest.approx(again, abs=1e-3)


@pytest.mark.parametrize("shift", [-4, 0, 3])
def test_the_plane_of_symmetry_moves_with_the_head(shift):
    values = head(5)
    values[ball((10, 12, 16), 3)] += 60
    moved = np.roll(values, shift, axis=0)
    assert symmetry_plane(moved, moved > 0) == pytest.approx(15.5 + shift, abs=0.5)


def test_the_plane_of_symmetry_is_the_brains_and_not_its_boxs():
    values = head(5)
    # Something that sticks out on one side only.
    values[27:31, 15:17, 15:17] = 100
    brain = values > 0
    where = np.flatnonzero(brain.any(axis=(1, 2)))
    assert where.mean() > 16.5
    assert symmetry_plane(values, brain) == pytest.approx(15.5, abs=0.5)


def test_a_mask_that_meets_no_brain_has_no_contrast():
    brain = ball((16, 16, 16), 8)
    found = flip_contrasts(head(1), ball((2, 2, 2), 1), brain, np.ones(3), 15.5)
    assert found == {}
