"""The slice store against what was put into the volumes, and z-bins against their formula."""

import hashlib
import json
import math
import re

import nibabel
import numpy as np
import pytest
from helpers.seals import unseal
from helpers.synthetic import ball, head, save_nifti

from slimdiff.config.slices import SlicesConfig
from slimdiff.data import priors as priors_module
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.priors import read_priors, write_priors, z_bin_priors
from slimdiff.data.slices import axial, build_store, tissue_extent
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes import foreground
from slimdiff.data.zbins import bin_centres, z_bin
from slimdiff.files import sha256

CONFIG = SlicesConfig(z_range=(11, 20), n_bins=5, min_lesion_mm2=36.0, min_tissue=0.05)


def scaled(seed: int) -> np.ndarray:
    volume = head(seed)
    return np.where(volume > 0, np.clip(volume / 70 - 1.5, -0.85, 1), -1).astype(np.float32)


def build(folder, volumes: dict, config=CONFIG, training=()):
    """volumes: name -> (image, lesion). Returns the opened store."""
    for name, (image, lesion) in volumes.items():
        save_nifti(folder / "volumes" / f"{name}_image.nii.gz", image.astype(np.float32))
        save_nifti(folder / "volumes" / f"{name}_mask.nii.gz", lesion.astype(np.uint8))
    rows = [Participant(name, "g", folder, folder, acquisition=f"acq{name}") for name in volumes]
    build_store(
        rows,
        lambda name, kind: folder / "volumes" / f"{name}_{kind}.nii.gz",
        config,
        folder / "slices",
        training,
    )
    return SliceStore.open(folder / "slices")


def brute_bin(z: int, z_min: int, z_max: int, n_bins: int) -> int:
    return math.floor((z - z_min) / (z_max - z_min + 1) * n_bins + 1e-9)


@pytest.mark.parametrize(
    ("z_min", "z_max", "n_bins"), [(34, 115, 30), (11, 20, 3), (0, 6, 7), (5, 5, 1), (21, 50, 6)]
)
def test_z_bin_is_the_formula(z_min, z_max, n_bins):
    z = np.arange(z_min, z_max + 1)
    bins = z_bin(z, z_min, z_max, n_bins)
    assert bins.tolist() == [brute_bin(int(value), z_min, z_max, n_bins) for value in z]
    assert set(bins.tolist()) == set(range(n_bins))
    assert (np.diff(bins) >= 0).all()


def test_the_paper_s_bins_hold_two_or_three_slices():
    counts = np.bincount(z_bin(np.arange(34, 116), 34, 115, 30))
    assert len(counts) == 30
    assert set(counts.tolist()) == {2, 3}
    assert counts.sum() == 82


@pytest.mark.parametrize(("z_min", "z_max", "n_bins"), [(34, 115, 30), (11, 20, 3)])
def test_bin_centres_lie_in_their_bins_evenly(z_min, z_max, n_bins):
    centres = bin_centres(z_min, z_max, n_bins)
    width = (z_max - z_min + 1) / n_bins
    np.testing.assert_allclose(centres, [z_min + width / 2 + b * width for b in range(n_bins)])
    # As edges of half-open intervals, so the centre belongs to its own bin.
    assert [int((c - z_min) / (z_max - z_min + 1) * n_bins) for c in centres] == list(range(n_bins))


def test_rows_run_from_anterior_and_columns_from_left():
    volume = np.zeros((4, 5, 3), np.float32)
    volume[0, 4, 1] = 1  # RAS: x 0 is left, the last y is anterior
    volume[3, 4, 1] = 2  # right, anterior
    volume[0, 0, 1] = 3  # left, posterior
    cut = axial(volume, 1)
    assert cut.shape == (5, 4)
    assert (cut[0, 0], cut[0, 3], cut[4, 0]) == (1, 2, 3)


