"""Samples conditioned on a mask or on the surroundings of a lesion: the given part is kept bit for bit."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.tiny_sampling import EVERY_SAMPLER, assert_equal, generator_of, make_old, remake_samples

from slimdiff.diffusion.denoiser import HINT_SIGMA, Inpainted, lesion_hint
from slimdiff.diffusion.samplers import SAMPLERS
from slimdiff.diffusion.schedule import make_schedule, sampling_sigmas
from slimdiff.files import read_table
from slimdiff.generation.conditional import (
    conditional_requests,
    conditional_requests_of_bins,
    draw_until_lesion,
    fixed_mask,
    fixed_surroundings,
)
from slimdiff.generation.folder import Job
from slimdiff.generation.samples import read_samples

COVARIANCE = torch.tensor([[0.09, 0.06], [0.06, 0.08]], dtype=torch.float64)
CENTRE = torch.tensor([0.3, -0.4], dtype=torch.float64)


def joint(x, sigma, previous):
    """E[(image, mask) | noisy pair] where each pixel pair is Gaussian with correlated channels."""
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64))
    centred = x - CENTRE[:, None, None]
    return CENTRE[:, None, None] + torch.einsum("ij,bjhw->bihw", gain, centred)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim_ref"])
def test_the_known_part_follows_the_forward_process(name):
    """Its x is known + sigma noise at every noise level, as in training."""
    generator = torch.Generator().manual_seed(0)
    count = 4000
    known = torch.full((count, 2, 1, 1), 0.5, dtype=torch.float64)
    where = torch.tensor([False, True])[:, None, None].expand(count, 2, 1, 1)
    sigmas = sampling_sigmas(make_schedule("cosine", 1000), 12)
    seen = []

    def spy(x, sigma, previous):
        seen.append((sigma, (x[:, 1] - 0.5).flatten()))
        return joint(x, sigma, previous)

    def noise(step):
        return torch.randn((count, 2, 1, 1), generator=generator, dtype=torch.float64)

    first = noise(0)
    start = torch.where(where, known + sigmas[0] * first, first * math.sqrt(1 + sigmas[0] ** 2))
    drawn = SAMPLERS[name](Inpainted(spy, known, where), start, sigmas.tolist(), noise)
    for sigma, deviation in seen:
        assert deviation.mean().abs() < 4 * sigma / math.sqrt(count)
        assert deviation.std().item() == pytest.approx(sigma, rel=0.05)
    assert (drawn[:, 1] == 0.5).all()


def test_the_unknown_part_depends_on_the_known_part():
    """For Gaussian pairs the conditional mean is known; the chain moves from the marginal mean towards it.

    It does not reach it, because at each level the unknown part depends on the noisy known part. A stochastic chain
    forgets the noise of earlier levels and comes closer; docs/sampling.md recommends one here.
    """
    generator = torch.Generator().manual_seed(0)
    count = 4000
    first = torch.randn((count, 2, 1, 1), generator=generator, dtype=torch.float64)
    where = torch.tensor([False, True])[:, None, None].expand(count, 2, 1, 1)
    sigmas = sampling_sigmas(make_schedule("cosine", 1000), 100)

    def noise(step):
        return torch.randn((count, 2, 1, 1), generator=generator, dtype=torch.float64)

    slope = (COVARIANCE[0, 1] / COVARIANCE[1, 1]).item()
    went = {}
    for name, value in itertools.product(("dpmpp_2m", "ddpm"), (-1.0, 0.2)):
        known = torch.full((count, 2, 1, 1), value, dtype=torch.float64)
        start = torch.where(where, known + sigmas[0] * first, first * math.sqrt(1 + sigmas[0] ** 2))
        drawn = SAMPLERS[name](Inpainted(joint, known, where), start, sigmas.tolist(), noise)
        shift = drawn[:, 0].mean().item() - CENTRE[0].item()
        expected = slope * (value - CENTRE[1].item())
        went[name, value] = shift / expected
    for value in (-1.0, 0.2):
        assert 0.3 < went["dpmpp_2m", value] < went["ddpm", value] / 1.2 < 1


@pytest.fixture
def mask():
    drawn = np.zeros((32, 32), bool)
    drawn[10:14, 18:25] = True
    return drawn


@pytest.fixture
def slice_():
    return np.random.default_rng(0).uniform(-1, 1, (32, 32)).astype(np.float16)


@pytest.mark.parametrize("options", EVERY_SAMPLER, ids=["2m", "ddim-0.2", "ddim-0", "sde", "unipc", "ddpm"])
def test_a_given_mask_is_kept_and_its_images_differ(trained, mask, options):
    generator = generator_of(trained, **options)
    requests, known = conditional_requests(
        generator.card, generator.config, [fixed_mask(mask, 1, "mine"), fixed_mask(mask.T, 2, "other")], 2
    )
    images, masks = generator.draw(requests, fixed=known)
    for drawn, given in zip(masks, (mask, mask, mask.T, mask.T), strict=True):
        np.testing.assert_array_equal(drawn, np.where(given, 1, -1))
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4
    # The image depends on the mask: the same noise with another mask gives another image.
    moved, known = conditional_requests(
        generator.card, generator.config, [fixed_mask(np.roll(mask, 9, 0), 1, "moved")], 1
    )
    assert moved[0].key == requests[0].key
    assert (generator.draw(moved, fixed=known)[0][0] != images[0]).any()


@pytest.mark.parametrize("options", EVERY_SAMPLER, ids=["2m", "ddim-0.2", "ddim-0", "sde", "unipc", "ddpm"])
def test_outside_the_region_no_bit_changes(trained, slice_, mask, options):
    generator = generator_of(trained, **options)
    requests, known = conditional_requests(
        generator.card, generator.config, [fixed_surroundings(slice_, mask, 1, "mine")], 3
    )
    images, masks = generator.draw(requests, fixed=known)
    for image, drawn in zip(images, masks, strict=True):
        np.testing.assert_array_equal(image[~mask].view(np.uint16), slice_[~mask].view(np.uint16))
        assert (drawn[~mask] == -1).all()
        assert (image[mask] != slice_[mask]).any()
    assert len(np.unique(images.reshape(3, -1), axis=0)) == 3


def test_finishing_does_not_change_the_given_part(trained, slice_, mask):
    priors = np.zeros((3, 32, 32), bool)
    from helpers.tiny_sampling import CONFIG

    from slimdiff.generation.generator import Generator

    generator = Generator(trained, CONFIG.model_copy(update={"background": "prior", "binary": True}), priors)
    requests, known = conditional_requests(
        generator.card, generator.config, [fixed_surroundings(slice_, mask, 1, "mine")], 1
    )
    images, _ = generator.draw(requests, fixed=known)
    np.testing.assert_array_equal(images[0][~mask], slice_[~mask])
    # The prior is empty, so everything that was drawn is background.
    assert (images[0][mask] == -1).all()


def test_a_sample_does_not_depend_on_its_batch(trained, mask, slice_):
    given = [fixed_mask(mask, 1, "a"), fixed_surroundings(slice_, mask, 0, "b"), fixed_mask(mask, 2, "c")]
    generator = generator_of(trained)
    requests, known = conditional_requests(generator.card, generator.config, given, 2)
    whole = generator.draw(requests, fixed=known)
    alone = generator.draw(requests[3:4], fixed=tuple(part[3:4] for part in known))
    assert_equal(alone, [part[3:4] for part in whole])


def test_files_record_their_input_and_samples_can_be_remade(trained, mask, slice_, tmp_path):
    generator = generator_of(trained)
    given = [fixed_mask(mask, 1, "mine.png"), fixed_mask(mask[::-1], 1, "other.png")]
    requests, fixed = conditional_requests_of_bins(
        generator.card, generator.config, given, 2, "mask_to_image"
    )
    Job(trained, generator.config, tmp_path / "out", requests, fixed=fixed).draw(generator)
    rows = read_table(tmp_path / "out" / "zbin-01.tsv")
    assert [(row["mode"], row["source"], row["class"]) for row in rows] == [
        ("mask_to_image", "mine.png", "1"),
        ("mask_to_image", "mine.png", "1"),
        ("mask_to_image", "other.png", "1"),
        ("mask_to_image", "other.png", "1"),
    ]
    assert {int(row["lesion_px"]) for row in rows} == {int(mask.sum())}
    samples = read_samples(tmp_path / "out")
    np.testing.assert_array_equal(samples.masks[2], np.where(mask[::-1], 1, -1))
    names = [rows[1]["id"], rows[2]["id"]]
    same = remake_samples(tmp_path / "out" / "zbin-01.tsv", names, tmp_path / "again", device="cpu")
    assert same == dict.fromkeys(names, True)
    # The archive of a remade sample includes the fixed part, so it can be remade again.
    once_more = tmp_path / "again" / f"{names[1]}.tsv"
    assert remake_samples(once_more, names[1:], tmp_path / "third", device="cpu") == {names[1]: True}
    assert read_table(once_more)[0]["source"] == "other.png"
    # The old form has the same archive and the same columns, after its settings.
    make_old(tmp_path / "out")
    same = remake_samples(tmp_path / "out" / "zbin-01.tsv", names, tmp_path / "of_old", device="cpu")
    assert same == dict.fromkeys(names, True)
    assert read_table(tmp_path / "of_old" / f"{names[1]}.tsv")[0]["source"] == "other.png"


def test_samples_without_lesion_are_retried(trained, mask, slice_, monkeypatch):
    """Every attempt has new noise; samples with a lesion are not drawn again."""
    generator, requested = generator_of(trained), []
    draw = generator.draw

    def draw_two_lesions(requests, progress="", fixed=None):
        images, masks = draw(requests, progress, fixed)
        lesion = [len(requested) + place in (1, 5) for place in range(len(requests))]
        requested.extend(requests)
        return images, np.where(np.array(lesion)[:, None, None], np.float16(0.5), np.float16(-1)) + 0 * masks

    monkeypatch.setattr(generator, "draw", draw_two_lesions)
    given = [fixed_surroundings(slice_, mask, 1, "mine")]
    requests, _, _, masks = draw_until_lesion(generator, given, 3, 4)
    # Three samples; the two without lesion, twice; the last one. The sixth draw is of sample 0 and has a lesion.
    assert [request.index for request in requested] == [0, 1, 2, 0, 2, 0, 2, 2]
    assert ["attempt" in request.key for request in requested] == [False] * 3 + [True] * 5
    assert len({request.key for request in requested}) == 8
    assert (masks > 0).any(axis=(1, 2)).tolist() == [True, True, False]
    assert requests[0] is requested[5] and requests[1] is requested[1]


def test_invalid_inputs_are_refused(trained, mask, slice_):
    generator = generator_of(trained)
    with pytest.raises(ValueError, match="mine: .* in z-bin 3; expected .* z-bins 0 to 2"):
        conditional_requests(generator.card, generator.config, [fixed_mask(mask, 3, "mine")], 1)
    with pytest.raises(ValueError, match=r"mine: \(16, 32\) px"):
        conditional_requests(generator.card, generator.config, [fixed_mask(mask[:16], 0, "mine")], 1)
    for region in (np.zeros_like(mask), np.ones_like(mask)):
        with pytest.raises(ValueError, match="mine: expected a region with pixels inside and outside"):
            fixed_surroundings(slice_, region, 0, "mine")


def test_the_lesion_hint_is_inside_the_region_only():
    region = torch.zeros(3, 1, 20, 20, dtype=torch.bool)
    region[0, 0, 4:14, 5:12] = True
    region[1, 0, 4:7, 5:8] = True
    mask_known = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    where = torch.cat([~region, ~region], dim=1)
    where[2] = torch.cat([torch.zeros_like(mask_known), mask_known], dim=1)[0]
    hint = lesion_hint(where)
    expected = torch.zeros_like(hint)
    expected[0, 1, 6:12, 7:10] = True
    # A region too small for a margin is filled. A given mask has no hint.
    expected[1, 1, 4:7, 5:8] = True
    assert torch.equal(hint, expected)


def test_the_hint_acts_at_high_noise_only():
    known, where = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    hinted = where.clone()
    hinted[0, 1, 1:3, 1:3] = True
    denoiser = Inpainted(lambda x, sigma, previous: torch.full_like(x, -0.5), known, where, hinted)
    for sigma, value in ((HINT_SIGMA * 1.01, 1.0), (HINT_SIGMA, -0.5), (0.01, -0.5)):
        estimate = denoiser(known, sigma, None)
        assert (estimate[hinted] == value).all()
        assert (estimate[~hinted] == -0.5).all()
