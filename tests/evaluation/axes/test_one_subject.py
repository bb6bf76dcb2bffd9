"""An MMD of lesions says that it means nothing where the lesions of one held-out patient decide it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.mask import mask_axis
from slimdiff.evaluation.axes.pair import pair_axis
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.generation.samples import Samples

CUBIC = ("mmd_mf", "mmd_mf_clipped", "mmd_pl", "mmd_pl_clipped")
ROBUST = ("mmd_robust", "mmd_robust_p")


def pairs(n: int, generator: np.random.Generator, sides: tuple[int, int] = (3, 9)):
    """n slices with one bright rectangle each, and their masks."""
    images = np.full((n, 48, 48), -1.0)
    images[:, 4:44, 4:44] = generator.normal(-0.2, 0.05, (n, 40, 40))
    masks = np.zeros((n, 48, 48), np.uint8)
    for mask in masks:
        (height, width), (top, left) = generator.integers(*sides, 2), generator.integers(8, 30, 2)
        mask[top : top + height, left : left + width] = 1
    images[masks == 1] = generator.uniform(0.2, 0.6, (masks == 1).sum())
    return images.astype(np.float16), masks


def evaluated(tmp_path, lesions_of_test: dict[str, int]) -> FoldEvaluation:
    """The mask and pair metrics with this number of lesion slices of each held-out patient."""
    generator = np.random.default_rng(0)
    names = np.repeat([*lesions_of_test, "train"], [*lesions_of_test.values(), 30])
    images, masks = pairs(len(names), generator)
    ones, zeros = np.ones(len(names), int), np.zeros(len(names), int)
    store = SimpleNamespace(
        images=images, masks=masks, participant=names, person=names, z_bin=zeros, label=ones
    )
    store.n_bins, store.spacing_mm = 1, 1.0
    store.facts = {"bin_centres": [0.0], "min_lesion_px": 5}
    drawn, of_drawn = pairs(30, generator)
    samples = Samples(
        drawn,
        (2.0 * of_drawn - 1).astype(np.float16),
        np.zeros(30, int),
        np.ones(30, int),
        np.array([f"s{number}" for number in range(30)]),
    )
    test, train = (np.flatnonzero((names == "train") == part) for part in (False, True))
    config = EvaluationConfig(min_component_mm2=5, ring_mm=3, bootstrap=40, taus=(0.0, 0.5))
    given = (store, test, train, samples, config, FeatureCache(tmp_path))
    evaluation = FoldEvaluation(*given, {"study": "s", "variant": "v", "fold": 0})
    mask_axis(evaluation)
    pair_axis(evaluation)
    return evaluation


def rows_of(evaluation: FoldEvaluation) -> dict[str, dict]:
    return {row["metric"]: row for row in evaluation.rows}


@pytest.mark.parametrize("lesions", [{"a": 25}, {"a": 25, "b": 9}], ids=["one patient", "almost one patient"])
def test_no_number_and_the_reason(tmp_path, lesions):
    evaluation = evaluated(tmp_path, lesions)
    rows = rows_of(evaluation)
    for metric in (*CUBIC, *ROBUST):
        row = rows[metric]
        assert np.isnan([row[key] for key in ("value", "floor", "ci_low", "ci_high")]).all(), metric
        unit = "lesion slices" if metric in ROBUST else "components"
        expected = f"25 of {sum(lesions.values())} {unit} are of one held-out subject (a)"
        assert row["reason"].startswith(expected) and row["interval_reason"].startswith(expected)
    for row in evaluation.tau_sweep:
        assert np.isnan(row["mmd_mf"]) and np.isnan(row["mmd_robust"]) and np.isfinite(row["mmd_mf_w1"])
    # Distances that are linear in a feature have a number.
    assert np.isfinite(rows["mmd_mf_w1"]["value"])


def test_ten_lesions_of_others_give_a_number(tmp_path):
    evaluation = evaluated(tmp_path, {"a": 25, "b": 10})
    rows = rows_of(evaluation)
    for metric in (*CUBIC, *ROBUST):
        assert np.isfinite([rows[metric][key] for key in ("value", "floor")]).all(), metric
    assert all(np.isfinite(row["mmd_mf"]) for row in evaluation.tau_sweep)


def test_a_patient_that_alone_sets_the_scale(tmp_path):
    evaluation = evaluated(tmp_path, dict.fromkeys("abcdef", 6))
    store = evaluation.store
    # Every contrast of all but one patient is the same.
    flat = np.isin(store.participant, list("bcdef"))
    images = store.images.copy()
    images[flat] = np.where(store.masks[flat] == 1, 0.4, np.where(images[flat] > -0.95, -0.2, -1))
    changed = replace(
        evaluation, store=SimpleNamespace(**{**vars(store), "images": images}), rows=[], lesions=[]
    )
    pair_axis(changed)
    row = rows_of(changed)["mmd_pl"]
    assert np.isnan(row["value"])
    assert row["reason"].startswith("without one held-out subject (a) the scale of ")
    assert np.isfinite(rows_of(evaluation)["mmd_pl"]["value"])