def test_store_holds_exactly_the_kept_slices(tmp_path):
    volumes = {"b": (scaled(1), ball((20, 10, 15), 3)), "a": (scaled(2), np.zeros((32, 32, 32), bool))}
    store = build(tmp_path, volumes)
    expected = []
    for name, (image, lesion) in volumes.items():
        for z in range(11, 21):
            if (image[:, :, z] > -0.9).sum() >= 0.05 * 32 * 32:
                expected.append((name, z, image[:, ::-1, z].T, lesion[:, ::-1, z].T))
    assert store.participant.tolist() == [row[0] for row in expected]
    assert store.z.tolist() == [row[1] for row in expected]
    assert store.z_bin.tolist() == [brute_bin(row[1], 11, 20, 5) for row in expected]
    assert store.label.tolist() == [int(row[3].any()) for row in expected]
    assert (store.images.dtype, store.masks.dtype) == (np.float16, np.uint8)
    for i, (_, _, image, lesion) in enumerate(expected):
        # float16 rounds once, to the nearest: the store is exactly the volume's value in its type.
        np.testing.assert_array_equal(store.images[i], image.astype(np.float16))
        np.testing.assert_array_equal(store.masks[i], lesion)
    assert np.abs(store.images.astype(np.float64)).max() <= 1
    assert store.size == (32, 32)
    assert store.spacing_mm == 6.0
    assert store.rows_of(["a"]).tolist() == np.flatnonzero(store.participant == "a").tolist()


def test_small_lesions_are_dropped_and_counted(tmp_path):
    lesion = np.zeros((32, 32, 32), bool)
    for z, size in zip(range(11, 21), (0, 1, 2, 3, 4, 5, 0, 2, 3, 6), strict=True):
        lesion[10 : 10 + size, 15, z] = True
    config = CONFIG.model_copy(update={"min_lesion_mm2": 3 * 36.0})
    store = build(tmp_path, {"a": (scaled(1), lesion), "b": (scaled(2), lesion & False)}, config)
    assert store.z[store.participant == "a"].tolist() == [11, 14, 15, 16, 17, 19, 20]
    assert store.facts["dropped"]["lesion_too_small"] == 3
    assert store.facts["min_lesion_px"] == 3
    everything = build(
        tmp_path / "all", {"a": (scaled(1), lesion)}, config.model_copy(update={"min_lesion_mm2": 0.0})
    )
    assert everything.masks.sum() == lesion.sum()
    assert everything.facts["dropped"]["lesion_too_small"] == 0


def test_slices_without_tissue_are_dropped(tmp_path):
    image = scaled(1)
    image[:, :, 11:13] = -1
    image[:7, :7, 12] = 0  # 49 px of 1024 are 4.8 %
    other = scaled(2)
    store = build(tmp_path, {"a": (image, ball((16, 16, 16), 3)), "b": (other, other > 9)})
    assert store.z[store.participant == "a"].tolist() == list(range(13, 21))
    assert store.facts["dropped"]["too_little_tissue"] == 2
    image[7, 0:3, 12] = 0  # 52 px are 5.1 %
    store = build(tmp_path, {"a": (image, ball((16, 16, 16), 3)), "b": (other, other > 9)})
    assert store.z[store.participant == "a"].tolist() == list(range(12, 21))


def test_auto_range_is_the_training_subjects_brain(tmp_path):
    tall, short = scaled(1), scaled(2)
    short[:, :, :10] = -1
    short[:, :, 20:] = -1
    volumes = {"tall": (tall, ball((16, 16, 16), 2)), "short": (short, ball((16, 16, 16), 2))}
    config = CONFIG.model_copy(update={"z_range": "auto"})
    store = build(tmp_path, volumes, config, ["short"])
    assert store.facts["z_range"] == [10, 19]
    share = (tall > -0.9).mean(axis=(0, 1))
    brute = [z for z in range(32) if share[z] >= 0.05]
    both = build(tmp_path, volumes, config, ["short", "tall"])
    assert both.facts["z_range"] == [brute[0], brute[-1]] == list(tissue_extent([tall, short], config))
    assert store.z.min() >= 10 and store.z.max() <= 19


def test_a_participant_of_whom_nothing_is_kept_is_an_error_that_names_it(tmp_path):
    """F8: nobody is lost without a word."""
    volumes = {
        "a": (scaled(1), ball((14, 14, 15), 4)),
        "b": (np.full((32, 32, 32), -1.0), np.zeros((32, 32, 32))),
    }
    with pytest.raises(DataError, match=r"within z 11 to 20, found none of b.*data\.exclude"):
        build(tmp_path, volumes)
    assert not (tmp_path / "slices" / "images.npy").exists()


