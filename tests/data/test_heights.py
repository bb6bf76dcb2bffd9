"""z-bins by slice number, by mm above the brain's lowest slice, and by relative height of the brain."""

import hashlib
from fractions import Fraction

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimdiff.config import ConfigError, study_from_mapping
from slimdiff.config.slices import SlicesConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.slices import build_store
from slimdiff.data.store import SliceStore
from slimdiff.data.zbins import ZBins, heights_of
from slimdiff.export.cases import affine_at_height
from slimdiff.files import read_table


@given(st.integers(2, 90), st.integers(1, 30))
def test_relative_bins_are_the_exact_quotients(slices, n_bins):
    bins = ZBins("relative", (0.0, 1.0), n_bins).of(heights_of("relative", slices, (0, slices - 1), 4.0))
    exact = [min(n_bins - 1, Fraction(z, slices - 1) * n_bins // 1) for z in range(slices)]
    assert bins.tolist() == exact


def test_heights_start_at_the_lowest_slice_with_brain():
    assert heights_of("slice", 4, (), 5.0).tolist() == [0, 1, 2, 3]
    assert heights_of("mm", 5, (1, 3), 5.0).tolist() == [-5, 0, 5, 10, 15]
    assert heights_of("relative", 5, (1, 3), 5.0).tolist() == [-0.5, 0, 0.5, 1, 1.5]
    z_bins = ZBins("mm", (5.0, 15.0), 2)
    assert z_bins.inside(np.array([4.9, 5.0, 10.0, 15.0, 15.1])).tolist() == [False, True, True, True, False]
    assert z_bins.of(np.array([5.0, 9.9, 10.0, 15.0])).tolist() == [0, 0, 1, 1]
    assert z_bins.centres.tolist() == [7.5, 12.5]


STACKS = {"a": (10, 6.0, (2, 8)), "b": (25, 3.0, (3, 21)), "c": (16, 4.0, (0, 15))}
"""name: slices, their distance in mm, lowest and highest slice with brain."""


def store_of(folder, stacks=STACKS, training=(), **slices) -> SliceStore:
    """The slice store of volumes of 32 x 40 pixels of 2 mm, with a lesion in the middle of each brain."""
    for name, (count, slice_mm, (lowest, highest)) in stacks.items():
        image, lesion = np.full((32, 40, count), -1, np.float32), np.zeros((32, 40, count), np.uint8)
        image[6:26, 5:35, lowest : highest + 1] = 0.25
        image[0, 0] = np.linspace(-0.9, 0.9, count)  # tells the slices apart, and is no tissue by its size
        lesion[10:16, 10:16, (lowest + highest) // 2] = 1
        (folder / "volumes").mkdir(parents=True, exist_ok=True)
        for kind, values in (("image", image), ("mask", lesion)):
            path = folder / "volumes" / f"{name}_{kind}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, slice_mm, 1])), path)
    config = SlicesConfig(**{"n_bins": 3, "height": "relative", **slices})
    rows = [Participant(name, "g", folder, folder) for name in stacks]
    build_store(
        rows, lambda name, kind: folder / "volumes" / f"{name}_{kind}.nii.gz", config, folder / "s", training
    )
    return SliceStore.open(folder / "s")


def test_every_stack_fills_the_relative_bins_by_its_own_brain(tmp_path):
    store = store_of(tmp_path)
    for name, (_, _, (lowest, highest)) in STACKS.items():
        rows = store.rows_of([name])
        assert store.z[rows].tolist() == list(range(lowest, highest + 1)), "number in the volume"
        exact = [min(2, Fraction(z - lowest, highest - lowest) * 3 // 1) for z in store.z[rows].tolist()]
        assert store.z_bin[rows].tolist() == exact
        assert set(exact) == {0, 1, 2}
    assert store.facts["z_range"] == [0, 1] and store.height == "relative"
    assert store.facts["brain_mm"] == {"a": 36.0, "b": 54.0, "c": 60.0}
    assert store.slice_mm == 4.0 and store.spacing_mm == 2.0
    assert store.bin_positions == pytest.approx([100 / 6, 50, 500 / 6]), "per cent, distinct for a network"
    table = read_table(store.folder / "slices.tsv", ("height",))
    assert [float(row["height"]) for row in table[:7]] == pytest.approx(np.arange(7) / 6, abs=1e-4)


def test_mm_bins_are_mm_above_each_brain_s_lowest_slice(tmp_path):
    store = store_of(tmp_path, height="mm", n_bins=5, training=["a", "b"])
    assert store.facts["z_range"] == [0, 54], "of the training subjects"
    for name, (_, slice_mm, (lowest, _)) in STACKS.items():
        rows = store.rows_of([name])
        mm = (store.z[rows] - lowest) * slice_mm
        assert mm.max() <= 54
        assert store.z_bin[rows].tolist() == np.minimum(mm * 5 // 54, 4).tolist()
    assert len(store.rows_of(["c"])) == 14, "56 and 60 mm are above the z-range"
    fixed = store_of(tmp_path / "fixed", height="mm", n_bins=2, z_range=(12.0, 36.0))
    assert fixed.z[fixed.rows_of(["a"])].tolist() == [4, 5, 6, 7, 8]
    assert fixed.z_bin[fixed.rows_of(["a"])].tolist() == [0, 0, 1, 1, 1]
    assert fixed.bin_positions == [18, 30]


def test_samples_lie_at_the_height_of_their_bin(tmp_path):
    grid = (32, 40, 25)
    relative = affine_at_height(grid, store_of(tmp_path), 1)
    assert relative[2, 3] == pytest.approx(0.5 * 54), "half of the median brain"
    assert np.diag(relative).tolist() == [2, 2, 4, 1] and relative[:2, 3].tolist() == [-31, -39]
    mm = affine_at_height(grid, store_of(tmp_path / "mm", height="mm", z_range=(0.0, 60.0)), 2)
    assert mm[2, 3] == pytest.approx(50)


@pytest.mark.parametrize(
    ("stacks", "slices", "message"),
    [
        (
            STACKS,
            {"height": "slice", "z_range": (0, 9)},
            "expected one grid.*slices.height to mm or relative",
        ),
        ({"a": STACKS["a"]}, {"n_bins": 30}, "none in z-bin 1, .*lower slices.n_bins .*7 slices each"),
        (
            {"a": (5, 4.0, (2, 2))},
            {},
            "a: slices.height relative: expected at least two slices with brain.*slice 2",
        ),
        ({"a": (5, 4.0, (3, 2))}, {}, "a: slices.height relative: expected slices in which.*found none"),
        (STACKS, {"height": "mm", "z_range": (0.0, 20.0), "n_bins": 10}, "none in z-bin.*slices.n_bins"),
    ],
)
def test_what_cannot_be_binned_is_refused(tmp_path, stacks, slices, message):
    with pytest.raises(DataError, match=message):
        store_of(tmp_path, stacks, **slices)
    assert not (tmp_path / "s" / "store.json").exists()


NATIVE = {"spacing_mm": [1.25, 1.25, "native"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"preprocess": {"spacing_mm": [1.25, "native", "native"]}},
            ("preprocess.spacing_mm", "only as the third"),
        ),
        ({"preprocess": {"spacing_mm": ["native"] * 3}}, ("preprocess.spacing_mm", "only as the third")),
        (
            {"preprocess": {"spacing_mm": [1.25, 1.0, "native"]}},
            ("preprocess.spacing_mm", "same number", "[1.25, 1.0"),
        ),
        (
            {"preprocess": {"spacing_mm": [1.25, 4.0]}},
            ("preprocess.spacing_mm", "three values", "[1.25, 4.0]"),
        ),
        (
            {"preprocess": {"spacing_mm": [1.25, 1.25, 25.0]}},
            ("preprocess.spacing_mm", "at most 20", "native", "25"),
        ),
        ({"preprocess": {"spacing_mm": [0, 0, "native"]}}, ("preprocess.spacing_mm", "greater than 0")),
        ({"preprocess": {"spacing_mm": "native"}}, ("preprocess.spacing_mm", "number of mm", '"native"')),
        (
            {"preprocess": {**NATIVE, "registration": {"transform": "affine"}}},
            ("spacing_mm", "native", "registration.transform affine", "transform: none"),
        ),
        (
            {"preprocess": NATIVE, "slices": {"height": "slice"}},
            ("slices.height", "native", "relative or mm"),
        ),
        ({"preprocess": NATIVE, "slices": {"z_range": [0, 120]}}, ("slices", "0 to 1", "height: mm")),
        ({"preprocess": NATIVE, "slices": {"z_range": [0.1, 0.9]}}, ("z_range", "height to mm or relative")),
        ({"slices": {"height": "mm", "z_range": [0, 20]}}, ("z_range 0, 20", "1 mm a z-bin", "n_bins 30")),
        ({"slices": {"height": "mm", "z_range": [20, 20]}}, ("z_range 20, 20", "below the last")),
        ({"slices": {"height": "mm", "z_range": [-5, 120]}}, ("slices.z_range", "at least 0", "-5")),
    ],
)
def test_configurations_that_cannot_hold_are_refused(values, words):
    with pytest.raises(ConfigError) as caught:
        study_from_mapping(values)
    for word in words:
        assert word in str(caught.value)


def test_native_slices_have_relative_heights_and_two_dimensional_images_unless_set():
    study = study_from_mapping({"preprocess": NATIVE})
    assert (study.slices.height, study.slices.z_range, study.data.two_dimensional) == (
        "relative",
        "auto",
        "include",
    )
    assert (study.preprocess.pixel_mm, study.preprocess.slice_mm, study.preprocess.voxel) == (
        1.25,
        None,
        "1.25 x 1.25 x native mm",
    )
    again = study_from_mapping(study.model_dump(mode="json"))
    assert again == study, "as a rule passes it"
    own = study_from_mapping(
        {
            "preprocess": NATIVE,
            "slices": {"height": "mm", "z_range": [0, 120]},
            "data": {"two_dimensional": "exclude"},
        }
    )
    assert (own.slices.height, own.slices.z_range, own.data.two_dimensional) == ("mm", (0, 120), "exclude")
    plain = study_from_mapping({})
    assert (plain.slices.height, plain.slices.z_range, plain.data.two_dimensional) == (
        "slice",
        (34, 115),
        "exclude",
    )


def test_an_isotropic_study_has_the_bits_of_before(prepared, store):
    """Hashes of the tiny study's volumes, slices and table before grids could be anisotropic."""
    assert {name: digest[:16] for name, digest in store.facts["sha256"].items()} == {
        "images": "4d946d558f162326",
        "masks": "927dc4a72b6c37ea",
        "slices": "68cb47a1272d0700",
    }
    digest = hashlib.sha256()
    for number in range(1, 9):
        for kind in ("image", "mask"):
            volume = nibabel.load(prepared.paths.volume(f"sub-{number:02d}", kind))
            digest.update(np.asarray(volume.dataobj).tobytes())
            digest.update(volume.affine.tobytes())
    assert digest.hexdigest()[:16] == "7369ff56163cbd8a"
