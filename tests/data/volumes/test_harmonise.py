"""Histogram standardisation against Nyúl's formula by hand, and what it does to two scanners."""

import numpy as np
import pytest
from helpers.synthetic import ball, head, save_nifti

from slimdiff.config import ConfigError, study_from_mapping
from slimdiff.config.slices import SlicesConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.slices import build_store
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes import harmonise
from slimdiff.data.volumes.harmonise import learn, training_rows

PERCENTILES = (1, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 99)
USED = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
"""torchio averages 13 landmarks and maps by the eleven of them that are no quartile but the median."""


def brain(seed: int, power: float = 1.0) -> np.ndarray:
    """A head in [-1, 1] with background -1, as a scanner of this gamma shows it."""
    volume = head(seed)
    inside = volume > 0
    unit = np.clip((volume - volume[inside].min()) / np.ptp(volume[inside]), 0.01, 1)
    return np.where(inside, 2 * unit**power - 1, -1).astype(np.float32)


def saved(folder, volumes) -> list:
    return [save_nifti(folder / f"{i}.nii.gz", volume) for i, volume in enumerate(volumes)]


def by_hand(volumes) -> tuple[np.ndarray, float, float]:
    """Landmarks on a scale of 0 to 100, and the mean ends."""
    found = np.array([np.percentile(v[v > -1], PERCENTILES) for v in volumes], np.float64)
    scaled = 100 * (found - found[:, :1]) / (found[:, -1:] - found[:, :1])
    return scaled.mean(axis=0), found[:, 0].mean(), found[:, -1].mean()


def mapped_by_hand(volume, landmarks, low, high) -> np.ndarray:
    kept = [PERCENTILES.index(p) for p in USED]
    own, target = np.percentile(volume[volume > -1], USED), np.asarray(landmarks)[kept]
    scale = np.interp(volume, own, target)
    for end, (a, b) in ((volume < own[0], (0, 1)), (volume > own[-1], (-2, -1))):
        slope = (target[b] - target[a]) / (own[b] - own[a])
        scale[end] = target[a] + slope * (volume[end] - own[a])
    return np.where(volume > -1, np.clip(low + (high - low) * scale / 100, -1, 1), -1)


def test_landmarks_and_map_are_the_formula(tmp_path):
    volumes = [brain(1), brain(2, 0.6), brain(3, 1.5)]
    found = learn(saved(tmp_path, volumes), ["a", "b", "c"], "all included participants")
    landmarks, low, high = by_hand(volumes)
    assert found.landmarks == pytest.approx(landmarks, abs=1e-3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    for volume in volumes:
        expected = mapped_by_hand(volume.astype(np.float64), landmarks, low, high)
        np.testing.assert_allclose(harmonise.apply(volume, found), expected, atol=2e-4)


def test_two_scanners_with_different_contrast_come_together(tmp_path):
    one, other = brain(4), brain(4, 0.5)
    found = learn(saved(tmp_path, [one, other]), ["a", "b"], "")
    after = [harmonise.apply(volume, found) for volume in (one, other)]
    before = np.abs(one - other).mean()
    assert before > 0.05
    assert np.abs(after[0] - after[1]).mean() < 0.05 * before
    for volume, original in zip(after, (one, other), strict=True):
        assert (volume[original == -1] == -1).all()
        assert volume.min() == -1
        assert volume.max() <= 1
        # The order of intensities stays.
        order = np.argsort(original[original > -1])
        assert (np.diff(volume[original > -1][order]) >= -1e-6).all()


def test_the_volume_that_landmarks_are_learned_from_stays_as_it_is(tmp_path):
    volume = brain(5, 0.7)
    found = learn(saved(tmp_path, [volume]), ["a"], "")
    np.testing.assert_allclose(harmonise.apply(volume, found), volume, atol=1e-4)


def test_the_scanner_s_unit_does_not_matter(tmp_path):
    """Landmarks after the linear scaling to [-1, 1] are those of the scanner's own intensities."""
    volumes = [brain(6), brain(7, 0.8)]
    stretched = [np.where(v > -1, (v + 1) * (300 + 500 * i) + 20, -1) for i, v in enumerate(volumes)]
    first = learn(saved(tmp_path / "a", volumes), ["a", "b"], "")
    second = learn(saved(tmp_path / "b", stretched), ["a", "b"], "")
    assert first.landmarks == pytest.approx(second.landmarks, abs=1e-3)


def test_test_subjects_of_the_split_are_not_learned_from(tmp_path):
    rows = [
        Participant(name, "g", tmp_path, None, split=split)
        for name, split in (("a", "train"), ("b", "Test"), ("c", "n/a"))
    ]
    kept, whose = training_rows(rows, use_split=True)
    assert ([row.participant_id for row in kept], whose) == (["a", "c"], "training subjects of the split")
    kept, whose = training_rows(rows, use_split=False)
    assert (len(kept), whose) == (3, "all included participants")


def test_no_volume_to_learn_from_is_an_error():
    with pytest.raises(DataError, match="at least one participant"):
        learn([], [], "")


def test_the_slice_store_holds_harmonised_slices_and_says_so(tmp_path):
    volumes = {"a": brain(1), "b": brain(1, 0.5)}
    for name, image in volumes.items():
        save_nifti(tmp_path / f"{name}_image.nii.gz", image)
        save_nifti(tmp_path / f"{name}_mask.nii.gz", ball((16, 16, 16), 4).astype(np.uint8))
    rows = [Participant(name, "g", tmp_path, tmp_path) for name in volumes]

    def path(name, kind):
        return tmp_path / f"{name}_{kind}.nii.gz"

    found = learn([path(name, "image") for name in volumes], list(volumes), "all included participants")
    config = SlicesConfig(z_range=(11, 20), n_bins=5, min_lesion_mm2=36.0, min_tissue=0.05)
    build_store(rows, path, config, tmp_path / "plain")
    build_store(rows, path, config, tmp_path / "slices", landmarks=found)
    plain, store = SliceStore.open(tmp_path / "plain"), SliceStore.open(tmp_path / "slices")
    assert plain.facts["harmonise"] is None
    assert store.facts["harmonise"]["participants"] == ["a", "b"]
    assert store.facts["harmonise"]["learned_from"] == "all included participants"
    assert store.facts["harmonise"]["landmarks"] == list(found.landmarks)

    def apart(of):
        return (
            np.abs(of.images[of.participant == "a"] - of.images[of.participant == "b"]).astype(float).mean()
        )

    assert apart(store) < 0.1 * apart(plain)


def test_percentiles_of_the_whole_volume_do_not_go_with_it():
    with pytest.raises(
        ConfigError, match=r"preprocess.*harmonise: histogram requires percentiles_over: foreground"
    ):
        study_from_mapping({"preprocess": {"harmonise": "histogram", "percentiles_over": "volume"}})
