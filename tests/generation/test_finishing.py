"""Steps after drawing: background outside the brain by default, exact, recorded in the settings."""

import numpy as np
import pytest
from helpers.tiny_sampling import (
    CONFIG,
    assert_equal,
    fill,
    generator_of,
    mixed_requests,
    remake_samples,
    settings_in,
)
from scipy import ndimage

from slimdiff.data.priors import read_priors
from slimdiff.files import read_table
from slimdiff.generation.finishing import DARK, outside_of_brain
from slimdiff.generation.generator import Generator
from slimdiff.generation.samples import read_samples


@pytest.fixture
def priors():
    maps = np.zeros((3, 32, 32), bool)
    for z_bin in range(3):
        maps[z_bin, 4 + z_bin : 20, 6:25] = True
    return maps


def finished(trained, priors=None, **changes):
    return Generator(trained, CONFIG.model_copy(update=changes), priors)


def test_by_default_background_outside_the_brain_and_the_priors_are_not_used(trained, priors):
    requests = mixed_requests()
    assert_equal(
        finished(trained, priors).draw(requests),
        generator_of(trained, background="outside", binary=False).draw(requests),
    )


def test_outside_the_prior_of_its_z_bin_a_sample_is_background(trained, priors):
    requests = mixed_requests()
    drawn = generator_of(trained, background="drawn").draw(requests)
    for found, plain in zip(finished(trained, priors, background="prior").draw(requests), drawn, strict=True):
        for slice_found, slice_plain, request in zip(found, plain, requests, strict=True):
            inside = priors[request.z_bin]
            np.testing.assert_array_equal(slice_found[inside], slice_plain[inside])
            assert (slice_found[~inside] == -1).all()
    assert found.dtype == np.float16


def test_masks_are_thresholded_at_tau_and_images_are_not(trained):
    requests = mixed_requests()
    images, masks = generator_of(trained).draw(requests)
    # A threshold between two values of the masks.
    tau = float(np.median(masks.astype(np.float64))) + 1e-4
    cut_images, cut = finished(trained, binary=True, tau=tau).draw(requests)
    assert_equal((cut_images,), (images,))
    np.testing.assert_array_equal(cut, np.where(masks.astype(np.float64) > tau, 1, -1))
    assert set(np.unique(cut)) == {-1, 1}


def test_the_settings_record_finishing_and_the_sample_can_be_remade(trained, priors, tmp_path):
    np.savez(tmp_path / "priors.npz", priors=priors)
    fill(finished(trained, priors, background="prior", binary=True, tau=-0.2), None, tmp_path / "samples")
    row = read_table(tmp_path / "samples" / "zbin-01.tsv")[0]
    settings = settings_in(tmp_path / "samples" / "zbin-01")
    found = settings["generation"]
    assert (found["background"], found["binary"], found["tau"]) == ("prior", True, -0.2)
    assert len(settings["priors_sha256"]) == 64
    samples = read_samples(tmp_path / "samples")
    rows = [row for b in range(3) for row in read_table(tmp_path / "samples" / f"zbin-{b:02d}.tsv")]
    assert [int(row["lesion_px"]) for row in rows] == (samples.masks > 0).sum(axis=(1, 2)).tolist()
    manifest = tmp_path / "samples" / "zbin-01.tsv"
    with pytest.raises(ValueError, match="--priors"):
        remake_samples(manifest, [row["id"]], tmp_path / "again", device="cpu")
    np.savez(tmp_path / "others.npz", priors=~priors)
    with pytest.raises(ValueError, match="priors .* another sha256"):
        remake_samples(
            manifest, [row["id"]], tmp_path / "again", priors=tmp_path / "others.npz", device="cpu"
        )
    same = remake_samples(
        manifest, [row["id"]], tmp_path / "again", priors=tmp_path / "priors.npz", device="cpu"
    )
    assert same == {row["id"]: True}


def test_missing_or_mismatching_priors_are_refused(trained, priors, tmp_path):
    with pytest.raises(ValueError, match="no z-bin priors are given"):
        finished(trained, background="prior")
    with pytest.raises(ValueError, match=r"\(2, 32, 32\)"):
        finished(trained, priors[:2], background="prior")
    with pytest.raises(ValueError, match="uint8"):
        finished(trained, priors.astype(np.uint8), background="prior")
    with pytest.raises(FileNotFoundError, match="slimdiff-priors"):
        read_priors(tmp_path / "absent.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"broken\.npz"):
        read_priors(tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", maps=priors)
    with pytest.raises(ValueError, match=r"other\.npz"):
        read_priors(tmp_path / "other.npz")


BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16


def ring_of_glow(side=32):
    """A bright disc with a dark centre, and a faint glow around it."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(x, y)
    image = np.full((side, side), -1.0)
    image[radius < 12] = -0.9
    image[radius < 9] = 0.2
    image[radius < 4] = -0.95
    return image.astype(np.float16), radius


def test_the_glow_outside_the_brain_becomes_background_and_dark_structures_within_stay():
    image, radius = ring_of_glow()
    outside = outside_of_brain(image[None])[0]
    assert outside[radius > 10.5].all()
    assert not outside[radius < 8].any()


def test_only_what_is_connected_to_the_border_is_outside():
    image, radius = ring_of_glow()
    image[(radius >= 9) & (radius < 12)] = -1.0
    both = np.stack([image, np.full_like(image, -1.0), np.full_like(image, 0.5)])
    outside = outside_of_brain(both)
    assert outside[1].all() and not outside[2].any()
    mostly_dark = ndimage.convolve((image <= DARK).astype(float), np.outer(BINOMIAL, BINOMIAL)) > 0.5
    expected = ndimage.label(mostly_dark)[0]
    np.testing.assert_array_equal(outside[0], expected == expected[0, 0])


def test_a_frayed_outline_becomes_even_and_a_straight_one_stays():
    columns = np.indices((32, 32))[1]
    straight = np.where(columns < 16, -1.0, 0.2)
    frayed = straight.copy()
    # Single bright pixels and a spike of 1 px outside the brain; a single dark pixel inside.
    frayed[5, 3] = frayed[20, 12:16] = 0.2
    frayed[26, 20] = -1.0
    outside = outside_of_brain(np.stack([straight, frayed]).astype(np.float16))
    np.testing.assert_array_equal(outside[0], columns < 16)
    # The foot of the spike stays.
    outside[1, 20, 15] = True
    np.testing.assert_array_equal(outside[1], columns < 16)


def test_outside_changes_the_image_only(trained):
    plain, finished = (
        generator_of(trained, background=background).draw(mixed_requests())
        for background in ("drawn", "outside")
    )
    np.testing.assert_array_equal(plain[1], finished[1])
    where = outside_of_brain(plain[0])
    assert where.any() and not where.all()
    np.testing.assert_array_equal(finished[0], np.where(where, np.float16(-1), plain[0]))
