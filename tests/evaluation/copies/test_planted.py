"""Copies that are planted into drawn slices are found, and new slices are not flagged."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.copies import found_in_spaces
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.memorisation import memorisation_axis
from slimdiff.evaluation.copies.contrastive import Embedding, learnt_once, trained_embedding
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.metrics.memorisation import memorisation
from slimdiff.generation.samples import Samples
from slimdiff.stored_rows import ChosenRows

TRAIN, TEST, BINS, SIDE = 40, 40, 3, 48


def drawn_subject(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images float16 (BINS, SIDE, SIDE) in [-1, 1] and masks {0, 1}: a textured brain with a lesion in each slice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    brain = np.hypot(x / rng.uniform(0.75, 1), y / rng.uniform(0.9, 1)) < 0.42 * SIDE
    texture = ndimage.gaussian_filter(rng.standard_normal((BINS, SIDE, SIDE)), (0, 2, 2))
    images = np.where(brain, np.clip(0.25 * texture / texture.std() - 0.2, -0.9, 1), -1)
    rough = ndimage.gaussian_filter(rng.standard_normal((BINS, SIDE, SIDE)), (0, 1.5, 1.5))
    right, down = rng.uniform(-8, 8, 2)
    masks = np.hypot(x - right, y - down) + 25 * rough < rng.uniform(4, 6)
    return np.where(masks, 0.3 * images + 0.6, images).astype(np.float16), masks.astype(np.uint8)


@pytest.fixture(scope="module")
def store():
    names = [f"train-{i:02d}" for i in range(TRAIN)] + [f"test-{i:02d}" for i in range(TEST)]
    images, masks = (
        np.concatenate(part) for part in zip(*map(drawn_subject, range(len(names))), strict=True)
    )
    return SimpleNamespace(
        images=images,
        masks=masks,
        participant=np.repeat(names, BINS),
        person=np.repeat(names, BINS),
        z_bin=np.tile(np.arange(BINS), len(names)),
        label=np.ones(len(images), int),
        n_bins=BINS,
        spacing_mm=3.0,
    )


@pytest.fixture(scope="module")
def searched(store, tmp_path_factory):
    """A function (images, masks in [-1, 1], z-bins) -> the evaluation of these samples."""
    cache, rows = FeatureCache(tmp_path_factory.mktemp("features")), np.arange(len(store.images))

    def of(images, masks, z_bin, store=store, **settings) -> FoldEvaluation:
        config = EvaluationConfig(
            **{"bootstrap": 20, "min_component_mm2": 72.0, "seed": 0, "tau": 0.0, "copies": True, **settings}
        )
        ids = np.array([f"s{i:03d}" for i in range(len(images))])
        parts = (np.asarray(images, np.float16), np.asarray(masks, np.float16))
        samples = Samples(*parts, z_bin, np.ones(len(images), int), ids)
        given = (store, rows[TRAIN * BINS :], rows[: TRAIN * BINS], samples, config, cache)
        return FoldEvaluation(*given, {"study": "s", "variant": "v", "fold": 0})

    return of


def flagged(evaluation: FoldEvaluation, space: str = "joint") -> tuple[float, np.ndarray]:
    """Share of suspects, and the training slice found for each sample."""
    (distance, index), (of_test, _) = found_in_spaces(evaluation)[space]
    persons = evaluation.store.person[evaluation.test]
    return memorisation(distance, of_test, persons, 0).suspect_share, index


def moved(images: np.ndarray, **how) -> np.ndarray:
    return np.stack([ndimage.affine_transform(image, **how, order=1, cval=-1) for image in images])


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    return np.stack([ndimage.rotate(image, degrees, reshape=False, order=1, cval=-1) for image in images])


PLANTED = {
    "noise": lambda x: x + np.random.default_rng(0).normal(0, 0.1, x.shape),
    "shift": lambda x: np.roll(x, 1, axis=2),
    "rotation 2": lambda x: rotated(x, 2),
    "rotation 5": lambda x: rotated(x, 5),
    "blur": lambda x: np.stack([ndimage.gaussian_filter(image, 1) for image in x]),
    "mirror": lambda x: x[:, :, ::-1],
    "gain": lambda x: 0.9 * (x + 1) - 1,
    "gamma": lambda x: 2 * ((x + 1) / 2) ** 1.2 - 1,
}


@pytest.mark.parametrize("alteration", PLANTED)
def test_altered_copies_are_found(store, searched, alteration):
    n = TRAIN * BINS
    images = np.clip(PLANTED[alteration](store.images[:n].astype(np.float32)), -1, 1)
    for space in ("joint", "learnt"):
        share, index = flagged(searched(images, np.full(images.shape, -1), store.z_bin[:n]), space)
        assert share >= 0.95
        assert (index == np.arange(n)).mean() >= 0.95


def test_means_of_two_training_slices_are_found(store, searched):
    n = TRAIN * BINS
    images = store.images[:n].astype(np.float32)
    means = (images + np.roll(images, 7 * BINS, axis=0)) / 2
    evaluation = searched(means, np.full(means.shape, -1), store.z_bin[:n])
    for space in ("joint", "means"):
        share, index = flagged(evaluation, space)
        assert share >= 0.95
        assert np.isin((np.arange(n) - index) % n, (0, 7 * BINS)).mean() >= 0.95


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("move", [(0.0, 0.0), (5.0, -3.0), (0.5, 0.5)])
def test_a_lesion_in_another_slice_is_found(store, searched, move, mirrored):
    n = TRAIN * BINS
    images, masks = store.images[:n].astype(np.float32), store.masks[:n].astype(np.float32)
    if mirrored:
        images, masks = images[:, :, ::-1], masks[:, :, ::-1]
    images = np.stack([ndimage.shift(image, move, order=1, mode="nearest") for image in images])
    masks = np.stack([ndimage.shift(mask, move, order=1) for mask in masks])
    host = np.concatenate([drawn_subject(5000 + i)[0] for i in range(TRAIN)]).astype(np.float32)
    evaluation = searched(masks * images + (1 - masks) * host, 2 * masks - 1, store.z_bin[:n])
    for space in ("joint", "lesions"):
        share, index = flagged(evaluation, space)
        assert share >= 0.85
        assert (index == np.arange(n)).mean() >= 0.85


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_new_slices_are_not_flagged_even_if_they_are_smooth(searched, blur):
    """Smooth slices are closer to everything: in pixels, blurred held-out slices were taken for copies."""
    parts = [drawn_subject(1000 + i) for i in range(60)]
    images, masks = (np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True))
    images = np.stack([ndimage.gaussian_filter(image, blur) for image in images])
    evaluation = searched(images, 2 * masks - 1, np.tile(np.arange(BINS), 60))
    for space in ("joint", "learnt", "means", "lesions"):
        # The threshold is the smallest of 60 distances: on average 1 in 61 new slices is below it.
        assert flagged(evaluation, space)[0] <= 0.09


def test_rows_of_every_space_and_the_joint_one_first(store, searched, alexnet):
    evaluation = searched(store.images[:9], 2.0 * store.masks[:9] - 1, store.z_bin[:9])
    memorisation_axis(evaluation)
    for metric in ("suspect_share", "suspect_share_check", "suspect_share_ref", "memorisation_ratio"):
        rows = [row for row in evaluation.rows if row["metric"] == metric and row["z_bin"] == "all"]
        assert [row["extractor"] for row in rows] == [
            "joint",
            "learnt",
            "means",
            "lesions",
            "alexnet",
            "pixels",
        ]
        assert all(math.isfinite(row["value"]) for row in rows)
    assert evaluation.nearest[0]["space"] == "joint"
    assert all(row["flagged"] for row in evaluation.nearest[:9])
    off = searched(store.images[:9], 2.0 * store.masks[:9] - 1, store.z_bin[:9], copies=False)
    memorisation_axis(off)
    assert {row["extractor"] for row in off.rows} == {"alexnet", "pixels"}


def test_few_held_out_subjects_with_a_lesion_give_no_value_and_a_reason(store, searched, alexnet):
    label = store.label.copy()
    label[(TRAIN + 3) * BINS :] = 0
    few = SimpleNamespace(**{**vars(store), "label": label})
    evaluation = searched(store.images[:9], 2.0 * store.masks[:9] - 1, store.z_bin[:9], store=few)
    memorisation_axis(evaluation)
    own = [row for row in evaluation.rows if row["extractor"] == "lesions"]
    assert own and all(math.isnan(row["value"]) for row in own)
    assert {row["reason"] for row in own} == {"3 held-out subjects with a lesion, at least 5 are required"}
    joint = [row for row in evaluation.rows if row["extractor"] == "joint" and row["z_bin"] == "all"]
    assert all(math.isfinite(row["value"]) for row in joint)


def test_the_same_slices_and_seed_give_the_same_weights_and_another_seed_others(store, tmp_path, monkeypatch):
    images, z_bin = store.images[:60], store.z_bin[:60]
    first, second, other = (
        list(trained_embedding(images, z_bin, seed, "cpu").parameters()) for seed in (3, 3, 4)
    )
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_a_learnt_network_is_read_again_and_a_damaged_file_is_made_again(store, tmp_path, monkeypatch):
    import torch

    given = (store.images[:60], store.z_bin[:60], 3, torch.device("cpu"))
    first = list(learnt_once(tmp_path, *given).parameters())
    (file,) = tmp_path.glob("copies-*.npy")
    trained = []
    monkeypatch.setattr(
        "slimdiff.evaluation.copies.contrastive.trained_embedding",
        lambda *args: trained.append(1) or trained_embedding(*args),
    )
    again = list(learnt_once(tmp_path, *given).parameters())
    assert not trained and all((a == b).all() for a, b in zip(first, again, strict=True))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    after = list(learnt_once(tmp_path, *given).parameters())
    assert trained and all((a == b).all() for a, b in zip(first, after, strict=True))


def test_the_network_has_half_a_million_weights_at_most():
    assert sum(weights.numel() for weights in Embedding((64, 64)).parameters()) < 500_000


def test_stacks_that_are_read_row_by_row_give_the_same(store, searched):
    images, masks = store.images[:30], (2.0 * store.masks[:30] - 1).astype(np.float16)
    one = searched(images, masks, store.z_bin[:30])
    other = searched(images, masks, store.z_bin[:30])
    rows = np.arange(30)
    other.samples = Samples(
        ChosenRows(images, rows),
        ChosenRows(masks, rows),
        store.z_bin[:30],
        np.ones(30, int),
        rows.astype(str),
    )
    for space, (found, _) in found_in_spaces(one).items():
        for a, b in zip(found, found_in_spaces(other)[space][0], strict=True):
            assert np.array_equal(a, b, equal_nan=True)
