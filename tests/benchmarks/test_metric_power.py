"""The damages of the metric benchmark match their names."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "metrics"))

pytest.importorskip("torch")

from power import METRICS, is_worse
from power_damages import DAMAGES, damaged, other_subjects

from slimdiff.evaluation import registry
from slimdiff.generation.samples import Samples

SUBJECTS = np.repeat([f"s{n}" for n in range(8)], 6)


@pytest.fixture
def samples() -> Samples:
    """Eight subjects of six slices in two z-bins, a lesion in the first two slices of each z-bin."""
    rng = np.random.default_rng(0)
    n = len(SUBJECTS)
    images = np.full((n, 24, 24), -1, np.float32)
    images[:, 3:20, 4:19] = rng.uniform(-0.5, 0.9, (n, 17, 15))
    masks = np.full(images.shape, -1, np.float32)
    label = np.tile([1, 1, 0, 1, 1, 0], 8)
    for row in np.flatnonzero(label):
        top, left = rng.integers(5, 14), rng.choice([5, 13])
        masks[row, top : top + 4, left : left + 4] = 1
    z_bin = np.tile([0, 0, 0, 1, 1, 1], 8)
    ids = np.array([f"{subject}_{row}" for row, subject in enumerate(SUBJECTS)])
    return Samples(images.astype(np.float16), masks.astype(np.float16), z_bin, label, ids)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_deterministic_and_keeps_its_input(samples, name):
    before = samples.images.copy(), samples.masks.copy()
    once, again = (damaged(name, samples, SUBJECTS, 3) for _ in range(2))
    for key in ("images", "masks", "z_bin", "label", "id"):
        np.testing.assert_array_equal(getattr(once, key), getattr(again, key))
    np.testing.assert_array_equal(samples.images, before[0])
    np.testing.assert_array_equal(samples.masks, before[1])
    assert once.images.dtype == once.masks.dtype == np.float16
    assert len(np.unique(once.id)) == len(once.id)
    assert set(np.unique(once.masks)) == {-1, 1}


@pytest.mark.parametrize(("name", "sd"), [("noise 0.03", 0.03), ("noise 0.06", 0.06)])
def test_noise_lies_in_the_brain_and_has_its_sd(samples, name, sd):
    added = damaged(name, samples, SUBJECTS, 0).images.astype(float) - samples.images
    brain = samples.images > -0.95
    assert not added[~brain].any()
    unclipped = brain & (np.abs(samples.images) < 0.7)
    assert added[unclipped].std() == pytest.approx(sd, rel=0.03)
    assert abs(added[unclipped].mean()) < 0.002


def test_images_are_brighter_by_the_stated_amount(samples):
    images = damaged("brighter 0.05", samples, SUBJECTS, 0).images
    expected = np.where(samples.images > -0.95, np.minimum(samples.images + np.float32(0.05), 1), -1)
    np.testing.assert_allclose(images, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "parts"), [("half of the subjects, twice", 2), ("a third of the subjects, three times", 3)]
)
def test_collapse_repeats_whole_subjects(samples, name, parts):
    found = damaged(name, samples, SUBJECTS, 0)
    rows = np.array([int(one.split("_")[1]) for one in found.id])
    kept, times = np.unique(rows, return_counts=True)
    assert (times == parts).all()
    subjects, slices = np.unique(SUBJECTS[kept], return_counts=True)
    assert len(subjects) == 8 // parts and (slices == 6).all()
    np.testing.assert_array_equal(found.images, samples.images[rows])
    np.testing.assert_array_equal(found.masks, samples.masks[rows])
    np.testing.assert_array_equal(found.label, samples.label[rows])


def test_shuffled_masks_come_from_other_subjects_of_the_z_bin(samples):
    for seed in range(20):
        partner = other_subjects(samples.z_bin, samples.label, SUBJECTS, np.random.default_rng(seed))
        lesion = samples.label == 1
        assert sorted(partner) == list(range(len(partner)))
        np.testing.assert_array_equal(samples.z_bin[partner], samples.z_bin)
        np.testing.assert_array_equal(samples.label[partner], samples.label)
        assert (SUBJECTS[partner] != SUBJECTS)[lesion].all()
        np.testing.assert_array_equal(partner[~lesion], np.flatnonzero(~lesion))


def test_masks_of_one_subject_cannot_be_shuffled(samples):
    with pytest.raises(ValueError, match="z-bin 0: 16 of 16"):
        other_subjects(samples.z_bin, samples.label, np.full(48, "one"), np.random.default_rng(0))


def test_every_mirrored_lesion_is_left_and_matches_its_image(samples):
    found = damaged("lesions to the left", samples, SUBJECTS, 0)
    turned = 0
    for row in range(len(SUBJECTS)):
        lesion = found.masks[row] > 0
        # The brain covers columns 4 to 18; mirrored, 5 to 19.
        same = np.array_equal(found.images[row], samples.images[row])
        middle = 11 if same else 12
        assert not lesion.any() or np.nonzero(lesion)[1].mean() < middle
        own = np.sort(samples.images[row][samples.masks[row] > 0])
        np.testing.assert_array_equal(np.sort(found.images[row][lesion]), own)
        turned += not same
    assert 0 < turned < (samples.label == 1).sum()


def test_dilation_and_opening_of_a_square(samples):
    area = {
        name: (damaged(name, samples, SUBJECTS, 0).masks > 0).sum(axis=(1, 2))[samples.label == 1]
        for name in ("none", "masks dilated 1 px", "masks opened")
    }
    assert (area["none"] == 16).all()
    assert (area["masks dilated 1 px"] == 16 + 4 * 4).all()
    assert (area["masks opened"] == 12).all()  # opening with a cross removes the corners


def test_worse_means_outside_the_undamaged_values():
    null, values = np.arange(101.0), np.array([1.0, 4.0, 50.0, 96.0, 99.0])
    assert is_worse(values, null, "lower").tolist() == [False, False, False, True, True]
    assert is_worse(values, null, "higher").tolist() == [True, True, False, False, False]
    assert is_worse(values, null, "zero").tolist() == [True, False, False, False, True]


def test_the_benchmark_uses_metrics_of_the_registry():
    assert set(METRICS) <= set(registry.METRICS)
