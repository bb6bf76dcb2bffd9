"""Metrics on real slices of two patients, for changes whose effect is known."""

from functools import cache, partial

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.slices import axial
from slimdiff.data.volumes.grid import Grid, canonical, native_grid, resample
from slimdiff.data.volumes.preprocess import normalise
from slimdiff.evaluation.metrics import lesion_contrast, mmd
from slimdiff.evaluation.metrics.features import extract
from slimdiff.evaluation.metrics.fid import fid
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.lesions import component_features
from slimdiff.evaluation.metrics.lpips import lpips_distance
from slimdiff.evaluation.metrics.profiles import (
    brain_histograms,
    histogram_distance,
    radial_spectra,
    spectrum_distance,
)
from slimdiff.evaluation.statistics.bootstrap import Resampling, resampled_means

HEIGHTS = range(60, 110)
# Damage: patient, levels, and the metrics that must increase. The patients differ before any damage: for KID, slight
# noise makes patient 19's slices more like 07's, slight blur makes 07's more like 19's, and a brighter brain does both.
DAMAGES = {
    "noise": ("07", (0, 0.05, 0.1, 0.2), ("kid", "fid", "lpips", "spectrum")),
    "blur": ("19", (0, 0.5, 1.0, 2.0), ("kid", "fid", "lpips", "spectrum", "brain_histogram")),
    "shift": ("19", (0, 12, 24, 32), ("kid", "fid", "lpips")),
    "brightness": ("07", (0, 0.1, 0.2, 0.4), ("brain_histogram",)),
}


@pytest.fixture(scope="module")
def patient(open_ms):
    """A function: patient number -> images float16 (N, H, W) and masks bool, preprocessed as every volume is."""

    @cache
    def slices(number: str) -> tuple[np.ndarray, np.ndarray]:
        config = PreprocessConfig(spacing_mm=1.25, grid=(160, 160, 160))
        flair = nibabel.load(open_ms / f"patient{number}_FLAIR_MNI.nii.gz")
        lesion = nibabel.load(open_ms / f"patient{number}_lesion_MNI.nii.gz")
        volume, mask = to_slices(flair, lesion, config)
        return (
            np.stack([axial(volume, z) for z in HEIGHTS]).astype(np.float16),
            np.stack([axial(mask, z) for z in HEIGHTS]) > 0,
        )

    return slices


def to_slices(flair, lesion, config) -> tuple[np.ndarray, np.ndarray]:
    values, affine = canonical(np.asarray(flair.dataobj, dtype=np.float32), flair.affine)
    labels, _ = canonical(np.asarray(lesion.dataobj) > 0, lesion.affine)
    grid = native_grid(Grid(values.shape, affine), config.spacing_mm, config.grid)
    volume = resample(values, affine, grid, outside=float(values.min()))
    return normalise(volume, config)[0], resample(labels, affine, grid, linear=False)


def changed(images: np.ndarray, how: str, level: float) -> np.ndarray:
    """Noise of sd `level` in the brain, a blur or shift of `level` px, or a brain brighter by `level`."""
    images = images.astype(np.float32)
    if how == "noise":
        noise = np.random.default_rng(5).normal(0, level, images.shape)
        images = np.where(images > -0.95, images + noise, images)
    elif how == "blur" and level:
        images = np.stack([ndimage.gaussian_filter(image, level) for image in images])
    elif how == "shift":
        images = np.stack([ndimage.shift(image, (level, 0), order=0, cval=-1) for image in images])
    elif how == "brightness":
        images = np.where(images > -0.95, images + level, images)
    return np.clip(images, -1, 1).astype(np.float16)


