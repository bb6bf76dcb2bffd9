"""Two scans of one person are one subject of every interval, half and pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.evaluate import evaluate
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.generation.samples import Samples

SLICES, TRAINING, HELD_OUT, BINS = 8, 5, 10, 2
FACTS = {"bin_centres": [10.0, 12.0], "n_bins": BINS, "spacing_mm": 2.0, "min_lesion_px": 12}


@pytest.fixture(scope="module")
def store(make_pairs):
    """Five training and ten held-out participants; brightness and lesions vary between them."""
    names = np.array([f"sub-{number:02d}" for number in range(TRAINING + HELD_OUT)])
    images, masks = make_pairs(len(names) * SLICES, 0)
    owner = np.repeat(np.arange(len(names)), SLICES)
    shift = np.random.default_rng(0).normal(0, 0.1, len(names))[owner, None, None]
    images = np.where(images > -0.95, np.clip(images + shift, -0.9, 1), -1).astype(np.float16)
    masks = masks & (np.arange(len(owner)) % 4 < 3)[:, None, None]
    z = np.tile(np.arange(SLICES), len(names))
    return SliceStore(
        Path(),
        images,
        masks.astype(np.uint8),
        names[owner],
        z,
        z * BINS // SLICES,
        masks.any(axis=(1, 2)).astype(int),
        np.full(len(owner), "n/a"),
        FACTS,
    )


@pytest.fixture(scope="module")
def evaluated(make_pairs, alexnet, tmp_path_factory):
    """A function (store) -> the metrics of the same samples, all axes."""
    images, masks = make_pairs(80, 9, contrast=0.4)
    masks = masks & (np.arange(80) % 4 < 3)[:, None, None]
    soft = np.where(masks, 0.9, -0.9).astype(np.float16)
    ids = np.array([f"s{number:02d}" for number in range(80)])
    samples = Samples(images, soft, np.arange(80) // 40, masks.any(axis=(1, 2)).astype(int), ids)
    config = EvaluationConfig(bootstrap=100, device="cpu", lpips_pairs=60, taus=(0.0,), tau=0.0)
    cache = FeatureCache(tmp_path_factory.mktemp("features"))

    def build(store: SliceStore) -> FoldEvaluation:
        train = store.participant < f"sub-{TRAINING:02d}"
        rows = [np.flatnonzero(~train), np.flatnonzero(train)]
        names = {"study": "s", "variant": "v", "fold": 0}
        return evaluate(FoldEvaluation(store, *rows, samples, config, cache, names))

    return build


def twice(store: SliceStore, persons: bool) -> SliceStore:
    """Every slice again, of a second participant `sub-00b`, who is the same person or, with `persons`, another."""
    columns = ("images", "masks", "z", "z_bin", "label", "acquisition")
    again = {name: np.concatenate([getattr(store, name)] * 2) for name in columns}
    second = {name: f"{name}b" for name in np.unique(store.participant).tolist()}
    participant = [*store.participant.tolist(), *(second[name] for name in store.participant.tolist())]
    facts = FACTS | ({} if persons else {"persons": {scan: first for first, scan in second.items()}})
    return replace(store, **again, participant=np.array(participant), facts=facts)


def intervals(cell: FoldEvaluation) -> dict[tuple, tuple[float, float]]:
    return {
        (row["metric"], row["extractor"], row["z_bin"]): (row["ci_low"], row["ci_high"])
        for row in cell.rows
        if np.isfinite(row["ci_low"])
    }


@pytest.fixture(scope="module")
def three(store, evaluated):
    """Evaluations: each slice once; again as a second scan of the person; again as another person."""
    return [evaluated(one) for one in (store, twice(store, persons=False), twice(store, persons=True))]


OF_MEANS = ("spectrum", "brain_histogram", "frac_bright_gap", "lesion_left_gap", "lesion_area_gap")
OF_SUBJECTS = (*OF_MEANS, "kid", "fid", "mmd_mf", "mmd_pl", "mmd_pl_w1", "mmd_robust", "recall")


def test_second_scans_do_not_narrow_an_interval_and_further_persons_do(three):
    once, scans, persons = map(intervals, three)
    where = {key: scans[key] for key in scans if key[0] in OF_SUBJECTS and key[2] == "all"}
    assert {key[0] for key in where} == set(OF_SUBJECTS)
    for key, (low, high) in where.items():
        assert high - low > 1.1 * (persons[key][1] - persons[key][0]), key
        if key[0] in OF_MEANS:
            # A copy of every slice changes no mean: the interval is that of the persons alone.
            assert (low, high) == pytest.approx(once[key], rel=1e-6, abs=1e-9), key


def test_both_scans_of_a_person_are_in_one_half_of_the_held_out_subjects(three):
    """With copies in one half, the distance between the halves does not change."""
    floors = [
        {row["extractor"]: row["floor"] for row in cell.rows if row["metric"] == "memorisation_w1"}
        for cell in three
    ]
    assert floors[1] == pytest.approx(floors[0], rel=1e-6) != pytest.approx(floors[2], rel=1e-6)


def test_a_study_with_one_scan_for_each_person_has_the_same_numbers(store, evaluated, three):
    own = {name: name for name in np.unique(store.participant).tolist()}
    for persons in ({}, own):
        cell = evaluated(replace(store, facts=FACTS | {"persons": persons}))
        assert repr(cell.rows) == repr(three[0].rows)
        assert repr(cell.nearest) == repr(three[0].nearest)


def test_a_z_bin_with_lesions_of_two_scans_of_one_person_counts_one_subject(store):
    everybody = np.unique(store.participant).tolist()
    first, second = everybody[:2]
    alone = store.lesion_subjects([first, second])
    assert alone.tolist() == [2, 2] and store.few_lesions([first, second]) == ""
    one = replace(store, facts=FACTS | {"persons": {second: first}})
    assert one.lesion_subjects([first, second]).tolist() == [1, 1]
    assert one.few_lesions([first, second]) == "0 (1), 1 (1)"
    assert one.lesion_subjects(everybody).tolist() == (store.lesion_subjects(everybody) - 1).tolist()