def test_a_patient_whose_lesion_lies_outside_of_the_range_is_named(tmp_path):
    # Slices 5 to 9 lie below the range of 11 to 20; of slices 8 to 14 the lower three.
    volumes = {
        "a": (scaled(1), ball((14, 14, 7), 2.5)),
        "b": (scaled(2), ball((14, 14, 11), 3.5)),
        "c": (scaled(3), np.zeros((32, 32, 32))),
    }
    facts = build(tmp_path, volumes).facts
    assert facts["lesion_outside_z_range"] == {"a": 5, "b": 3}
    # c has a mask without lesion.
    assert facts["patients_without_lesion_slice"] == ["a", "c"]


def test_a_bin_without_slices_is_an_error_that_names_it(tmp_path):
    image = scaled(1)
    image[:, :, 13:15] = -1
    with pytest.raises(DataError, match=r"5 z-bins, found none in z-bin 1.*z_range"):
        build(tmp_path, {"a": (image, ball((16, 16, 18), 2))})
    assert not list((tmp_path / "slices").iterdir())


def test_no_lesion_slice_at_all_is_an_error(tmp_path):
    config = CONFIG.model_copy(update={"min_lesion_mm2": 36.0 * 500})
    with pytest.raises(DataError, match=r"500 px.*min_lesion_mm2"):
        build(tmp_path, {"a": (scaled(1), ball((16, 16, 30), 1))}, config)


def test_more_bins_than_slices_of_the_brain_is_an_error(tmp_path):
    image = scaled(1)
    image[:, :, :15] = -1
    image[:, :, 18:] = -1
    config = CONFIG.model_copy(update={"z_range": "auto"})
    with pytest.raises(DataError, match="expected at most 3 z-bins for slices 15 to 17, found 5"):
        build(tmp_path, {"a": (image, ball((16, 16, 16), 1))}, config)


def test_volumes_of_different_grids_are_an_error(tmp_path):
    save_nifti(tmp_path / "volumes/b_image.nii.gz", np.ones((16, 32, 32), np.float32))
    save_nifti(tmp_path / "volumes/b_mask.nii.gz", np.ones((16, 32, 32), np.uint8))
    save_nifti(tmp_path / "volumes/a_image.nii.gz", scaled(1))
    save_nifti(tmp_path / "volumes/a_mask.nii.gz", np.ones((32, 32, 32), np.uint8))
    rows = [Participant(name, "g", tmp_path, tmp_path) for name in "ab"]
    with pytest.raises(DataError, match="expected one grid"):
        build_store(rows, lambda n, k: tmp_path / "volumes" / f"{n}_{k}.nii.gz", CONFIG, tmp_path / "slices")


def test_oblique_volumes_share_their_grid(tmp_path):
    """Voxel sizes recovered from tilted affines differ in the last digit; that is no other grid."""
    for name, degrees in (("a", 0), ("b", 7), ("c", 33)):
        angle = np.deg2rad(degrees)
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        for kind, array in (("image", scaled(1)), ("mask", ball((16, 16, 16), 3).astype(np.uint8))):
            result = nibabel.Nifti1Image(array, turn @ np.diag([1.1, 1.1, 1.1, 1]))
            result.set_qform(result.affine, code="scanner")
            (tmp_path / "volumes").mkdir(exist_ok=True)
            nibabel.save(result, tmp_path / "volumes" / f"{name}_{kind}.nii.gz")
    rows = [Participant(name, "g", tmp_path, tmp_path) for name in "abc"]
    config = CONFIG.model_copy(update={"min_lesion_mm2": 0.0})
    build_store(rows, lambda n, k: tmp_path / "volumes" / f"{n}_{k}.nii.gz", config, tmp_path / "slices")
    assert len(SliceStore.open(tmp_path / "slices")) == 30