@cache
def features_of(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return extract(np.frombuffer(bytearray(content), np.uint8).reshape(shape), "alexnet", progress=False)


def features(images: np.ndarray) -> np.ndarray:
    grey = to_uint8(images)
    return features_of(grey.tobytes(), grey.shape)


def between_means(profile, distance, a: np.ndarray, b: np.ndarray) -> float:
    return float(distance(profile(a).mean(axis=0), profile(b).mean(axis=0)))


IMAGE_METRICS = {
    "kid": lambda a, b: kid(features(a), features(b), seed=0).value,
    "fid": lambda a, b: fid(features(a), features(b)),
    "lpips": lambda a, b: float(lpips_distance(a, b).mean()),
    "spectrum": partial(between_means, radial_spectra, spectrum_distance),
    "brain_histogram": partial(between_means, brain_histograms, histogram_distance),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_metrics_of_one_patient_against_the_other_rise_with_every_step_of_damage(patient, alexnet, how):
    number, levels, seen_by = DAMAGES[how]
    own, other = patient(number)[0], patient({"07": "19", "19": "07"}[number])[0]
    for name in seen_by:
        values = [IMAGE_METRICS[name](other, changed(own, how, level)) for level in levels]
        assert (np.diff(values) > 0).all(), (name, values)


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_far_above_the_difference_of_interleaved_halves(patient, alexnet, how):
    number, levels, seen_by = DAMAGES[how]
    own = patient(number)[0]
    for name in seen_by:
        halves = IMAGE_METRICS[name](own[::2], own[1::2])
        assert IMAGE_METRICS[name](own[::2], changed(own[1::2], how, levels[-1])) > 1.2 * halves, name


def test_spectrum_and_histogram_hardly_depend_on_position(patient):
    own = patient("19")[0]
    for name in ("spectrum", "brain_histogram"):
        metric = IMAGE_METRICS[name]
        assert metric(own, changed(own, "shift", 12)) < 0.05 * metric(own, changed(own, "blur", 1.0))


@pytest.mark.parametrize("number", ["07", "19"])
def test_interleaved_halves_of_one_patient_are_equal_within_the_interval(patient, alexnet, number):
    """Blocks of neighbouring slices are used as subjects: one patient has no other independent parts."""
    images, lesions = patient(number)
    first, second = images[::2], images[1::2]
    blocks = np.arange(len(first)) // 3
    resampling = Resampling.of(blocks, 400, 0)

    of_first, of_second = features(first), features(second)
    interval = resampling.percentile(
        mmd.resampled_mmd2(of_first, of_second, resampling.index, resampling.counts)
    )
    assert interval.low <= 0 <= interval.high
    # FID is far from 0 for 25 slices, so it is compared with the FID of random halves.
    both, generator = np.concatenate([of_first, of_second]), np.random.default_rng(0)
    equal = [fid(*np.split(both[generator.permutation(len(both))], 2)) for _ in range(40)]
    assert fid(of_first, of_second) < np.quantile(equal, 0.9)

    for profile, distance in ((radial_spectra, spectrum_distance), (brain_histograms, histogram_distance)):
        real, middle = profile(first), profile(second).mean(axis=0)
        resampled = distance(resampled_means(real, resampling.index, resampling.counts), middle)
        value = float(distance(real.mean(axis=0), middle))
        assert resampling.distance(value, resampled).low == 0

    tables = [component_features(part) for part in (lesions[::2], lesions[1::2])]
    for (real, slices), (drawn, _) in (
        tables,
        [lesion_contrast.pair_features(images[k::2], lesions[k::2]) for k in (0, 1)],
    ):
        chosen = Resampling.of(blocks[slices], 400, 0)
        interval = chosen.percentile(
            mmd.resampled_mmd2(*mmd.standardise(real, drawn), chosen.index, chosen.counts)
        )
        assert interval.low <= 0 <= interval.high


def test_shifted_masks_do_not_match_the_lesions(patient):
    """MMD-PL detects that masks were shifted; MMD-MF cannot."""
    images, lesions = patient("19")
    moved = np.roll(lesions, 25, axis=2)
    shapes = [component_features(part)[0] for part in (lesions, moved)]
    assert np.allclose(*shapes)
    contrast = [lesion_contrast.pair_features(images, part)[0] for part in (lesions, moved)]
    delta = lesion_contrast.FEATURES.index("delta")
    assert np.median(contrast[0][:, delta]) > 0.1 > np.median(contrast[1][:, delta])
    assert lesion_contrast.mmd_pl(contrast[0], contrast[1]).mmd > 1


def test_batch_size_and_order_do_not_matter(patient, alexnet):
    images = patient("07")[0][:20]
    grey = to_uint8(images)
    shuffled = np.random.default_rng(0).permutation(len(grey))
    reference = features(patient("19")[0][:20])
    plain = extract(grey, "alexnet", progress=False)
    for batch_size in (1, 7):
        other = extract(grey[shuffled], "alexnet", batch_size=batch_size, progress=False)
        assert np.abs(other - plain[shuffled]).max() < 1e-4
        assert fid(reference, other) == pytest.approx(fid(reference, plain), rel=1e-4)
        # Subsets that leave out most of the slices.
        values = [kid(reference, found, seed=0, subsets=10, subset_size=8).value for found in (plain, other)]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    for profile in (radial_spectra, brain_histograms):
        np.testing.assert_allclose(profile(images[shuffled]), profile(images)[shuffled])
