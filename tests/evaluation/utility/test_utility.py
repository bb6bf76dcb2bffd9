"""Utility metrics of samples that help a segmenter and of samples that harm it."""

import json
import shutil
from itertools import pairwise, product

import numpy as np
import pytest

from slimdiff import cli
from slimdiff.config import study_from_mapping
from slimdiff.data.store import COLUMNS as SLICE_COLUMNS
from slimdiff.data.store import FILES
from slimdiff.evaluation.registry import COLUMNS
from slimdiff.evaluation.utility.segmenter import Pairs
from slimdiff.evaluation.utility.utility import (
    SUBJECT_COLUMNS,
    HeldOutJudge,
    evaluate_utility,
    limited,
    nested_shares,
    pairs_of_samples,
    same_share,
    train_on_real,
)
from slimdiff.files import read_table, sha256, write_table
from slimdiff.generation.samples import Samples, write_samples

PATIENTS, CONTROLS = [f"sub-{i:02d}" for i in range(8)], ["sub-98", "sub-99"]


def toy(n: int, seed: int, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a dark disc in every slice and a bright disc, the lesion, in every second slice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images, masks = rng.normal(-0.2, 0.15, (n, 32, 32)), np.zeros((n, 32, 32), bool)
    for i in range(n):
        for sign in (-1, 1)[: 1 + i % 2]:
            disc = np.hypot(*(grid - c for grid, c in zip((y, x), rng.integers(5, 27, 2), strict=True))) < 3.5
            images[i] += sign * contrast * disc
            masks[i] |= disc & (sign > 0)
    return np.clip(images, -1, 1).astype(np.float16), masks


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Bright training lesions and faint held-out lesions; two patients and a control are for training.

    Samples of variant `helps` have faint lesions; those of `harms` are the same with the masks of other slices.
    """
    values = {
        "study": "toy",
        "results_dir": str(tmp_path_factory.mktemp("toy")),
        "preprocess": {"grid": [32, 32, 32]},
        "slices": {"z_range": [0, 3], "n_bins": 2},
        "variants": {"helps": {}, "harms": {}},
        "evaluation": {"bootstrap": 200, "min_component_mm2": 16.0},
        "utility": {
            "shares": [1.0],
            "channels": [16, 16],
            "patch": 2,
            "steps": 60,
            "batch_size": 8,
            "learning_rate": 5e-3,
            "device": "cpu",
        },
    }
    study = study_from_mapping(values)
    paths = study.paths
    paths.store.mkdir(parents=True)
    images, masks, rows, folds = [], [], [], []
    for number, name in enumerate(PATIENTS + CONTROLS):
        trains = name in (*PATIENTS[:2], CONTROLS[0])
        image, mask = toy(8, seed=number, contrast=1.2 if trains else 0.35)
        if name in CONTROLS:
            image, mask = image[::2], mask[::2]
        images.append(image)
        masks.append(mask)
        rows += [
            dict(zip(SLICE_COLUMNS, (name, z, z % 2, int(m.any()), int(m.sum()), "n/a"), strict=True))
            for z, m in enumerate(mask)
        ]
        folds.append(
            {
                "participant": name,
                "fold": 0,
                "split": "train" if trains else "test",
                "stratified_by": "none",
                "stratum": "all",
            }
        )
    np.save(paths.store / "images.npy", np.concatenate(images))
    np.save(paths.store / "masks.npy", np.concatenate(masks).astype(np.uint8))
    write_table(paths.store / "slices.tsv", rows, SLICE_COLUMNS)
    write_table(paths.folds, folds, list(folds[0]))
    facts = {
        "n_bins": 2,
        "z_range": [0, 3],
        "bin_centres": [0.5, 2.5],
        "spacing_mm": 2.0,
        "min_lesion_px": 5,
        "sha256": {name: sha256(paths.store / file) for name, file in FILES.items()},
    }
    (paths.store / "store.json").write_text(json.dumps(facts))
    for variant, z_bin in product(study.variants, range(2)):
        image, mask = toy(40, seed=50 + z_bin, contrast=0.35)
        mask = np.roll(mask, 2, axis=0) if variant == "harms" else mask
        manifest = [
            {"id": f"{z_bin}-{i}", "key": "0", "z_bin": z_bin, "class": int(m.any())}
            for i, m in enumerate(mask)
        ]
        write_samples(
            paths.samples_stem(variant, 0, z_bin),
            image,
            np.where(mask, 0.8, -0.9).astype(np.float16),
            manifest,
        )
    train_on_real(study, 0)
    for variant in study.variants:
        evaluate_utility(study, variant, 0)
    return study


def rows_of(study, variant) -> dict[str, dict]:
    return {row["metric"]: row for row in read_table(study.paths.utility(variant, 0), COLUMNS)}


def value(study, variant, metric, column="value") -> float:
    return float(rows_of(study, variant)[metric][column])


def test_samples_that_help_raise_the_gain_and_shuffled_masks_lower_it(study):
    helps, harms = (value(study, variant, "utility_dice_gain_100") for variant in study.variants)
    assert helps > 0.1
    assert harms < -0.1
    assert value(study, "helps", "utility_dice_gain_100", "ci_low") > 0
    assert value(study, "harms", "utility_dice_gain_100", "ci_high") < 0
    assert (
        value(study, "helps", "utility_dice_synthetic")
        > 0.5
        > value(study, "harms", "utility_dice_synthetic")
    )
    # A segmenter trained on real slices agrees only with masks that belong to their image.
    assert value(study, "helps", "utility_dice_trts") > value(study, "harms", "utility_dice_trts") + 0.2


def test_results_of_real_slices_alone_do_not_depend_on_the_variant(study):
    helps, harms = (rows_of(study, variant) for variant in study.variants)
    assert helps["utility_dice_real_100"]["value"] == harms["utility_dice_real_100"]["value"]
    for metric in ("utility_dice_real_synthetic_100", "utility_dice_synthetic"):
        assert helps[metric]["floor"] == helps["utility_dice_real_100"]["value"]
    assert helps["utility_dice_gain_100"]["floor"] == "0"
    gain = value(study, "helps", "utility_dice_real_synthetic_100") - value(
        study, "helps", "utility_dice_real_100"
    )
    assert value(study, "helps", "utility_dice_gain_100") == pytest.approx(gain)


def test_subjects_are_held_out_and_rows_are_their_means(study):
    for name in ("real", "helps"):
        table = read_table(study.paths.utility_subjects(name, 0), SUBJECT_COLUMNS)
        conditions = {(row["condition"], row["share"]) for row in table}
        expected = {("real", "1")} if name == "real" else {("real_synthetic", "1"), ("synthetic", "n/a")}
        assert conditions == expected
        for condition, _ in expected:
            own = [row for row in table if row["condition"] == condition]
            assert [row["participant"] for row in own] == [*PATIENTS[2:], CONTROLS[1]]
            dice = [float(row["dice"]) for row in own if row["dice"] != "n/a"]
            # The control has no lesion: counted, not scored.
            assert len(dice) == 6 and own[-1]["dice"] == own[-1]["sensitivity"] == "n/a"
            assert (own[-1]["slices"], own[-1]["empty_slices"]) == ("4", "4")
            assert own[-1]["false_positive_share_empty"] != "n/a"
            suffix = "" if condition == "synthetic" else "_100"
            row = rows_of(study, "helps")[f"utility_dice_{condition}{suffix}"]
            assert float(row["value"]) == pytest.approx(np.mean(dice)) and row["n"] == "6"
            false = [float(row["false_positives_per_slice"]) for row in own]
            row = rows_of(study, "helps")[f"utility_false_positives_{condition}{suffix}"]
            assert float(row["value"]) == pytest.approx(np.mean(false)) and row["n"] == "7"


def test_f11_a_repeated_stage_gives_the_same_bytes(study):
    paths = study.paths
    outputs = [paths.utility("helps", 0), paths.utility_subjects("helps", 0), paths.segmenter(0, 100)]
    before = [path.read_bytes() for path in outputs]
    train_on_real(study, 0)
    evaluate_utility(study, "helps", 0)
    assert [path.read_bytes() for path in outputs] == before


@pytest.mark.parametrize(
    ("what", "section", "named"),
    [
        ("utility", {"shares": [0.5]}, ("utility_subjects.tsv", "50 % of the training subjects", "found 0")),
        ("utility", {"steps": 61}, ("segmenter-100.safetensors", "other slices, subjects or settings")),
        ("utility", None, ("zbin-00",)),
        ("segmenter", {"device": "mps"}, ("device mps",)),
    ],
)
def test_a_command_names_missing_and_mismatching_inputs(study, tmp_path, capsys, what, section, named):
    values = study.model_dump(mode="json")
    values["utility"] |= section or {}
    values["variants"] = {"helps" if section else "absent": {}}
    config = tmp_path / "study.json"
    config.write_text(json.dumps(values))
    assert cli.metrics([what, "--config", str(config), "--fold", "0"]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in named), message


def test_segmenters_of_real_slices_are_required_first(study, tmp_path):
    elsewhere = study.model_copy(update={"results_dir": str(tmp_path)})
    shutil.copytree(study.paths.root, elsewhere.paths.root)
    path = elsewhere.paths.utility_subjects("real", 0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path}.*slimdiff-segmenter"):
        evaluate_utility(elsewhere, "helps", 0)


def test_a_smaller_share_is_a_subset_of_a_larger_one():
    patients, controls = [f"p{i}" for i in range(9)], [f"c{i}" for i in range(5)]
    shares = (0.1, 0.25, 0.5, 1.0)
    chosen = nested_shares(patients, controls, shares, seed=3)
    for small, large in pairwise(shares):
        assert set(chosen[small]) <= set(chosen[large])
    counts = [[sum(name[0] == kind for name in chosen[share]) for kind in "pc"] for share in shares]
    assert counts == [[1, 0], [2, 1], [4, 2], [9, 5]]
    assert nested_shares(patients[::-1], controls, shares, seed=3) == chosen
    assert nested_shares(patients, controls, shares, seed=4)[0.5] != chosen[0.5]
    assert len(nested_shares(["p0"], [], (0.01,), seed=0)[0.01]) == 1


def test_all_scans_of_a_person_are_in_a_share_or_none_is(study, tmp_path):
    """Two training participants with a lesion, each a person, and then scans of one."""
    utility = study.utility.model_copy(update={"shares": (0.5, 1.0)})
    elsewhere = study.model_copy(update={"results_dir": str(tmp_path), "utility": utility})
    shutil.copytree(study.paths.root, elsewhere.paths.root)
    path, patients = elsewhere.paths.store / "store.json", set(PATIENTS[:2])
    plain = HeldOutJudge(elsewhere, 0)
    assert [len(patients & set(plain.chosen[share])) for share in utility.shares] == [1, 2]
    facts = json.loads(path.read_text()) | {"persons": {PATIENTS[1]: PATIENTS[0], PATIENTS[4]: PATIENTS[3]}}
    path.write_text(json.dumps(facts))
    judge = HeldOutJudge(elsewhere, 0)
    assert [len(patients & set(judge.chosen[share])) for share in utility.shares] == [2, 2]
    assert plain.persons == np.unique(plain.subjects).tolist() == np.unique(judge.subjects).tolist()
    assert judge.persons == [PATIENTS[3] if name == PATIENTS[4] else name for name in plain.persons]


def samples_with(*areas: int) -> Samples:
    masks = np.full((len(areas), 8, 8), -1, np.float16)
    for mask, area in zip(masks, areas, strict=True):
        mask.reshape(-1)[:area] = 0.4
    n = np.arange(len(areas))
    images = np.broadcast_to(n[:, None, None] / 10, masks.shape).astype(np.float16)
    return Samples(images, masks, 0 * n, 0 * n, n.astype(str))


def test_samples_are_selected_by_the_rule_of_the_store():
    pairs = pairs_of_samples(samples_with(0, 3, 6, 7), tau=0.0, min_slice_px=6)
    assert pairs.masks.sum(axis=(1, 2)).tolist() == [0, 6, 7]
    assert (10 * pairs.images[:, 0, 0]).round().tolist() == [0, 2, 3]
    assert not pairs_of_samples(samples_with(3, 6), tau=0.5, min_slice_px=0).with_lesion.any()


def test_samples_can_be_limited_per_class():
    drawn = pairs_of_samples(samples_with(*[0] * 30, *[4] * 20), tau=0.0, min_slice_px=0)
    real = pairs_of_samples(samples_with(*[0] * 4, *[4] * 6), tau=0.0, min_slice_px=0)
    few = limited(drawn, real, 1.5, seed=0)
    assert (few.with_lesion.sum(), (~few.with_lesion).sum()) == (9, 6)
    assert limited(drawn, real, 100, seed=0).with_lesion.sum() == 20
    assert limited(drawn, real, None, seed=0) is drawn


def test_held_out_slices_are_drawn_with_the_lesion_share_of_the_samples():
    with_lesion = np.array([True] * 6 + [False] * 30)
    cases = [([True, False], 6, 6), ([True], 6, 0), ([False] * 9, 0, 30), ([True] + [False] * 9, 3, 30)]
    for sample_classes, lesions, empty in cases:
        rows = same_share(with_lesion, np.array(sample_classes), seed=0)
        assert (with_lesion[rows].sum(), (~with_lesion[rows]).sum()) == (lesions, empty)
        assert len(set(rows.tolist())) == len(rows)


def test_pairs_of_one_class_can_be_joined():
    clean, lesion = (Pairs(*(part[kind::2] for part in toy(6, 1, 0.7))) for kind in (0, 1))
    assert (clean + lesion).with_lesion.tolist() == [False] * 3 + [True] * 3
