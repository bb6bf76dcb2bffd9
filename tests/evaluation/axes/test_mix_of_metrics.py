"""Every metric over all z-bins compares the held-out mix: a perfect model that draws another mix is not punished."""

import dataclasses
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.evaluate import evaluate, evaluation_of_training_slices
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.profiles import radial_spectra, spectrum_distance
from slimdiff.generation.samples import Samples

SIDE, SEED, AXES = 48, 5, ("image", "mask", "pair", "control")
PER_SUBJECT = {(0, 0): 1, (0, 1): 1, (1, 0): 4, (1, 1): 2}
"""Slices of each z-bin and class of every held-out and training subject: the held-out mix."""
N_TEST, N_TRAIN, PER_CELL = 6, 9, 12
USED = {(0, 0): 3, (0, 1): 3, (1, 0): 12, (1, 1): 6}
"""Of 12 samples of each: half as many as held-out slices, because there are 24 of (1, 0)."""
USED_LESIONS = {(0, 1): 6, (1, 1): 12}
OVER_ALL_SAMPLES = {"mask_undecided", "lesion_share_class0", "lesion_share_class1", "lesion_area_gap"}


def pair(cell: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slice and its mask: in z-bin 0 a small, smooth brain and a small lesion, in z-bin 1 both larger."""
    z_bin, label = cell
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    brain = np.hypot(x / generator.uniform(0.9, 1), y) < (0.25, 0.42)[z_bin] * SIDE
    texture = ndimage.gaussian_filter(generator.standard_normal((SIDE, SIDE)), (3, 1)[z_bin])
    image = np.where(brain, 0.12 * texture / texture.std() - 0.2, -1.0)
    middle = generator.uniform(-6, 6, 2)
    mask = (
        np.hypot(x - middle[0], y - middle[1])
        < label * (generator.uniform(2, 3), generator.uniform(3, 6))[z_bin]
    )
    return np.clip(image + 0.5 * mask, -1, 1).astype(np.float16), mask


def slices(cells: list, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    images, masks = zip(*(pair(cell, generator) for cell in cells), strict=True)
    return np.array(images), np.array(masks)


@pytest.fixture(scope="module")
def cohort():
    names = [f"train-{i}" for i in range(N_TRAIN)] + [f"test-{i}" for i in range(N_TEST)]
    own = [cell for cell, number in PER_SUBJECT.items() for _ in range(number)]
    images, masks = slices(own * len(names), seed=0)
    z_bin, label = np.array(own * len(names)).T
    return SimpleNamespace(
        images=images,
        masks=masks.astype(np.uint8),
        participant=np.repeat(names, len(own)),
        person=np.repeat(names, len(own)),
        z_bin=z_bin,
        label=label,
        acquisition=np.full(len(label), "n/a"),
        n_bins=2,
        spacing_mm=1.0,
        facts={"bin_centres": [0.0, 10.0], "min_lesion_px": 5},
    )


@pytest.fixture(scope="module")
def drawn():
    """Samples of a perfect model: the distribution of each z-bin and class is that of the slices."""
    cells = [cell for cell in PER_SUBJECT for _ in range(PER_CELL)]
    images, masks = slices(cells, seed=1)
    z_bin, label = np.array(cells).T
    ids = np.array([f"s{i:02d}" for i in range(len(cells))])
    return Samples(images, np.where(masks, 1, -1).astype(np.float16), z_bin, label, ids)


def part(samples: Samples, rows: np.ndarray) -> Samples:
    return Samples(*(getattr(samples, one.name)[rows] for one in dataclasses.fields(Samples)))


@pytest.fixture(scope="module")
def evaluated(cohort, alexnet, tmp_path_factory):
    """A function (samples, axes, evaluated rows of the store) -> evaluated cell."""
    cache = FeatureCache(tmp_path_factory.mktemp("features"))
    config = EvaluationConfig(
        bootstrap=20, lpips_pairs=100, taus=(0.0,), seed=SEED, tau=0.0, min_component_mm2=5, ring_mm=3
    )
    rows = np.arange(len(cohort.label))
    of_test = np.char.startswith(cohort.participant, "test")

    def build(samples: Samples, axes=AXES, kept: np.ndarray | None = None) -> FoldEvaluation:
        test = rows[of_test if kept is None else of_test & kept]
        names = {"study": "s", "variant": "v", "fold": 0}
        return evaluate(FoldEvaluation(cohort, test, rows[~of_test], samples, config, cache, names), axes)

    return build


def first_of_each_cell(samples: Samples, numbers: dict) -> np.ndarray:
    """The documented choice: of each z-bin and class the first samples in a permutation of all of them."""
    order = np.random.default_rng(SEED).permutation(len(samples.id))
    of_cell = {
        cell: [row for row in order if (samples.z_bin[row], samples.label[row]) == cell] for cell in numbers
    }
    return np.sort([row for cell, number in numbers.items() for row in of_cell[cell][:number]])


def rows_of(cell: FoldEvaluation, z_bin="all") -> dict[str, dict]:
    """Metric: its row."""
    return {row["metric"]: row for row in cell.rows if row["z_bin"] == z_bin}


def assert_equal(found: dict, expected: dict) -> None:
    """Features and spectra are computed in blocks, so the other samples of a block may change the last digits."""
    for key in ("value", "ci_low", "ci_high", "floor", "n"):
        message = f"{key} of {expected['metric']}"
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-6, err_msg=message)


@pytest.fixture(scope="module")
def another_mix(evaluated, drawn):
    return evaluated(drawn)


def test_image_metrics_are_those_of_the_samples_in_the_held_out_mix(evaluated, drawn, another_mix):
    chosen = first_of_each_cell(drawn, USED)
    thinned = evaluated(part(drawn, chosen), ("image",))
    assert len(thinned.selections[0].samples) == len(chosen) == 24
    found, expected = rows_of(another_mix), rows_of(thinned)
    assert len(expected) >= 9
    for metric, row in expected.items():
        assert math.isfinite(row["value"]) and math.isfinite(row["floor"]) == (metric != "kid_blurred")
        assert_equal(found[metric], row)
    for metric in ("kid", "fid", "precision", "recall", "spectrum", "brain_histogram"):
        assert found[metric]["n"] == 24


def test_lesion_metrics_are_those_of_the_lesion_samples_in_the_held_out_mix(evaluated, drawn, another_mix):
    chosen = first_of_each_cell(drawn, USED_LESIONS)
    # Lesion-free samples are where masks are moved to (`delta_median_shuffled`).
    clean = np.flatnonzero(drawn.label == 0)
    thinned = evaluated(part(drawn, np.union1d(chosen, clean)), ("mask", "pair", "control"))
    found, expected = rows_of(another_mix), rows_of(thinned)
    for metric in expected.keys() - OVER_ALL_SAMPLES:
        assert math.isfinite(expected[metric]["value"]), metric
        assert_equal(found[metric], expected[metric])
    assert sorted(row["id"] for row in another_mix.lesions if row["set"] == "synthetic") == sorted(
        drawn.id[chosen]
    )
    assert another_mix.tau_sweep[0]["n_slices"] == 18
    # These are defined over all samples.
    assert found["mask_undecided"]["n"] == 48 and found["lesion_share_class1"]["n"] == 24
    assert found["lesion_area_gap"]["n"] == 24


def test_a_perfect_model_in_another_mix_is_close_to_the_floor(another_mix, cohort, drawn):
    found = rows_of(another_mix)
    both = cohort.images[another_mix.test], drawn.images
    spectra = [radial_spectra(images).mean(axis=0) for images in both]
    features = [another_mix.features(images, "alexnet") for images in both]
    assert found["spectrum"]["value"] < 0.3 * spectrum_distance(*spectra)
    assert abs(found["kid"]["value"]) < 0.3 * kid(*features, SEED).value
    for metric in ("spectrum", "brain_histogram", "fid", "mmd_mf_w1"):
        assert found[metric]["value"] < 2 * found[metric]["floor"], metric


def test_floors_have_the_mix_and_number_of_the_samples(another_mix, cohort):
    def mix(rows: np.ndarray) -> Counter:
        return Counter(zip(cohort.z_bin[rows].tolist(), cohort.label[rows].tolist(), strict=True))

    assert mix(another_mix.train[another_mix.selections[0].floor]) == USED
    floors = another_mix.lesion_selection.floors
    assert len(floors) == 20 and all(mix(another_mix.train[rows]) == USED_LESIONS for rows in floors)
    listed = Counter(row["z_bin"] for row in another_mix.lesions if row["set"] == "training")
    assert listed == {0: 6, 1: 12}


def test_notes_say_how_many_samples_are_used(another_mix):
    rows = {(row["metric"], row["z_bin"]): row for row in another_mix.rows}
    used = "24 of 48 samples, in the mix of the held-out slices"
    for metric in ("kid", "spectrum", "brain_histogram", "lpips", "lpips_diversity"):
        assert used in rows[metric, "all"]["reason"], metric
    used = "18 of 24 samples of class 1, in the mix of the held-out slices"
    for metric in ("mmd_mf", "mmd_mf_w1_area", "mmd_robust", "mmd_pl_w1", "delta_median", "frac_bright"):
        assert used in rows[metric, "all"]["reason"], metric
    assert "samples" not in rows["kid", 0]["reason"]
    assert "18 of 24 samples, in the mix" in rows["kid", 1]["reason"]
    assert (rows["kid", 0]["n"], rows["kid", 1]["n"]) == (24, 18)


def test_pairs_of_lpips_have_the_held_out_mix_of_z_bins(another_mix):
    n = rows_of(another_mix, 0)["lpips"]["n"]
    # A quarter of the held-out slices is in z-bin 0, half of the samples; four standard deviations of 100 draws.
    assert abs(n - 25) < 4 * math.sqrt(100 * 0.25 * 0.75)


def test_a_class_of_a_z_bin_without_samples_is_left_out_and_named(evaluated, cohort, drawn):
    samples = part(drawn, np.flatnonzero((drawn.z_bin == 0) | (drawn.label == 0)))
    cell = evaluated(samples)
    without = evaluated(samples, kept=(cohort.z_bin == 0) | (cohort.label == 0))
    found, expected = rows_of(cell), rows_of(without)
    for metric in expected.keys() - {"lesion_area_gap"}:
        assert_equal(found[metric], expected[metric])
    reasons = {row["metric"]: row["reason"] for row in cell.rows if row["z_bin"] == "all"}
    for metric in ("kid", "fid", "precision", "spectrum", "lpips"):
        assert "12 of 48 held-out slices left out: no sample of their z-bin and class" in reasons[metric]
    for metric in ("mmd_mf", "mmd_pl", "mmd_robust", "centroid_distance", "delta_median"):
        assert "12 of 18 held-out slices of class 1 left out" in reasons[metric]


@pytest.mark.parametrize("label", [0, 1])
def test_samples_of_one_class_only(evaluated, drawn, label):
    cell = evaluated(part(drawn, np.flatnonzero(drawn.label == label)))
    found = rows_of(cell)
    assert math.isfinite(found["kid"]["value"]) and math.isfinite(found["mmd_mf"]["value"]) == bool(label)
    for row in cell.rows:
        assert math.isfinite(row["value"]) or row["reason"], row


def test_the_baseline_has_the_values_of_the_floor(prepared):
    found = evaluation_of_training_slices(prepared, 0)
    for one in (*found.selections, found.lesion_selection):
        assert len(one.samples) and np.array_equal(one.samples, one.floor)
    evaluate(found, ("mask",))
    row = rows_of(found)["mmd_mf_w1"]
    # All lesion slices of the training subjects are used.
    assert len(found.lesion_selection.floors) == 1
    assert row["value"] == row["floor"]
