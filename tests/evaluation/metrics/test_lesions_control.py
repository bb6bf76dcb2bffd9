import numpy as np
import pytest

from slimdiff.evaluation.metrics.binary_masks import has_lesion, lesion_area
from slimdiff.evaluation.metrics.lesions import class_fidelity, components


def masks_with(*sizes):
    masks = np.zeros((len(sizes), 16, 16), bool)
    for mask, size in zip(masks, sizes, strict=True):
        mask[2, 2 : 2 + size] = True
    return masks


def test_fidelity_is_counted_per_class():
    masks, classes = masks_with(8, 4, 0, 6, 0, 3), np.array([1, 1, 1, 0, 0, 0])
    found = class_fidelity(masks, classes)
    assert found.lesion_share == pytest.approx(1 / 3)
    assert found.clean_share == pytest.approx(2 / 3)
    assert (found.n_lesion, found.n_clean) == (3, 3)
    assert class_fidelity(masks, classes, min_px=4).lesion_share == pytest.approx(2 / 3)


def test_continuous_masks_are_thresholded_at_tau():
    soft = np.where(masks_with(8, 0), 0.15, -1.0).astype(np.float16)
    assert has_lesion(soft).tolist() == [True, False]
    assert has_lesion(soft, tau=0.2).tolist() == [False, False]


def test_a_class_without_slices_is_nan():
    found = class_fidelity(masks_with(8, 9), np.array([1, 1]))
    assert found.lesion_share == 1
    assert np.isnan(found.clean_share)


@pytest.mark.parametrize("classes", [np.array([1]), np.array([1, 2])])
def test_invalid_classes_are_refused(classes):
    with pytest.raises(ValueError, match="classes of 0 or 1"):
        class_fidelity(masks_with(8, 9), classes)


def test_area_and_lesions_agree_with_the_components_one_by_one(slice_pairs):
    _, masks = slice_pairs
    masks = masks & (np.random.default_rng(0).random(masks.shape) < 0.6)
    masks[3] = False
    for least in (1, 5, 20):
        found = [components(mask, least) for mask in masks]
        assert lesion_area(masks, min_px=least).tolist() == [
            sum(int(c.sum()) for c in each) for each in found
        ]
        assert has_lesion(masks, min_px=least).tolist() == [len(each) > 0 for each in found]
    assert lesion_area(masks[:0]).tolist() == has_lesion(masks[:0]).tolist() == []


def test_specks_do_not_count_as_area():
    mask = masks_with(6)
    mask[0, 10, 10:13] = True
    assert lesion_area(mask).tolist() == [6]
    assert lesion_area(mask, min_px=1).tolist() == [9]
