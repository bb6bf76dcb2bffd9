import numpy as np
import pytest
from scipy import ndimage

from slimdiff.evaluation.metrics.profiles import ROUNDING_POWER, radial_spectra, spectrum_distance


def slow_spectrum(image: np.ndarray) -> np.ndarray:
    """Ring by ring over the whole two-dimensional spectrum."""
    height, width = image.shape
    power = np.abs(np.fft.fft2(image.astype(np.float64) + 1)) ** 2 / (height * width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    count = min(height, width) // 2
    means = []
    for ring in range(count):
        centre, step = 0.5 * (ring + 1) / count, 0.5 / count
        inside = (radius > centre - step / 2) & (radius < centre + step / 2)
        means.append(power[inside].mean())
    return 10 * np.log10(np.array(means) + ROUNDING_POWER)


@pytest.mark.parametrize("shape", [(32, 32), (30, 41), (27, 61)])
def test_spectrum_agrees_with_explicit_rings(shape):
    images = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float16)
    for found, image in zip(radial_spectra(images), images, strict=True):
        np.testing.assert_allclose(found, slow_spectrum(image.astype(np.float32)), rtol=1e-4, atol=1e-4)


def test_white_noise_has_its_variance_at_every_frequency():
    images = np.random.default_rng(1).normal(0, 0.1, (200, 64, 64)).astype(np.float32)
    mean = radial_spectra(images).mean(axis=0)
    assert mean == pytest.approx(-20, abs=0.5)
    assert spectrum_distance(mean, radial_spectra(images / 2).mean(axis=0)) == pytest.approx(6.02, abs=0.1)


def test_a_wave_lies_in_its_ring_and_nowhere_else():
    x = np.arange(64)
    wave = np.broadcast_to(0.5 * np.cos(2 * np.pi * 10 / 64 * x), (1, 64, 64)).astype(np.float32)
    (found,) = radial_spectra(wave)
    assert found.argmax() + 1 == 10
    assert np.sort(found)[-2] < found.max() - 30


def test_blur_lowers_and_speckle_raises_the_high_frequencies(slice_pairs):
    images = slice_pairs[0].astype(np.float32)
    generator = np.random.default_rng(2)
    blurred = np.stack([ndimage.gaussian_filter(image, 1) for image in images])
    speckled = np.clip(images + generator.normal(0, 0.15, images.shape).astype(np.float32), -1, 1)
    plain, soft, rough = (radial_spectra(x).mean(axis=0) for x in (images, blurred, speckled))
    high = slice(24, 32)
    assert soft[high].mean() < plain[high].mean() - 3 < rough[high].mean() - 6
    assert min(spectrum_distance(plain, soft), spectrum_distance(plain, rough)) > 1


def test_empty_slices_are_finite():
    assert radial_spectra(np.full((2, 32, 32), -1, np.float16)) == pytest.approx(
        10 * np.log10(ROUNDING_POWER)
    )
