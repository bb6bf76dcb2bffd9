"""Whether samples help: pasted lesions, early stopping, shares, intervals, and one small run from end to end."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "quality" / "usefulness"))

pytest.importorskip("torch")

import early_stopped
import nnunet_side
import race_cohorts
import torch
import usefulness
import usefulness_table
from copy_paste import Paster, draw_level, pasted, signed_distance
from early_stopped import OrdinaryAugmentation, Stopping, train_until_best
from helpers.tiny_training import tiny_store
from torch import nn

from slimdiff.evaluation.utility.segmenter import Pairs

PATIENTS = [f"sub-{number:02d}" for number in range(54)]


@pytest.fixture
def hand_made():
    """A source with a lesion of 3 x 3 px, and a target with a lesion of two pixels, both 7 x 7."""
    source, target = np.arange(49.0).reshape(7, 7), np.full((7, 7), -1.0)
    of_source, of_target = np.zeros((7, 7), bool), np.zeros((7, 7), bool)
    of_source[2:5, 2:5] = True
    of_target[1, 3] = of_target[0, 0] = True
    return (source, of_source), (target, of_target)


def around(text: str) -> np.ndarray:
    return np.array([[sign == "#" for sign in row] for row in text.split()])


@pytest.mark.parametrize(
    ("level", "region"),
    [
        (-1.5, "....... ....... ....... ...#... ....... ....... ......."),
        (-1.0, "....... ....... ..###.. ..###.. ..###.. ....... ......."),
        (0.5, "....... ....... ..###.. ..###.. ..###.. ....... ......."),
        (1.0, "....... ..###.. .#####. .#####. .#####. ..###.. ......."),
        (1.5, "....... .#####. .#####. .#####. .#####. .#####. ......."),
    ],
)
def test_a_hand_made_pair_is_pasted_as_computed_by_hand(hand_made, level, region):
    source, target = hand_made
    region = around(region)
    image, mask = pasted(source, target, level)
    assert (image[region] == np.arange(49.0).reshape(7, 7)[region]).all()
    assert (image[~region] == -1).all()
    # The target's lesion at (1, 3) is covered from a level of 1 on; the one at (0, 0) never is.
    expected = region & source[1]
    expected[0, 0] = True
    expected[1, 3] = not region[1, 3]
    assert np.array_equal(mask, expected)


def test_half_of_the_regions_are_smaller_than_the_lesion(hand_made):
    distance = signed_distance(hand_made[0][1])
    assert distance.min() == -2 and distance[3, 5] == 1
    rng = np.random.default_rng(0)
    levels = np.array([draw_level(distance, rng) for _ in range(4000)])
    assert levels.min() >= -1 and levels.max() <= 2
    assert np.mean(levels < 0) == pytest.approx(0.5, abs=0.03)
    assert np.mean(levels[levels < 0]) == pytest.approx(-0.5, abs=0.03)
    assert np.mean(levels[levels > 0]) == pytest.approx(1, abs=0.05)


def coded(tmp_path):
    """The tiny store, in which each slice is the number of its participant."""
    store = tiny_store(tmp_path)
    number = np.array([int(name.removeprefix("sub-")) for name in store.participant.tolist()])
    return replace(store, images=np.broadcast_to(number[:, None, None], store.images.shape) / 10)


def test_pasted_lesions_are_of_training_patients_and_from_one_to_another(tmp_path):
    store = coded(tmp_path)
    real = usefulness.Real.of(store, ["sub-0", "sub-1"])
    pairs, paste = usefulness.training_set("copy-paste", real, lambda: pytest.fail("no samples are needed"))
    draw = early_stopped.batches(pairs, paste)
    seen = [draw(np.random.default_rng(step)).images for step in range(200)]
    codes = np.unique(np.round(10 * np.concatenate(seen)))
    assert set(codes.tolist()) == {0, 1}
    # Two patients in one image are the trace of a pasted lesion: half of the slices with a lesion.
    mixed = np.array([len(np.unique(image)) == 2 for images in seen for image in images])
    assert mixed.mean() == pytest.approx(0.25, abs=0.04)


def test_lesions_are_pasted_within_a_z_bin(tmp_path):
    store = tiny_store(tmp_path)
    height = np.broadcast_to(store.z_bin[:, None, None], store.images.shape) / 10
    paster = Paster(height, store.masks > 0, store.z_bin, store.participant)
    rng = np.random.default_rng(0)
    for _ in range(60):
        image, mask = paster.slice(rng)
        assert len(np.unique(image)) == 1 and mask.any()


def test_a_single_patient_is_pasted_into_itself():
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 2, 2] = True
    paster = Paster(np.zeros((2, 5, 5)), masks, np.zeros(2, int), np.array(["one", "one"]))
    assert paster.slice(np.random.default_rng(0))[1].sum() == 1


def test_shares_are_nested_and_validation_patients_are_training_patients():
    for seed in usefulness.SEEDS:
        parts = [usefulness.divided(PATIENTS, percent, seed) for percent in (10, 25, 50, 100)]
        assert [len(train) + len(validation) for train, validation in parts] == [5, 14, 27, 54]
        assert [len(validation) for _, validation in parts] == [1, 2, 5, 10]
        for train, validation in parts:
            assert not set(train) & set(validation) and set(train) | set(validation) <= set(PATIENTS)
        for kind in (0, 1):
            assert all(set(small[kind]) < set(large[kind]) for small, large in pairwise(parts))
    shares = {tuple(usefulness.divided(PATIENTS, 25, seed)[0]) for seed in usefulness.SEEDS}
    assert len(shares) == len(usefulness.SEEDS)
    assert usefulness.divided(["b", "a"], 10, 0) in ((["a"], ["b"]), (["b"], ["a"]))


def test_samples_are_added_once_or_three_times_or_alone(tmp_path):
    real = usefulness.Real.of(tiny_store(tmp_path), ["sub-0", "sub-1"])
    count = len(real.images)
    drawn = np.full((3 * count, 2, 8, 8), -1.0, np.float16)
    drawn[:, 0] = 0.5
    drawn[1, 1, 0, 0] = 1  # too small a lesion
    drawn[2, 1, :2, :2] = 1
    samples = usefulness.usable(drawn, 0.0, 2)
    assert not samples[2][1] and samples[2].sum() == 3 * count - 1
    sizes = {arm: len(usefulness.training_set(arm, real, lambda: samples)[0]) for arm in usefulness.ARMS}
    assert sizes == {
        "real": count,
        "augmentation": count,
        "copy-paste": count,
        "synthetic-1": 2 * count - 1,
        "both": 2 * count - 1,
        "synthetic-3": 4 * count - 1,
        "synthetic": 3 * count - 1,
    }
    pairs, paste = usefulness.training_set("synthetic-1", real, lambda: samples)
    assert paste is None and np.array_equal(pairs.images[:count], real.images)
    with pytest.raises(SystemExit, match=f"found none among {3 * count}"):
        usefulness.training_set("synthetic", real, lambda: (samples[0], samples[1] & False, samples[2]))
    assert (pairs.images[count:] == 0.5).all() and pairs.masks[count:].sum() == 4


@pytest.mark.parametrize(
    ("dice", "calls", "best"),
    [
        ([0.1, 0.3, 0.2, 0.4, 0.4, 0.3], 6, 4),
        ([0.5, 0.4, 0.3], 3, 1),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 7, 7),
    ],
)
def test_training_stops_and_keeps_the_averaged_weights_of_the_best_validation(dice, calls, best):
    network = nn.Linear(1, 1, bias=False)
    raw, validated = [], []

    def batch_loss(step: int):
        assert network.training
        raw.append(network.weight.item())
        return network(torch.ones(1, 1)).sum() * (1 if step % 3 else -2)

    def validate() -> float:
        assert not network.training
        validated.append(network.weight.item())
        return dice[len(validated) - 1]

    fit = train_until_best(network, batch_loss, validate, Stopping(every=2, patience=2, most=14))
    assert len(validated) == calls and (fit.steps, fit.best_step) == (2 * calls, 2 * best)
    assert fit.best == dice[best - 1] and network.weight.item() == validated[best - 1]
    # The average by its recursion; raw[n] are the weights after n steps.
    average, expected = raw[0], {}
    for step in range(1, len(raw)):
        decay = min(0.99, step / (step + 9))
        average = decay * average + (1 - decay) * raw[step]
        expected[step] = average
    for number, weight in enumerate(validated[:-1], start=1):
        assert weight == pytest.approx(expected[2 * number], rel=1e-5)
    assert len(set(validated)) == calls


def test_a_validation_without_a_number_does_not_end_the_training():
    network = nn.Linear(1, 1)
    fit = train_until_best(
        network, lambda step: network(torch.ones(1, 1)).sum(), lambda: float("nan"), Stopping(1, 3, 9)
    )
    assert (fit.steps, fit.best_step) == (3, 0)


def test_ordinary_augmentation_moves_image_and_mask_alike():
    y, x = np.mgrid[:48, :48]
    discs = [np.hypot(y - 24 - dy, x - 20 - dx) < 8 for dy, dx in [(0, 0), (5, 3), (-4, 6), (2, -5)] * 4]
    masks = torch.from_numpy(np.stack(discs))
    images = torch.where(masks, 0.8, -1.0)
    found, moved = OrdinaryAugmentation(3.0)(images, masks, np.random.default_rng(1))
    overlap = 2 * ((found > 0) & moved).sum((1, 2)) / ((found > 0).sum((1, 2)) + moved.sum((1, 2)))
    assert overlap.min() > 0.9
    with_change = (moved != masks).any(2).any(1)
    assert 0.2 < with_change.float().mean() < 1
    again = OrdinaryAugmentation(3.0)(images, masks, np.random.default_rng(1))[0]
    other = OrdinaryAugmentation(3.0)(images, masks, np.random.default_rng(2))[0]
    assert torch.equal(found, again) and not torch.equal(found, other)


def test_the_segmenter_of_an_easy_task_is_trained_until_it_knows_it(monkeypatch):
    monkeypatch.setattr(early_stopped, "CHANNELS", (16, 16))
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 24, 24), bool)
    for row, (top, left) in enumerate(rng.integers(2, 16, size=(40, 2))):
        masks[row, top : top + 6, left : left + 6] = row % 4 > 0
    images = (rng.normal(-0.3, 0.1, masks.shape) + 0.8 * masks).clip(-1, 1).astype(np.float16)
    pairs, groups = Pairs(images, masks), np.repeat([f"p{n}" for n in range(5)], 8)
    checked = pairs[np.arange(8, 16)], groups[8:16]
    rest = early_stopped.batches(pairs[np.flatnonzero(groups != "p1")])
    stopping = Stopping(every=20, patience=2, most=120)
    found = [early_stopped.train_on(rest, checked, 3.0, 0, stopping=stopping) for _ in range(2)]
    assert found[0][1] == found[1][1] and found[0][1].best > 0.7
    names, scores = early_stopped.patient_scores(found[0][0], *checked, min_px=1)
    assert names.tolist() == ["p1"] and scores.dice.mean() == pytest.approx(found[0][1].best)


def naive_interval(values: np.ndarray, draws: int) -> tuple[float, float]:
    """Percentiles of the mean over patients and seeds that are drawn one by one, from the same streams."""
    seeds, patients = values.shape
    of_patients = np.random.default_rng(0).integers(patients, size=(draws, patients))
    of_seeds = np.random.default_rng(1).integers(seeds, size=(draws, seeds))
    means = []
    for draw in range(draws):
        total = 0.0
        for seed in of_seeds[draw]:
            for patient in of_patients[draw]:
                total += values[seed, patient]
        means.append(total / (seeds * patients))
    return tuple(np.percentile(means, [2.5, 97.5]))


def test_the_paired_interval_equals_an_independent_computation(monkeypatch):
    monkeypatch.setattr(usefulness_table, "RESAMPLINGS", 400)
    rng = np.random.default_rng(3)
    one, other = rng.normal(0.7, 0.1, (3, 9)), rng.normal(0.65, 0.1, (3, 9))
    cells = [
        {seed: {"dice": part[seed], "sensitivity": part[seed]} for seed in range(3)} for part in (one, other)
    ]
    mean, own = usefulness_table.interval(usefulness_table.difference(*cells))
    assert mean == pytest.approx((one - other).mean())
    assert (own.low, own.high) == pytest.approx(naive_interval(one - other, 400))
    # A patient without a lesion has no Dice; a seed of one arm alone has no pair.
    cells[0][0]["dice"] = np.where(np.arange(9) == 4, np.nan, one[0])
    del cells[1][2]
    left = np.delete(one - other, 4, axis=1)[:2]
    mean, own = usefulness_table.interval(usefulness_table.difference(*cells))
    assert mean == pytest.approx(left.mean())
    assert (own.low, own.high) == pytest.approx(naive_interval(left, 400))


def test_the_interval_of_a_single_seed_is_that_of_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).normal(0.02, 0.05, 27)
    own = usefulness_table.interval(values[None])[1]
    found = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=7).confidence_interval
    assert (own.low, own.high) == pytest.approx((found.low, found.high), abs=1e-3)


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(usefulness, "TABLE", tmp_path / "usefulness.tsv")
    path = tmp_path / "usefulness.md"
    path.write_text("before\n" + "\nold\n".join(usefulness_table.MARKS) + "\nafter\n")
    monkeypatch.setattr(usefulness_table, "PAGE", path)
    return path


def add(key, dice):
    scores = [{"participant": row, "dice": value, "sensitivity": 0.5} for row, value in enumerate(dice)]
    facts = {"participant": "all", "dice": np.mean(dice), "best_step": 90, "steps": 1400, "seconds": 90.0}
    usefulness.table().add(key, [facts, *scores], usefulness.place)


def test_the_page_has_a_table_for_each_share_and_answers(page):
    with pytest.raises(SystemExit, match="found none"):
        usefulness_table.main()
    real = [0.5, 0.6, 0.7, 0.6, 0.6, 0.6]
    add((25, "synthetic-1", 0, "unet"), [value + 0.05 for value in real])
    add((25, "augmentation", 0, "unet"), real)
    add((25, "synthetic", 0, "unet"), [value / 2 for value in real])
    add((25, "real", 0, "unet"), [value - 0.1 for value in real])
    assert (25, "real", 0, "unet") in usefulness.table().done()
    for _ in range(2):
        usefulness_table.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.index("| real | 1 of 3 | 0.500") < text.index("| real, augmentation | 1 of 3 | 0.600")
    assert "| +0.150 [+0.150, +0.150] | +0.050 [+0.050, +0.050] | 1,400 | 1.5 |" in text
    assert "| samples against augmentation, 25 % | +0.050 [+0.050, +0.050] | goal ≥ +0.04" in text
    assert "interval above 0: yes; p = 0.031" in text
    assert "| samples alone / real slices, 25 % | 0.60 | goal ≥ 1: no |" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="expected each of the marks"):
        usefulness_table.main()


def test_the_runs_are_those_of_the_plan():
    runs = list(usefulness.runs())
    assert len(set(runs)) == len(runs) == 4 * 7 * 3 + 2 * 3
    assert runs[0] == (25, "real", 0, "unet")
    of_nnunet = {(percent, arm) for percent, arm, _, own in runs if own == "nnunet"}
    assert of_nnunet == {(25, "real"), (25, "synthetic-1")}


@pytest.fixture
def phantom(tmp_path, monkeypatch):
    """Twelve phantom patients and trainings of a few steps."""
    demo = yaml.safe_load(race_cohorts.DEMO.read_text())
    demo["data"]["phantom"] |= {"patients": 12, "controls": 0}
    demo["model"] |= {"channels": [16, 16, 16, 16], "head_channels": 16}
    demo["generation"]["evaluations"] = 2
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(demo))
    monkeypatch.setattr(race_cohorts, "DEMO", tmp_path / "demo.yaml")
    monkeypatch.setattr(usefulness, "COHORT", "phantom")
    monkeypatch.setattr(usefulness, "STEPS", 3)
    monkeypatch.setattr(usefulness, "TABLE", tmp_path / "usefulness.tsv")
    monkeypatch.setattr(early_stopped, "CHANNELS", (16, 16))
    monkeypatch.setattr(early_stopped, "Stopping", lambda: Stopping(every=2, patience=1, most=4))
    return tmp_path


def test_a_run_from_end_to_end_on_the_phantom(phantom, monkeypatch):
    import race_sides

    seen = []
    plain = race_sides.run_slimdiff

    def watched(study, store, train, *rest):
        seen.append((set(train), set(store.participant.tolist())))
        return plain(study, store, train, *rest)

    monkeypatch.setattr(race_sides, "run_slimdiff", watched)
    for arm in ("synthetic-1", "synthetic-3", "copy-paste"):
        usefulness.run((100, arm, 0, "unet"), phantom, phantom / "none.tsv")
    rows = usefulness.table().rows()
    assert len(rows) == 3 * 7 and {row["steps"] for row in rows if row["participant"] == "all"} <= {"2", "4"}
    for row in rows:
        assert 0 <= float(row["dice"]) <= 1
    # One generator for all arms; it saw five of the six training patients, none of the six held out.
    ((train, everyone),) = seen
    assert len(train) == 5 and len(everyone) == 12
    kept = phantom / "usefulness" / "phantom-100-0" / "samples.npz"
    monkeypatch.setattr(usefulness, "STEPS", 4)
    with pytest.raises(SystemExit, match="samples are of other patients or another recipe; delete"):
        usefulness.run((100, "synthetic", 0, "unet"), phantom, phantom / "none.tsv")
    assert kept.is_file()


@pytest.mark.slow
def test_nnunet_is_trained_on_the_export_of_a_run(phantom, monkeypatch):
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    monkeypatch.setattr(nnunet_side, "EPOCHS", 1)
    monkeypatch.setattr(nnunet_side, "ITERATIONS", 2)
    for arm in ("real", "copy-paste"):
        usefulness.run((100, arm, 0, "nnunet"), phantom, phantom / "none.tsv")
    rows = usefulness.table().rows()
    assert len(rows) == 2 * 7
    exports = [
        phantom / "usefulness" / f"nnunet-100-{arm}-0" / "phantom/export/nnunet/base/fold-0"
        for arm in ("real", "copy-paste")
    ]
    names = [{path.name.split("_z")[0] for path in root.glob("nnUNet_raw/*/labelsTr/*")} for root in exports]
    # Samples are there beside the slices of the six training and validation patients.
    assert len(names[0]) == 6 and names[0] < names[1]
    held_out = {path.name.split("_z")[0] for path in exports[0].glob("nnUNet_raw/*/imagesTs/*")}
    assert len(held_out) == 6 and not held_out & names[1]
