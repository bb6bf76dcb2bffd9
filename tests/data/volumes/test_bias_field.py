"""N4 on ICBM152 anatomy whose field is known."""

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk

from slimdiff.data.participants import DataError
from slimdiff.data.phantom.anatomy import templates
from slimdiff.data.volumes.bias_field import correct, shrink_factors

FEW = (5, 5)
"""Iterations, for time."""
GREY, WHITE, CSF, LESION = 1, 2, 3, 4
SIGNAL = np.array([0, 100, 75, 25, 130], float)


@cache
def labels() -> np.ndarray:
    """Grey and white matter, CSF and a ball of lesion, every fifth voxel of the template; 0 outside of the brain.

    Real anatomy, because N4 takes tissue for a field where it lies in shells.
    """
    grey, white, brain = (templates()[0][name][::5, ::5, ::5] for name in ("gm", "wm", "brain"))
    found = np.select([brain <= 0.5, (white > grey) & (white > 0.4), grey > 0.4], [0, WHITE, GREY], CSF)
    x, y, z = axes(found.shape)
    found[((x - 0.3) ** 2 + y**2 + (z - 0.2) ** 2 < 0.15**2) & (found == WHITE)] = LESION
    return found


def axes(shape: tuple[int, ...]) -> list[np.ndarray]:
    return np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")


def field() -> np.ndarray:
    x, y, z = axes(labels().shape)
    return np.exp(0.45 * np.sin(1.4 * x) + 0.3 * y * z - 0.3 * z**2 + 0.25 * y)


def measured(bias: np.ndarray | float = 1.0) -> np.ndarray:
    """Noise in the head, 0 outside of it."""
    noise = np.random.default_rng(0).normal(0, 1.0, labels().shape)
    return np.where(labels() > 0, SIGNAL[labels()] * bias + noise, 0).astype(np.float32)


def variation(values: np.ndarray, tissue: int) -> float:
    inside = values[labels() == tissue]
    return float(inside.std() / inside.mean())


def test_a_known_field_is_removed_and_the_lesion_kept():
    values = measured(field())
    corrected, used = correct(values, labels() > 0)
    for tissue in (GREY, WHITE):
        assert variation(values, tissue) > 0.2
        assert variation(corrected, tissue) < variation(values, tissue) / 8
    inside = labels() > 0
    estimated = np.log(values[inside] / corrected[inside])
    assert np.corrcoef(estimated, np.log(field())[inside])[0, 1] > 0.99
    contrast = corrected[labels() == LESION].mean() / corrected[labels() == WHITE].mean()
    assert contrast == pytest.approx(130 / 75, rel=0.03)
    # Units stay: the field's geometric mean is 1.
    assert abs(estimated.mean()) < 1e-3
    assert used["zero"] == 0 and used["shrink"] == [1, 1, 1]


def test_an_even_head_stays_as_it_is():
    corrected, _ = correct(measured(), labels() > 0)
    assert np.log(corrected[labels() > 0] / measured()[labels() > 0]).std() < 0.02


@pytest.mark.parametrize("offset", [-50.0, 40.0])
def test_an_offset_of_the_scale_does_not_change_the_field(offset):
    """The field multiplies signal, and signal begins where there is none, negative or not."""
    plain, _ = correct(measured(field()), labels() > 0, iterations=FEW)
    moved, used = correct(measured(field()) + np.float32(offset), labels() > 0, iterations=FEW)
    assert used["zero"] == offset
    np.testing.assert_allclose(moved - offset, plain, atol=0.1)


def test_small_negatives_stay_and_do_no_harm():
    """Interpolation leaves some around, and in, a skull-stripped brain."""
    values = measured(field())
    plain, _ = correct(values, labels() > 0, iterations=FEW)
    holes = np.zeros(values.shape, bool)
    holes[20, 20, 15:25] = holes[0, 0, :20] = True
    assert (labels()[holes] > 0).sum() == 10
    values[holes] = -16
    corrected, used = correct(values, labels() > 0, iterations=FEW)
    assert used["zero"] == 0
    assert np.isfinite(corrected).all() and (corrected[holes] < 0).all()
    np.testing.assert_allclose(corrected[~holes], plain[~holes], rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("shape", "shrink", "wanted"),
    [
        ((182, 218, 182), 4, (4, 4, 4)),
        ((320, 320, 36), 4, (4, 4, 1)),
        ((64, 95, 96), 4, (2, 2, 3)),
        ((30, 20, 256), 6, (1, 1, 6)),
    ],
)
def test_no_axis_is_thinned_below_32_voxels(shape, shrink, wanted):
    assert shrink_factors(shape, shrink) == wanted


def test_too_little_tissue_is_an_error():
    with pytest.raises(
        DataError, match=r"bias field: .* 1024 voxels.* found 27; set preprocess\.bias_field\.n4: false"
    ):
        inside = np.zeros(labels().shape, bool)
        inside[20:23, 20:23, 20:23] = True
        correct(measured() + 1, inside, shrink=1)


def test_the_same_image_gives_the_same_bits():
    """With any number of threads."""
    first, _ = correct(measured(field()), labels() > 0, iterations=FEW)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(3)
    try:
        second, _ = correct(measured(field()), labels() > 0, iterations=FEW)
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(first, second)
