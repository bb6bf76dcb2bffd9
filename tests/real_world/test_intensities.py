"""Images whose background is not their darkest value: stripped, and scaled to a mean of 0."""

import numpy as np
import pytest
from helpers.synthetic import ball, head
from helpers.tiny_volumes import run

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import Participant
from slimdiff.data.quality.exclusion import verdicts
from slimdiff.data.quality.measure import measure
from slimdiff.data.volumes.foreground import background_within, foreground, with_dark_background

LESION = ball((12, 14, 16), 3.5).astype(np.uint8)


def z_scored(volume):
    """Mean 0 and SD 1 within the head, 0 outside."""
    inside = volume > 0
    scaled = (volume - volume[inside].mean()) / volume[inside].std()
    return np.where(inside, scaled, 0).astype(np.float32)


def darkened(volume):
    return with_dark_background(volume, background_within(volume))


def test_a_z_scored_head_is_preprocessed_as_the_head_itself(tmp_path):
    """On its own grid nothing is interpolated: the same foreground, and the same grey levels."""
    expected = run(tmp_path / "a", head(1), LESION)
    found = run(tmp_path / "b", z_scored(head(1)), LESION)
    np.testing.assert_array_equal(found[0] > -1, expected[0] > -1)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    steps = [step for step in found[3]["history"] if step["step"] == "darken_background"]
    assert steps == [{"step": "darken_background", "from": 0.0, "to": pytest.approx(steps[0]["to"])}]
    assert steps[0]["to"] < z_scored(head(1)).min()
    assert "darken_background" not in [step["step"] for step in expected[3]["history"]]


def test_the_head_of_a_z_scored_image_is_whole():
    volume = z_scored(head(1))
    # Otsu's threshold of the image as it is takes the background for the head.
    assert not np.array_equal(foreground(volume), head(1) > 0)
    np.testing.assert_array_equal(foreground(darkened(volume)), head(1) > 0)


def test_background_inside_the_head_is_brain():
    volume = z_scored(head(1))
    volume[15:17, 15:17, 15:17] = 0
    found = darkened(volume)
    assert (found[15:17, 15:17, 15:17] == 0).all()
    assert (found[head(1) <= 0] == found.min()).all()


@pytest.mark.parametrize("change", [0, 50, -50])
def test_a_dark_background_is_left_alone(change):
    volume = head(1) + np.float32(change)
    assert background_within(volume) is None
    assert darkened(volume) is volume


def test_dark_edges_of_resampling_are_no_brain():
    """A background of 0, and 2 % of the head below it, as after interpolation by splines."""
    volume = head(1)
    inside = np.flatnonzero(volume > 0)
    volume.ravel()[np.random.default_rng(0).choice(inside, len(inside) // 50, replace=False)] = -8
    assert background_within(volume) is None


def test_noise_in_the_background_is_no_single_value():
    noisy = head(1) + np.random.default_rng(0).normal(0, 3, (32, 32, 32)).astype(np.float32)
    assert background_within(noisy) is None


def test_it_is_shown(tmp_path):
    import nibabel

    path = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(z_scored(head(1)), np.diag([6.0, 6, 6, 1])), path)
    mask = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(LESION, np.diag([6.0, 6, 6, 1])), mask)
    row, config = Participant("sub-1", "patient", path, mask), DataConfig(source="bids", root="x")
    quality = QualityConfig(max_spacing_mm=7.0)
    (verdict,) = verdicts([row], {"sub-1": measure(row, config)}, quality, config)
    assert "background_within" in [flag.name for flag in verdict.shown] and not verdict.stopping