def test_hashes_are_of_the_files_and_follow_the_content(tmp_path):
    volumes = {"a": (scaled(1), ball((16, 16, 16), 3))}
    first = build(tmp_path / "1", volumes)
    for name, file in (("images", "images.npy"), ("masks", "masks.npy"), ("slices", "slices.tsv")):
        digest = hashlib.sha256((first.folder / file).read_bytes()).hexdigest()
        assert first.facts["sha256"][name] == digest
    again = build(tmp_path / "2", volumes)
    other = build(tmp_path / "3", {"a": (scaled(1), ball((16, 16, 16), 4))})
    assert first.data_hash == again.data_hash != other.data_hash
    assert not [path for path in first.folder.iterdir() if path.name.startswith(".")]


def test_a_store_that_does_not_fit_together_is_refused(tmp_path):
    store = build(tmp_path, {"a": (scaled(1), ball((16, 16, 16), 3))})
    np.save(store.folder / "images.npy", np.zeros((3, 32, 32), np.float16))
    with pytest.raises(ValueError, match="slices"):
        SliceStore.open(store.folder)
    (store.folder / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"store\.json"):
        SliceStore.open(store.folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_bins", None, "n_bins: expected a whole number, found null"),
        ("spacing_mm", "2", "spacing_mm: expected a number"),
        ("height", "feet", "height: expected"),
        ("bin_centres", [1.5], "bin_centres: expected 2 numbers, found 1"),
        ("persons", {"a": 3}, "persons.a: expected text"),
        ("sha256", {"images": "0"}, "sha256: no masks, slices"),
    ],
)
def test_a_record_of_the_store_with_another_value_is_refused_by_key(tmp_path, key, value, message):
    path = build(tmp_path, {"a": (scaled(1), ball((16, 16, 16), 3))}).folder / "store.json"
    unseal(path)
    facts = json.loads(path.read_text()) | {"n_bins": 2, "bin_centres": [1.0, 2.0]}
    path.write_text(json.dumps(facts))
    SliceStore.open(path.parent)
    path.write_text(json.dumps(facts | {key: value}))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        SliceStore.open(path.parent)


def test_a_row_of_the_store_without_a_number_is_refused_by_line(tmp_path):
    path = build(tmp_path, {"a": (scaled(1), ball((16, 16, 16), 3))}).folder / "slices.tsv"
    record = path.with_name("store.json")
    first, second, *others = path.read_text().splitlines(keepends=True)
    cells = second.split("\t")
    for column, cell in ((1, "top"), (2, "-1"), (3, "9" * 5000)):
        broken = "\t".join([*cells[:column], cell, *cells[column + 1 :]])
        path.write_text("".join([first, broken, *others]))
        unseal(path, record)
        facts = json.loads(record.read_text())
        facts["sha256"]["slices"] = sha256(path)
        record.write_text(json.dumps(facts))
        with pytest.raises(
            ValueError, match=rf"slices\.tsv, row 1: {first.split()[column]}: expected a whole"
        ):
            SliceStore.open(path.parent)


def test_demo_constants_become_pixels(tmp_path):
    """30 px of the paper's grid are 46.875 mm2; here 36 mm2 a pixel."""
    store = build(
        tmp_path,
        {"a": (scaled(1), ball((16, 16, 16), 3))},
        CONFIG.model_copy(update={"min_lesion_mm2": 107.0}),
    )
    assert store.facts["min_lesion_px"] == 3
    assert json.loads((store.folder / "store.json").read_text())["min_lesion_px"] == 3


@pytest.fixture
def prior_settings(monkeypatch):
    """Replaces constants of the priors; at first all that changes what is thresholded is off."""

    def put(**values):
        for name, value in values.items():
            monkeypatch.setattr(foreground if name.startswith("PRIOR_") else priors_module, name, value)

    put(PRIOR_SIGMA_MM=0.0, THRESHOLD=0.5, DILATE_MM=0.0, LOW_BINS=0, PRIOR_MIN_COMPONENT_MM2=0.0)
    return put


def discs(radii, side=32):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.stack([np.where(np.hypot(x, y) < r, 0.5, -1.0) for r in radii]).astype(np.float16)


