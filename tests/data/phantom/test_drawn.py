"""Slices of random heads: determined by number and seed, plausible, and as the configuration asks."""

import numpy as np
import pytest
import torch

from slimdiff.config.data import AnatomyConfig
from slimdiff.data.phantom.drawn import UNIFORM, SliceDrawer, _blurred, _Scalars

CPU = torch.device("cpu")
ALL, NONE = np.ones(96, bool), np.zeros(96, bool)
NUMBERS = np.arange(96)


def drawer(seed=0, size=(32, 32), spacing_mm=6.0, min_lesion_mm2=72.0, **config):
    return SliceDrawer(AnatomyConfig(**config), size, spacing_mm, min_lesion_mm2, seed, CPU)


@pytest.fixture(scope="module")
def flair():
    return drawer().draw(NUMBERS, ALL)


def test_number_and_seed_determine_a_slice_in_any_batch(flair):
    some = drawer().draw(NUMBERS[[70, 3]], ALL[:2])
    torch.testing.assert_close(some.x0, flair.x0[[70, 3]], rtol=0, atol=1e-5)
    assert torch.equal(some.height, flair.height[[70, 3]])
    again = drawer().draw(NUMBERS, ALL)
    assert torch.equal(again.x0, flair.x0)
    assert not torch.equal(drawer(seed=1).draw(NUMBERS, ALL).x0, flair.x0)


def test_no_two_slices_are_alike(flair):
    images = flair.x0[:, 0].flatten(1)
    distance = torch.cdist(images, images) + 99 * torch.eye(len(images))
    assert distance.min() > 1


def test_values_are_those_of_a_preprocessed_slice(flair):
    image, mask = flair.x0.unbind(1)
    assert torch.isfinite(flair.x0).all() and flair.x0.abs().max() <= 1
    assert set(mask.unique().tolist()) == {-1.0, 1.0}
    at_border = (image[:, [0, -1]] > -1).any(dim=(1, 2)) | (image[:, :, [0, -1]] > -1).any(dim=(1, 2))
    assert at_border.float().mean() < 0.1, "few heads reach the border"
    share = (image > -0.95).float().mean(dim=(1, 2))
    assert 0.15 < share.median() < 0.5


def test_the_brain_is_widest_at_half_its_height(flair):
    area = (flair.x0[:, 0] > -0.95).float().sum(dim=(1, 2))
    middle = area[(flair.height - 0.5).abs() < 0.15].mean()
    ends = area[(flair.height - 0.5).abs() > 0.4].mean()
    assert middle > 2 * ends


def test_lesions_are_there_when_asked_and_only_then(flair):
    area = (flair.x0[:, 1] > 0).sum(dim=(1, 2))
    assert torch.equal(flair.label, (area > 0).long())
    assert flair.label.float().mean() > 0.8
    assert area[area > 0].min() >= 2, "the smallest lesion is of 2 px"
    assert area.max() > 10 * area[area > 0].float().quantile(0.2), "of many sizes"
    without = drawer().draw(NUMBERS, NONE)
    assert not without.label.any() and (without.x0[:, 1] == -1).all()


def test_with_flair_lesions_are_brighter_than_the_tissue_around_them(flair):
    """But for those with a dark core."""
    image, mask = flair.x0.unbind(1)
    brighter = [
        float(one[inside > 0].mean() > one[(inside < 0) & (one > -0.95)].mean())
        for one, inside in zip(image, mask, strict=True)
        if (inside > 0).any()
    ]
    assert np.mean(brighter) > 0.8
    other = drawer(contrast="any").draw(NUMBERS, ALL).x0
    darker = [
        float(one[inside > 0].mean() < one[(inside < 0) & (one > -0.95)].mean())
        for one, inside in zip(other[:, 0], other[:, 1], strict=True)
        if (inside > 0).any()
    ]
    assert 0.2 < np.mean(darker) < 0.8


def test_tissues_have_the_contrast_of_flair_or_any():
    """Fluid is the darkest tissue of a FLAIR image; with any contrast it is the brightest of some."""
    for contrast, least, most in (("flair", 1.0, 1.0), ("any", 0.15, 0.85)):
        own = drawer(contrast=contrast)
        scalars = _Scalars(torch.rand((200, UNIFORM), generator=torch.Generator().manual_seed(0)))
        flat = torch.zeros((200, *own.size))
        fluid, grey = ({"csf": flat, "gm": flat, "wm": flat} | {name: flat + 1} for name in ("csf", "gm"))
        fields = {
            name: torch.zeros((200, count, *own.size))
            for name, (_, count) in (("fine", (6, 1)), ("patchy", (20, 1)))
        }
        used = scalars.used
        dark, _ = own._contrast(scalars, fluid, fields)
        scalars.used = used
        bright, _ = own._contrast(scalars, grey, fields)
        assert least <= (dark < bright).float().mean() <= most


def test_skulls_are_around_their_share_of_the_heads():
    alone, heads = (
        drawer(skull=share, size=(48, 48), spacing_mm=5.0).draw(NUMBERS, NONE).x0[:, 0] for share in (0, 1)
    )
    half = drawer(skull=0.5, size=(48, 48), spacing_mm=5.0).draw(NUMBERS, NONE).x0[:, 0]
    share = (
        ((half > -0.95).float().mean(dim=(1, 2)) > (alone > -0.95).float().mean(dim=(1, 2)) + 0.01)
        .float()
        .mean()
    )
    assert (heads > -0.95).float().mean() > 1.2 * (alone > -0.95).float().mean()
    assert 0.3 < share < 0.7


def test_the_point_spread_keeps_the_sum_and_widens():
    spots = torch.zeros((2, 15, 15))
    spots[:, 7, 7] = 1
    found = _blurred(spots, torch.tensor([0.4, 0.9]))
    assert torch.allclose(found.sum(dim=(1, 2)), torch.ones(2))
    assert found[0, 7, 7] > 3 * found[1, 7, 7]


def test_not_more_numbers_are_used_than_drawn():
    own = drawer()
    used = []
    original = _Scalars.__call__

    def counted(self, *limits):
        result = original(self, *limits)
        used.append(self.used)
        return result

    _Scalars.__call__ = counted
    try:
        own.draw(NUMBERS[:1], ALL[:1])
    finally:
        _Scalars.__call__ = original
    assert 50 < max(used) <= UNIFORM
