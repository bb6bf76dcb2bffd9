"""Dice, sensitivity and false positives, counted by hand; empty masks are counted, not scored."""

import numpy as np
import pytest
from scipy import ndimage

from slimdiff.evaluation.utility.scores import score_slices


def empty(n=1):
    return np.zeros((n, 12, 12), bool)


def test_counts_of_a_slice_by_hand():
    truth, prediction = empty(), empty()
    truth[0, 1:4, 1:4] = True  # 9 px, of which 3 are predicted
    truth[0, 8:10, 8:11] = True  # 6 px, missed
    truth[0, 6, 1:3] = True  # 2 px, too small to count as a lesion
    prediction[0, 3, 1:6] = True  # 5 px over the first
    prediction[0, 0:5, 9] = True  # 5 px outside any lesion
    prediction[0, 11, 0:3] = True  # 3 px outside any lesion, too small to count
    scores = score_slices(truth, prediction, min_px=5)
    counts = {name: int(value[0]) for name, value in vars(scores).items()}
    assert counts == {
        "slices": 1,
        "empty_slices": 0,
        "empty_with_false_positive": 0,
        "true_px": 17,
        "predicted_px": 13,
        "overlap_px": 3,
        "lesions": 2,
        "found": 1,
        "false_positives": 1,
    }
    assert scores.dice[0] == pytest.approx(6 / 30)
    assert scores.sensitivity[0] == 0.5
    assert scores.false_positives_per_slice[0] == 1
    assert np.isnan(scores.false_positive_share_empty[0])


def test_a_speck_neither_finds_a_lesion_nor_is_a_false_positive_but_counts_in_dice():
    truth, prediction = empty(), empty()
    truth[0, 2:5, 2:5] = True
    prediction[0, 2, 2] = True
    scores = score_slices(truth, prediction, min_px=2)
    assert (scores.found[0], scores.false_positives[0]) == (0, 0)
    assert scores.dice[0] == pytest.approx(2 / 10)
    assert score_slices(truth, prediction, min_px=1).found[0] == 1


def test_components_are_four_connected():
    truth = empty()
    truth[0, 2:4, 2:4] = truth[0, 4:6, 4:6] = True
    assert score_slices(truth, truth, min_px=4).lesions[0] == 2


def test_a_prediction_over_a_lesion_too_small_to_count_is_no_false_positive():
    truth, prediction = empty(), empty()
    truth[0, 5, 5] = True
    prediction[0, 4:7, 4:7] = True
    scores = score_slices(truth, prediction, min_px=5)
    assert (scores.lesions[0], scores.found[0], scores.false_positives[0]) == (0, 0, 0)
    assert np.isnan(scores.sensitivity[0])


@pytest.mark.parametrize("predicted", [False, True])
def test_empty_masks_have_no_dice_whatever_is_predicted(predicted):
    prediction = empty(3)
    prediction[0, 2:6, 2:6] = predicted
    scores = score_slices(empty(3), prediction, min_px=5)
    assert np.isnan(scores.dice).all() and np.isnan(scores.sensitivity).all()
    _, (subject) = scores.grouped(["a", "a", "a"])
    assert np.isnan(subject.dice[0])
    assert (subject.empty_slices[0], subject.empty_with_false_positive[0]) == (3, int(predicted))
    assert subject.false_positive_share_empty[0] == pytest.approx(predicted / 3)
    assert subject.false_positives_per_slice[0] == pytest.approx(predicted / 3)


def test_a_subject_is_the_pool_of_its_slices():
    rng = np.random.default_rng(0)
    shape = (30, 24, 24)
    truth, prediction = (ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2)) > 0.3 for _ in range(2))
    truth[::3] = False
    subjects = np.array(list("cab"))[np.arange(30) % 3]
    truth[subjects == "b"] = False
    names, scores = score_slices(truth, prediction, min_px=4).grouped(subjects)
    assert names.tolist() == ["a", "b", "c"]
    for i, name in enumerate(names):
        own = subjects == name
        t, p = truth[own], prediction[own]
        found, lesions, false = 0, 0, 0
        for one, other in zip(t, p, strict=True):
            true_parts, n_true = ndimage.label(one)
            parts, n_parts = ndimage.label(other)
            big = [k for k in range(1, n_parts + 1) if (parts == k).sum() >= 4]
            for k in range(1, n_true + 1):
                if (true_parts == k).sum() >= 4:
                    lesions += 1
                    found += bool(np.isin(parts[true_parts == k], big).any())
            false += sum(not one[parts == k].any() for k in big)
        assert (scores.lesions[i], scores.found[i], scores.false_positives[i]) == (lesions, found, false)
        assert scores.slices[i] == own.sum()
        if t.any():
            assert scores.dice[i] == pytest.approx(2 * (t & p).sum() / (t.sum() + p.sum()))
        else:
            assert np.isnan(scores.dice[i])
        assert scores.false_positives_per_slice[i] == pytest.approx(false / own.sum())
    total = scores.pooled()
    assert total.dice[0] == pytest.approx(2 * (truth & prediction).sum() / (truth.sum() + prediction.sum()))


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        score_slices(empty(), empty().astype(np.uint8), 5)
    with pytest.raises(ValueError, match=r"\(2, 12, 12\)"):
        score_slices(empty(), empty(2), 5)
    assert len(score_slices(empty(0), empty(0), 5)) == 0