def test_prior_is_where_enough_slices_have_brain(prior_settings):
    images = discs([4, 6, 8, 10, 12])
    bins = np.array([0, 0, 0, 0, 1])
    priors = z_bin_priors(images, bins, 3, 1.0)
    occupancy = (images[:4].astype(float) > 0).mean(axis=0)
    np.testing.assert_array_equal(priors[0], occupancy >= 0.5)
    np.testing.assert_array_equal(priors[1], images[4] > 0)
    np.testing.assert_array_equal(priors[2], priors[1])  # no slice: the nearest bin's
    prior_settings(THRESHOLD=0.8)
    stricter = z_bin_priors(images, bins, 3, 1.0)
    np.testing.assert_array_equal(stricter[0], occupancy >= 0.8)


def test_prior_is_dilated_in_mm(prior_settings):
    images = discs([6])
    plain = z_bin_priors(images, np.array([0]), 1, 2.0)[0]
    prior_settings(DILATE_MM=4.0)
    grown = z_bin_priors(images, np.array([0]), 1, 2.0)[0]
    wanted = plain.copy()
    for _ in range(2):  # 4 mm are 2 px of 2 mm; one cross-shaped step each
        step = wanted.copy()
        step[1:] |= wanted[:-1]
        step[:-1] |= wanted[1:]
        step[:, 1:] |= wanted[:, :-1]
        step[:, :-1] |= wanted[:, 1:]
        wanted = step
    np.testing.assert_array_equal(grown, wanted)


def test_prior_keeps_further_components_in_low_bins_only(prior_settings):
    image = np.full((1, 32, 32), -1, np.float16)
    image[0, 2:12, 2:12] = 0.5  # 100 px
    image[0, 16:22, 16:22] = 0.5  # 36 px
    image[0, 26:29, 26:29] = 0.5  # 9 px: under a tenth
    image[0, 16:20, 2:6] = 0.5  # 16 px
    image[0, 5:7, 5:7] = -1  # a hole
    prior_settings(LOW_BINS=1)
    bins = np.array([0, 1])
    low, high = z_bin_priors(np.repeat(image, 2, axis=0), bins, 2, 1.0)
    filled = image[0] > 0
    filled[5:7, 5:7] = True
    only_first = filled.copy()
    only_first[:, 12:] = False
    only_first[12:] = False
    np.testing.assert_array_equal(high, only_first)
    filled[26:29, 26:29] = False
    np.testing.assert_array_equal(low, filled)
    prior_settings(PRIOR_MIN_COMPONENT_MM2=150.0)
    assert not z_bin_priors(image, np.array([0]), 1, 1.0).any()
    assert z_bin_priors(image, np.array([0]), 1, 1.5).any()  # 96 px of 2.25 mm2


def test_prior_ignores_intensity_scale(prior_settings):
    images = discs([5, 9, 9])
    bins = np.array([0, 0, 0])
    one = z_bin_priors(images, bins, 1, 1.0)
    two = z_bin_priors(images * np.float16(0.5), bins, 1, 1.0)
    np.testing.assert_array_equal(one, two)


def test_priors_of_a_fold_see_training_slices_only(prepared, store):
    """The command takes training rows; test subjects' slices, however odd, change nothing."""
    from slimdiff.cli import priors as command
    from slimdiff.data.folds import read_folds
    from slimdiff.stages import config_of

    assert command(["--config", config_of("priors", prepared), "--fold", "0"]) == 0
    found = read_priors(prepared.paths.prior(0))
    train = store.rows_of(read_folds(prepared.paths.folds, 0)["train"])
    wanted = z_bin_priors(np.asarray(store.images)[train], store.z_bin[train], 3, 6.0)
    np.testing.assert_array_equal(found, wanted)
    assert 0.1 < found.mean() < 0.9
    everything = np.array(store.images)
    held_out = np.setdiff1d(np.arange(len(store)), train)
    everything[held_out] = 1 - 2 * (np.indices((32, 32)).sum(0) < 20)
    changed = z_bin_priors(everything[train], store.z_bin[train], 3, 6.0)
    np.testing.assert_array_equal(changed, found)
    leaky = z_bin_priors(everything, store.z_bin, 3, 6.0)
    assert (leaky != found).any()


def test_priors_round_trip_without_pickle(tmp_path):
    priors = np.random.default_rng(0).random((3, 4, 5)) > 0.5
    write_priors(tmp_path / "p" / "fold-0.npz", priors)
    np.testing.assert_array_equal(read_priors(tmp_path / "p" / "fold-0.npz"), priors)
